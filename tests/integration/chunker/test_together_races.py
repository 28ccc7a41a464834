"""Parts of one session at one chunker: what threads do between each other's steps harms nobody."""

import os
import threading
from typing import Any

import pytest

from libs.catalogdb.sessions.attempts import Taken, take_part
from libs.catalogdb.sessions.positions import start_offset
from libs.copies.stores import Stores
from libs.errors import DamagedDataError
from libs.events.batches import BatchesDigest
from libs.kafka.consumer import Partition
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.chunker.packer import Packer
from services.chunker.parts.attempts import Attempt
from services.chunker.parts.positions import Positions
from services.chunker.sealer import Sealer
from tests.integration.chunker.test_together import NAMES, ROUNDS, Chunker, chunkers
from tests.support.catalog import BOOT, CatalogSite
from tests.support.chunkers import wire_chunker
from tests.support.running import eventually
from tests.support.snapshots import completed_of

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


@pytest.fixture
def taken_over(site: CatalogSite, chunkers: Any) -> Chunker:
    """A chunker that works on u and v, and does not know yet that another one has taken u."""
    chunker: Chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    assert isinstance(
        take_part(site.chunker, chunker.part("u").capture, BOOT, "other", 0, 0), Taken
    )
    return chunker


@pytest.fixture
def old(taken_over: Chunker) -> Attempt:
    """Its attempt at u."""
    found = taken_over.wired.attempts.find(taken_over.part("u").capture)
    assert found is not None
    return found


def finish_both(chunker: Chunker) -> None:
    """The rest of the captures of u and v, and time for whoever waits."""
    for name in ("u", "v"):
        chunker.batch(name)
        chunker.complete(name)
    for _ in range(ROUNDS):
        chunker.wired.renewal.look_after()
    assert chunker.session.state == "sealed"
    assert chunker.wired.attempts.all() == []


def test_a_part_that_is_begun_anew_while_its_old_attempt_is_dropped_is_finished(
    taken_over: Chunker, old: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandon = old.work.abandon

    def abandon_slowly() -> None:
        abandon()
        taken_over.start("u")  # its partition is read again, for another part's sake

    monkeypatch.setattr(old.work, "abandon", abandon_slowly)
    taken_over.wired.attempts.let_go(old)
    finish_both(taken_over)


def test_a_part_that_is_begun_anew_while_its_old_attempt_is_on_a_lane_is_finished(
    taken_over: Chunker, old: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, finish = taken_over.wired.attempts, old.work.finish

    def finish_slowly() -> Any:
        root = finish()
        attempts.let_go(old)
        taken_over.start("u")
        return root

    monkeypatch.setattr(old.work, "finish", finish_slowly)
    attempts.complete(old, completed_of(old.started, BatchesDigest()))
    finish_both(taken_over)


def test_an_error_of_what_parts_do_together_names_all_their_volumes(
    chunkers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_self: Sealer, _parts: object) -> None:
        raise DamagedDataError("a chunk is lost")

    chunker = chunkers("u", "v")
    monkeypatch.setattr(Sealer, "finish_parts", lose)
    for step in (chunker.start, chunker.batch, chunker.complete):
        step("u")
        step("v")
    assert chunker.session.reject_message == "volumes u, v: a chunk is lost"


@pytest.mark.parametrize("events", range(3, 10))
def test_parts_on_lanes_are_sealed_after_a_rebalance_in_the_middle(
    site: CatalogSite, chunkers: Any, events: int
) -> None:
    """So many events were read before it; all of them are read again after it."""
    same = os.urandom(CHUNK_SIZE_BYTES)
    chunker = chunkers(contents={name: same + os.urandom(2 << 20) for name in NAMES})
    packer = Packer(site.chunker, Stores(chunker.store), 2)
    reads = chunker.wired.intake.reads
    chunker.wired = wire_chunker(
        site.chunker, chunker.vault, chunker.store, packer=packer, lane_count=4, dial=chunker._dial
    )
    chunker.wired.intake.reads = reads
    wired, partitions = chunker.wired, [chunker.partition_of(name) for name in NAMES]
    sent = [(step, name) for step in ("start", "batch", "complete") for name in NAMES]
    for step, name in sent[:events]:
        getattr(chunker, step)(name)
    renewing = threading.Thread(target=wired.renewal.look_after)
    renewing.start()
    wired.attempts.drop_partitions(frozenset(partitions))
    renewing.join()
    again = [partition.number for partition in partitions]

    def is_sealed() -> bool:
        for number in again:
            chunker.capture(NAMES[number])
        wired.renewal.look_after()
        again[:] = [partition.number for partition in wired.positions.to_read_again()]
        return bool(chunker.session.state == "sealed")

    eventually("the session is sealed", is_sealed)
    eventually("all buffers are free", lambda: packer.free_buffer_count == 2)
    assert wired.attempts.all() == wired.attempts.all_reserved() == []
    assert set(chunker.states.values()) == {"f"}
