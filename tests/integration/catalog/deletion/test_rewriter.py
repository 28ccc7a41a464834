"""Rewriting with real packs and maps: live items move, dead ones go, every live byte stays."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from libs.catalogdb.deletion.rewriting import begin_marking, next_point
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots.points import SnapshotVolume
from libs.errors import DamagedDataError
from libs.ids import new_generation
from libs.store.layout import pack_object
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from tests.integration.catalog.protected import Protected, in_folder
from tests.support.catalog import CatalogSite

EVENT = "backcast.packs.pack_rewritten"


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    made = in_folder(site, tmp_path)
    made.protect("disk")
    return made


def test_a_mostly_dead_pack_gives_its_space_back(protected: Protected) -> None:
    protected.take("disk", *range(1, 41))
    (old,) = protected.packs()
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    before = {stat.key: stat.size_bytes for stat in protected.store.list("packs/")}

    tally = protected.rewriter().run()

    assert (tally.rewritten, tally.written, tally.given_up) == (1, 1, 0)
    assert protected.packs("c") == [old]
    protected.check()
    assert protected.collect() == 1
    protected.check()
    after = {stat.key: stat.size_bytes for stat in protected.store.list("packs/")}
    assert sum(after.values()) < sum(before.values()) - 34 * 65536
    assert protected.site.sql("SELECT FROM marking") == []


def test_packs_of_several_volumes_and_snapshots_become_one(protected: Protected) -> None:
    """Also what only an older snapshot or another volume needs, and nodes of the maps."""
    protected.protect("other")
    protected.take("disk", *range(1, 11))
    protected.take("other", *range(11, 21))
    protected.take("other", 1, 11, *range(51, 59))
    protected.take("disk", 2, *range(31, 40))
    protected.take("disk", 3, *range(41, 50))
    assert protected.expire("disk", 1)
    assert protected.expire("other", 1)
    packs = len(protected.packs())
    tally = protected.rewriter().run()
    assert (tally.rewritten, tally.written) == (2, 1)
    protected.collect()
    assert len(protected.packs()) == packs - 1
    protected.check()
    rewritten = protected.site.sql("SELECT FROM event_log WHERE type = %s", EVENT)
    assert len(rewritten) == 1


def test_snapshots_go_on_upon_what_was_rewritten(protected: Protected) -> None:
    """The next session reads nodes of its base in the new pack, and finds chunks there."""
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    protected.rewriter().run()
    protected.collect()
    protected.take("disk", 1, 2, 77, 4, *range(101, 120), *range(1, 5))
    protected.expire("disk", 2)
    protected.collect()
    protected.check()


def test_a_pack_that_an_older_snapshot_needs_is_left_alone(protected: Protected) -> None:
    protected.take("disk", *range(1, 11))
    protected.take("disk", *range(11, 21))
    assert protected.rewriter().run().rewritten == 0
    assert protected.rewriter().run().candidates == 0, "not marked again so soon"
    protected.check()


def test_a_snapshot_that_is_sealed_while_the_maps_are_read_keeps_what_it_revived(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 4: the session begins after marking and is over before the commit."""
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)

    def revive(
        catalog: Catalog, packs: Sequence[int], volume_no: int, sequence: int
    ) -> SnapshotVolume | None:
        point = next_point(catalog, packs, volume_no, sequence)
        if point is None:
            protected.take("disk", *range(1, 5), 20, *range(102, 137))
        return point

    monkeypatch.setattr("services.catalog.deletion.rewriter.next_point", revive)
    tally = protected.rewriter().run()
    assert (tally.rewritten, tally.given_up) == (0, 1)
    protected.check()


def test_the_base_of_a_session_that_seals_meanwhile_may_expire_while_maps_are_read(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the new snapshot shares with its base is read from the new one."""
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    points: list[str] = []

    def expire_it(
        catalog: Catalog, packs: Sequence[int], volume_no: int, sequence: int
    ) -> SnapshotVolume | None:
        point = next_point(catalog, packs, volume_no, sequence)
        if point and not points:
            protected.take("disk", *range(1, 4), *range(200, 237))
            assert protected.expire("disk", 2)
        if point:
            points.append(point.label)
        return point

    monkeypatch.setattr("services.catalog.deletion.rewriter.next_point", expire_it)
    protected.rewriter().run()
    assert points == ["disk@2", "disk@3"]
    protected.check()
    protected.collect()
    protected.check()


def test_a_damaged_pack_is_not_rewritten(protected: Protected) -> None:
    protected.take("disk", *range(1, 41))
    ((generation,),) = protected.site.sql("SELECT generation FROM pack")
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    key = pack_object(generation)
    damaged = bytearray(protected.store.get(key))
    damaged[100] ^= 1
    protected.store.put(key, damaged)
    tally = protected.rewriter().run()
    assert (tally.rewritten, tally.damaged) == (0, 1)
    assert protected.packs("c") == []


def test_a_pack_that_is_collected_while_it_is_marked_is_not_called_damaged(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marking keeps no pack: the last snapshot that needed it expires, and a collector comes."""
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.take("disk", *range(201, 241))
    protected.expire("disk", 1)

    def collected(
        catalog: Catalog, token: UUID, packs: Sequence[int], deadline_seconds: float
    ) -> dict[int, list[PackLocation]]:
        marked = begin_marking(catalog, token, packs, deadline_seconds)
        assert protected.expire("disk", 2)
        assert protected.collect() == 2
        return marked

    monkeypatch.setattr("services.catalog.deletion.rewriter.begin_marking", collected)
    tally = protected.rewriter().run()
    assert (tally.rewritten, tally.given_up, tally.damaged) == (0, tally.candidates, 0)
    protected.check()


def test_packs_in_a_bucket_are_rewritten_and_swept(site: CatalogSite, in_bucket: Protected) -> None:
    protected = in_bucket
    protected.protect("disk")
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    protected.store.put(pack_object(new_generation()), b"from nowhere")
    assert protected.rewriter().run().rewritten == 1
    protected.collect()
    swept = Sweeper(site.catalog, protected.store, SweepPolicy(0, 60)).run()
    assert (swept.packs, swept.objects) == (1, 4)
    assert len(protected.objects("packs/")) == 2
    protected.check()


def test_a_rewriter_that_overlooks_a_snapshot_is_found(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: only the first snapshot that may need the pack is read."""
    protected.take("disk", *range(1, 41))
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.take("disk", *range(1, 6), *range(102, 137))
    protected.expire("disk", 1)

    def only_the_first(
        catalog: Catalog, packs: Sequence[int], volume_no: int, sequence: int
    ) -> SnapshotVolume | None:
        return None if volume_no else next_point(catalog, packs, volume_no, sequence)

    monkeypatch.setattr("services.catalog.deletion.rewriter.next_point", only_the_first)
    assert protected.rewriter().run().rewritten == 1
    with pytest.raises(DamagedDataError, match="not in the"):
        protected.check()
