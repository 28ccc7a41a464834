"""Replication from the log: copies are made, verified, counted, and read."""

from uuid import UUID

import pytest

from libs.catalogdb.log.log import last_position
from libs.catalogdb.pool import Catalog
from libs.catalogdb.stores import (
    SealedManifest,
    manifests_to_copy,
    read_store_figures,
    read_stores,
)
from libs.checkpoints.rows import SnapshotRow
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import PRIMARY, SECOND, Stores
from libs.errors import ConfigurationError, UnavailableError
from libs.events.topics import PACKS
from libs.store.layout import KEYS_PREFIX, MANIFESTS_PREFIX, PACKS_PREFIX
from services.catalog.copies.identity import identify_stores
from services.catalog.copies.replicator import Replicated
from tests.integration.catalog.copies.pair import Pair


def position(pair: Pair) -> int:
    return next(
        state for state in read_stores(pair.site.catalog) if state.name == "second"
    ).position


def test_the_second_store_gets_a_copy_of_everything(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2, 3)
    assert pair.copies("disk", 1) == 1
    done = pair.replicate()
    assert (done.packs, done.manifests, done.whole, done.failures) == (1, 1, 1, 0)
    for prefix in (PACKS_PREFIX, MANIFESTS_PREFIX, KEYS_PREFIX):
        keys = pair.keys(PRIMARY, prefix)
        assert keys
        assert sorted(keys) == sorted(pair.keys(SECOND, prefix))
        assert all(pair.one.get(key) == pair.two.get(key) for key in keys)
    assert pair.states(SECOND) == ["p"]
    assert pair.copies("disk", 1) == 2
    assert position(pair) == last_position(pair.site.catalog, PACKS)


def test_a_round_without_news_does_nothing(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.replicate()
    assert pair.replicate() == Replicated()
    assert pair.make_replicator().replicate() == Replicated()


def test_whoever_listens_is_told_when_a_snapshot_is_whole(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.replicate()
    rows = pair.site.sql(
        "SELECT count(*) FROM event_log WHERE type = 'backcast.snapshots.snapshot_replicated'"
    )
    assert rows == [(1,)]


def test_a_snapshot_counts_only_when_all_that_it_reads_is_there(pair: Pair) -> None:
    """Its own pack is there; one that it shares with its base is not any more."""
    pair.protect("disk")
    pair.take("disk", *range(1, 200))
    pair.take("disk", *range(1, 199), 999)
    pair.replicate()
    assert pair.copies("disk", 2) == 2
    pair.site.sql("UPDATE copy SET state = 'x' WHERE pack_no = (SELECT min(pack_no) FROM pack)")
    key = sorted(pair.keys(SECOND, PACKS_PREFIX))
    for store in (pair.one, pair.two):
        for one in key:
            store.delete(one)
    assert pair.replicate().withdrawn == 2
    assert (pair.copies("disk", 1), pair.copies("disk", 2)) == (1, 1)


def test_the_position_stays_where_the_second_store_went_away(pair: Pair) -> None:
    pair.protect("disk")
    pair.replicate()
    before = position(pair)
    pair.take("disk", 1)
    pair.two.is_away = True
    with pytest.raises(UnavailableError):
        pair.replicate()
    assert position(pair) == before
    assert read_store_figures(pair.site.catalog, SECOND).lag_seconds > 0
    assert pair.copies("disk", 1) == 1
    pair.two.is_away = False
    assert pair.replicate().whole == 1
    assert read_store_figures(pair.site.catalog, SECOND).lag_seconds == 0


def test_a_store_that_is_added_later_gets_what_was_there_before(pair: Pair) -> None:
    pair.protect("disk")
    pair.site.sql("DELETE FROM copy WHERE store_no = 2")
    pair.site.sql("DELETE FROM sweep WHERE store_no = 2")
    pair.site.sql("DELETE FROM store WHERE store_no = 2")
    pair.take("disk", 1)
    assert pair.states(SECOND) == []
    identify_stores(pair.site.catalog, pair.stores)
    assert pair.replicate().packs == 1
    assert pair.copies("disk", 1) == 2


@pytest.mark.parametrize("primary", ["away", "emptied"])
def test_what_the_primary_does_not_give_is_read_from_the_second(pair: Pair, primary: str) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2, 3)
    pair.replicate()
    if primary == "away":
        pair.one.is_away = True
    else:
        pair.empty(PRIMARY)
    pair.check()
    assert pair.states(PRIMARY) == ["p" if primary == "away" else "x"]
    assert pair.site.sql("SELECT FROM damage") == []


def test_a_copy_that_was_not_made_yet_is_not_taken_for_lost(pair: Pair) -> None:
    """The primary is away, and the second store does not have the object."""
    pair.protect("disk")
    pair.take("disk", 1)
    pair.one.is_away = True
    with pytest.raises(UnavailableError):
        pair.check()
    assert pair.site.sql("SELECT FROM damage") == []
    assert pair.states(SECOND) == ["m"]


def test_one_bucket_is_never_two_stores(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match="expected the bucket"):
        identify_stores(pair.site.catalog, Stores(pair.one, pair.one))


def test_another_bucket_in_the_place_of_a_store_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match="expected the bucket"):
        identify_stores(pair.site.catalog, Stores(pair.two, pair.one))


def test_checkpoints_are_copied_before_anything_is_deleted_there(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.take("disk", 2)
    pair.replicate()
    pair.expire("disk", 1)
    assert pair.collect() == 2
    shelf = CheckpointShelf(pair.two, pair.kek)
    newest = shelf.newest_state()
    assert newest is not None
    known = {r.sequence: r.live for r in shelf.rows(newest) if isinstance(r, SnapshotRow)}
    assert known == {1: False, 2: True}


def test_a_snapshot_that_expires_while_manifests_are_copied_is_not_missed(
    folders: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two manifests that are gone, a person reads of the one that a live snapshot needs."""
    folders.protect("disk")
    folders.take("disk", 1)
    folders.take("disk", 2)
    expiring, kept = sorted(folders.keys(PRIMARY, MANIFESTS_PREFIX))
    folders.one.delete(kept)

    def then_one_expires(catalog: Catalog, after: UUID, limit: int) -> list[SealedManifest]:
        page = manifests_to_copy(catalog, after, limit)
        if page:
            assert folders.expire("disk", 1)
            folders.collect()
        return page

    monkeypatch.setattr("services.catalog.copies.mirror.manifests_to_copy", then_one_expires)
    assert folders.replicate().manifests == 0
    missed = [record.__dict__["key"] for record in caplog.records if "manifest" in record.message]
    assert missed == [kept]
    assert expiring not in folders.keys(PRIMARY, MANIFESTS_PREFIX)
