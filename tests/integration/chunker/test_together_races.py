"""Parts of one session at one chunker: what threads do between each other's steps harms nobody."""

from typing import Any

import pytest

from libs.catalogdb.sessions.positions import start_offset
from libs.kafka.consumer import Partition
from services.chunker.parts.positions import Positions
from tests.integration.chunker.test_together import Chunker, chunkers
from tests.support.catalog import CatalogSite

__all__ = ["chunkers"]

U_AND_V = [Partition("backcast.block-changes", number) for number in (0, 1)]


@pytest.fixture
def begun(chunkers: Any) -> Chunker:
    """A chunker that works on u, and has v with it."""
    chunker: Chunker = chunkers("u", "v")
    chunker.wired.positions.note_read(dict.fromkeys(U_AND_V, 0))
    chunker.start("u")
    chunker.batch("u")
    chunker.wired.renewal.look_after()
    return chunker


def begin_v(chunker: Chunker) -> None:
    """It reads the beginning of v, and nobody has recorded yet how v began."""
    chunker.start("v")
    chunker.wired.positions.note_read(dict.fromkeys(U_AND_V, 1))


def starts(site: CatalogSite) -> list[int | None]:
    """Where a successor begins to read."""
    return [start_offset(site.chunker, at.topic, at.number) for at in U_AND_V]


def test_a_successor_reads_a_capture_that_was_lost_before_it_was_recorded(
    site: CatalogSite, begun: Chunker
) -> None:
    begin_v(begun)
    begun.wired.attempts.drop_partitions(frozenset(U_AND_V))
    begun.wired.renewal.look_after()
    assert starts(site) == [0, 0]


def test_a_successor_reads_a_capture_that_was_lost_while_positions_are_stored(
    site: CatalogSite, begun: Chunker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partitions even come back, and are read on, before the look at the parts in work."""
    read = Positions.read

    def lost_after(positions: Positions) -> Any:
        monkeypatch.undo()
        begin_v(begun)
        found = read(positions)
        begun.wired.attempts.drop_partitions(frozenset(U_AND_V))
        positions.note_read(found)
        return found

    monkeypatch.setattr(Positions, "read", lost_after)
    begun.wired.renewal.look_after()
    assert starts(site) == [0, 0]


def test_a_successor_reads_a_capture_that_was_left_at_the_end_of_the_process(
    site: CatalogSite, begun: Chunker
) -> None:
    begin_v(begun)
    begun.wired.attempts.close()
    begun.wired.renewal.look_after()
    assert starts(site) == [0, 0]
