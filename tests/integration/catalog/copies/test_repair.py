"""Copies that are damaged, stores that are lost, and a second store that is all that is left."""

from collections.abc import Iterator

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.stores import begin_repair, lose_store
from libs.copies.stores import PRIMARY, SECOND, Stores
from libs.events.fields import VerificationLevel
from libs.ids import uuid7
from libs.runtime.signals import Stop
from libs.store.layout import CHECKPOINTS_PREFIX, PACKS_PREFIX
from libs.store.port import ObjectStore
from services.catalog.copies.identity import name_bucket, store_id_of
from services.catalog.recovery.check import CatalogCheck
from services.catalog.verification.verifier import Thoroughness, VerificationProgress, Verifier
from tests.integration.catalog.copies.pair import Pair
from tests.integration.catalog.protected import TENANT
from tests.integration.catalog.recovery.timeline import Timeline, timeline

NEW = uuid7()


def verify(
    pair: Pair, sequence: int, level: VerificationLevel = "full"
) -> tuple[str, VerificationProgress]:
    progress = VerificationProgress()
    verifier = Verifier(pair.site.catalog, pair.stores, pair.vault, 60, 0, Stop())
    session = pair.sessions["disk", sequence]
    verdict = verifier.verify(TENANT, session, Thoroughness(level, sample=1.0), progress)
    return type(verdict).__name__.lower(), progress


def flip(store: ObjectStore, key: str, at: int = 100) -> bytes:
    """Flip a bit of an object; what it was."""
    before = store.get(key)
    body = bytearray(before)
    body[at] ^= 1
    store.put(key, bytes(body))
    return before


@pytest.mark.parametrize("store_no", [PRIMARY, SECOND])
@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_a_damaged_copy_is_made_anew_from_the_intact_one(
    pair: Pair, store_no: int, harm: str
) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2, 3)
    pair.replicate()
    (key,) = pair.keys(PRIMARY, PACKS_PREFIX)
    harmed, intact = pair.stores.by_number[store_no], pair.stores.by_number[3 - store_no]
    before = flip(harmed, key)
    if harm == "gone":
        harmed.delete(key)
    verdict, progress = verify(pair, 1)
    assert verdict == "intact"
    assert (progress.copies_damaged, progress.copies_repaired) == (1, 1)
    assert harmed.get(key) == intact.get(key) == before
    assert pair.site.sql("SELECT FROM damage") == []
    assert pair.states(store_no) == ["p"]


def test_what_is_damaged_in_both_copies_is_lost_and_repaired_by_the_next_capture(
    pair: Pair,
) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2, 3)
    pair.replicate()
    (key,) = pair.keys(PRIMARY, PACKS_PREFIX)
    for store in (pair.one, pair.two):
        flip(store, key)
    assert verify(pair, 1)[0] == "damaged"
    pair.take("disk", 1, 2, 3)
    pair.replicate()
    pair.check()


def test_different_damage_in_two_copies_loses_nothing(pair: Pair) -> None:
    """Each item is intact in one of them, so none is lost; neither can mend the other."""
    pair.protect("disk")
    pair.take("disk", *range(1, 40))
    pair.replicate()
    (key,) = pair.keys(PRIMARY, PACKS_PREFIX)
    frames = pair.site.sql("SELECT frames FROM pack")[0][0]
    second_frame = int.from_bytes(frames[12:16], "little")
    flip(pair.one, key, 200)
    flip(pair.two, key, second_frame + 100)
    verdict, _ = verify(pair, 1)
    assert verdict == "intact"
    assert pair.site.sql("SELECT FROM damage") == []
    assert (pair.states(PRIMARY), pair.states(SECOND)) == (["x"], ["x"])
    pair.check()


def test_a_copy_found_damaged_by_a_reader_is_mended_by_the_next_round(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2, 3)
    pair.replicate()
    (key,) = pair.keys(PRIMARY, PACKS_PREFIX)
    before = flip(pair.one, key)
    pair.check()
    assert pair.states(PRIMARY) == ["x"]
    assert pair.replicate().packs == 1
    assert pair.one.get(key) == before
    assert pair.states(PRIMARY) == ["p"]


@pytest.mark.parametrize("lost", [PRIMARY, SECOND])
def test_a_lost_store_is_filled_again_from_the_other(pair: Pair, lost: int) -> None:
    pair.protect("disk")
    pair.take("disk", 1, 2)
    pair.take("disk", 1, 3)
    pair.checkpoints.write()
    pair.replicate()
    before = sorted(pair.keys(3 - lost))
    pair.empty(lost)
    lose_store(pair.site.catalog, lost)
    pair.replicate()
    assert pair.states(lost) == []
    pair.check()
    store = pair.stores.by_number[lost]
    begin_repair(pair.site.catalog, lost, name_bucket(store, store_id_of(store) or NEW))
    pair.replicate()
    names = [key for key in pair.keys(lost) if not key.startswith("stores/")]
    assert sorted(names) == [key for key in before if not key.startswith("stores/")]
    assert pair.states(lost) == ["p", "p"]
    assert pair.copies("disk", 2) == 2
    pair.stores = Stores(store)
    pair.check()


def test_what_came_back_is_not_written_again(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.replicate()
    (key,) = pair.keys(SECOND, PACKS_PREFIX)
    written_at = pair.two.stat(key)
    lose_store(pair.site.catalog, SECOND)
    pair.replicate()
    begin_repair(pair.site.catalog, SECOND, store_id_of(pair.two) or NEW)
    assert pair.replicate().packs == 1
    assert pair.two.stat(key) == written_at


@pytest.fixture
def rebuilt(pair: Pair, servers: LocalCluster) -> Iterator[Timeline]:
    """A catalog that was lost, together with the primary store, after two snapshots."""
    pair.protect("disk")
    pair.take("disk", 1, 2)
    pair.take("disk", 1, 3)
    pair.take("disk", 4)
    pair.expire("disk", 1)
    pair.checkpoints.write()
    pair.replicate()
    pair.empty(PRIMARY)
    with timeline(servers.postgres.dsn, pair.two) as line:
        line.kek = line.protected.kek = pair.kek
        line.lose_everything()
        line.protected.live, line.protected.sessions = pair.live, pair.sessions
        yield line


def test_the_second_store_alone_is_enough_to_rebuild_everything(
    pair: Pair, rebuilt: Timeline
) -> None:
    assert any(key for key in pair.keys(SECOND, CHECKPOINTS_PREFIX))
    report = rebuilt.reconcile()
    assert (report.damaged, report.unreadable, report.recovered) == ([], [], [])
    assert rebuilt.live() == {("disk", 2), ("disk", 3)}
    rebuilt.protected.check()


def test_a_catalog_with_two_stores_is_the_same_as_one_rebuilt_from_them(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.take("disk", 2)
    pair.replicate()
    dsn = pair.site.dsn_of("catalog")
    check = CatalogCheck(pair.site.catalog, dsn, pair.stores, pair.vault, pair.checkpoints)
    assert check.check().told == []
    key = pair.keys(SECOND, PACKS_PREFIX)[0]
    pair.two.delete(key)
    assert [one.table for one in check.check().told] == ["pack"]
