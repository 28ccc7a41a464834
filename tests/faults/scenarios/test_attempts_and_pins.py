"""Scenarios 1, 2, 5, 6, 7, 13, 15, 22 and 26: attempts, and what their pins keep."""

import pytest

from libs.catalogdb.deletion.sweeping import bury_abandoned
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.sessions.attempts import PackUse, Stale
from libs.catalogdb.sessions.positions import start_offset, store_offsets
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import read_session, reject_overdue, reject_session
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.expiry import Refused as NotExpired
from libs.errors import InvariantViolation
from libs.events.topics import BLOCK_CHANGES, SNAPSHOTS
from libs.ids import new_generation
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    condemn,
    expire_anyway,
    item,
    open_on,
    protect,
    take_snapshot,
)


def test_scenario_01_an_attempt_that_wakes_after_a_takeover_seals_nothing(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """A pins and stalls; B takes over and stores its own; what A pinned is collected; A wakes."""
    assert worker.look_up(item(1)) == [unused]
    successor = Worker(site, worker.view)
    site.sql("INSERT INTO candidate VALUES (%s) ON CONFLICT DO NOTHING", unused)
    assert condemn(site, unused)
    stored = successor.store(item(1))
    assert worker.finish({unused: PackUse(entered=1)}) == Stale(worker.attempt)
    assert isinstance(worker.seal(), Refused)
    assert successor.finish({stored: PackUse(entered=1)}) is True
    assert isinstance(worker.seal(), Sealed)
    assert site.sql("SELECT pack_no FROM pack_use") == [(stored,)]


def test_scenario_02_the_base_of_an_open_session_does_not_expire(site: CatalogSite) -> None:
    """It is damaged, so it is not the last good point, which would be kept anyway."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    head, _ = take_snapshot(site, "vm", item(2))
    view = open_on(site, "vm")
    assert view.base == head.view.session
    site.sql(
        """INSERT INTO verification (session, level, damaged, damaged_bytes)
           VALUES (%s, 'full', true, 1)""",
        view.base,
    )
    outcome = expire(site.catalog, TENANT, view.base, "ops")
    assert isinstance(outcome, NotExpired)
    assert outcome.reason == "base-of-session"
    reject_session(site.coordinator, "coordinator", view.session, "cancelled", "by hand")
    assert isinstance(expire(site.catalog, TENANT, view.base, "ops"), Expired)


def test_scenario_02_a_base_that_went_all_the_same_refuses_the_seal(site: CatalogSite) -> None:
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    second = Worker(site, open_on(site, "vm"))
    second.finish({})
    expire_anyway(site, "vm", 1)
    assert isinstance(second.seal(), Refused)


def test_scenario_05_the_second_of_two_that_store_a_chunk_relies_on_the_first_ones_copy(
    site: CatalogSite,
) -> None:
    protect(site, "a")
    protect(site, "b")
    a, b = Worker(site, open_on(site, "a")), Worker(site, open_on(site, "b"))
    winner = a.store(item(1))
    pack = b.claim()
    assert b.register(pack, item(1), item(2)) == {0: winner}
    reject_session(site.coordinator, "coordinator", a.view.session, "cancelled", "")
    assert condemn(site, winner) is False
    b.finish({winner: PackUse(entered=1), pack.pack_no: PackUse(entered=1)})
    assert isinstance(b.seal(), Sealed)
    assert condemn(site, winner) is False
    assert b.look_up(item(1)) == Stale(b.attempt)


def test_scenario_06_a_pin_and_condemning_at_once_never_both_succeed(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    # A rival insert of the same pin keeps the look-up between its lock and its commit.
    with site.holding("INSERT INTO pin VALUES (%s, %s)", worker.attempt, unused) as rival:
        looking = site.start(worker.look_up, item(1))
        site.wait_until_waiting(1)
        condemning = site.start(condemn, site, unused)
        assert condemning.result() is False  # passes over a pack that somebody has locked
        rival.rollback()
    assert looking.result() == [unused]
    assert condemn(site, unused) is False


def test_scenario_06_a_pin_that_comes_after_condemning_finds_nothing(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    with site.holding("UPDATE pack SET state = 'c' WHERE pack_no = %s", unused):
        looking = site.start(worker.look_up, item(1))
        site.wait_until_waiting(1)
    assert looking.result() == [0]
    assert worker.pinned == set()


def test_scenario_07_a_pack_whose_intent_was_reaped_is_never_registered(site: CatalogSite) -> None:
    protect(site, "vm")
    late = Worker(site, open_on(site, "vm"))
    pack = late.claim()
    Worker(site, late.view)
    assert bury_abandoned(site.catalog, 10) == 1
    assert late.register(pack, item(1)) == Stale(late.attempt)
    assert site.sql("SELECT state::text FROM pack") == [("d",)]


def test_scenario_07_a_dead_pack_is_not_registered_by_the_current_attempt(
    site: CatalogSite, worker: Worker
) -> None:
    pack = worker.claim()
    site.sql("UPDATE pack SET state = 'd' WHERE pack_no = %s", pack.pack_no)
    assert worker.register(pack, item(5)) == Stale(worker.attempt)
    assert worker.look_up(item(5)) == [0]


def test_scenario_13_a_generation_is_claimed_once(site: CatalogSite, worker: Worker) -> None:
    """A cloned chunker draws the same random name; the key and nonces would be used again."""
    generation = new_generation()
    assert isinstance(worker.begin(generation), PackRecord)
    protect(site, "other")
    clone = Worker(site, open_on(site, "other"))
    with pytest.raises(InvariantViolation):
        clone.begin(generation)


def test_scenario_15_a_session_past_its_deadline_holds_nothing_back(site: CatalogSite) -> None:
    protect(site, "vm")
    dead = Worker(site, open_on(site, "vm"))
    dead.store(item(1))
    store_offsets(site.chunker, {(BLOCK_CHANGES, 0): 50})
    assert start_offset(site.chunker, BLOCK_CHANGES, 0) == 0
    site.sql("UPDATE session SET deadline = now() - interval '1 second'")
    assert reject_overdue(site.catalog) == [dead.view.session]
    assert site.sql("SELECT FROM pin") == []
    assert start_offset(site.chunker, BLOCK_CHANGES, 0) == 50
    assert read_session(site.catalog, dead.view.session).reject_code == "deadline"
    assert isinstance(dead.seal(), Refused)


def test_scenario_22_equal_map_nodes_of_two_sessions_are_counted_where_they_resolve(
    site: CatalogSite,
) -> None:
    """Nodes are items like chunks: the first one's copy is the one that both resolve to."""
    protect(site, "a")
    protect(site, "b")
    leaf = item(100)
    a, b = Worker(site, open_on(site, "a")), Worker(site, open_on(site, "b"))
    first = a.claim()
    assert a.register(first, item(1), leaf) == {}
    second = b.claim()
    assert b.register(second, item(2), leaf) == {1: first.pack_no}
    a.finish({first.pack_no: PackUse(entered=2)})
    b.finish({second.pack_no: PackUse(entered=1), first.pack_no: PackUse(entered=1)})
    assert isinstance(a.seal(), Sealed)
    assert isinstance(b.seal(), Sealed)
    expire_anyway(site, "a", 1)
    assert condemn(site, first.pack_no) is False
    expire_anyway(site, "b", 1)
    assert condemn(site, first.pack_no) is True


def test_scenario_26_a_seal_that_drops_its_pins_and_a_collector_at_once_keep_the_pack(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    worker.look_up(item(1))
    worker.finish({unused: PackUse(entered=1)})
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        assert condemn(site, unused) is False
    assert isinstance(sealing.result(), Sealed)
    assert site.sql("SELECT FROM pin") == []
    assert condemn(site, unused) is False


def test_scenario_26_a_seal_that_waits_for_condemning_refuses(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    worker.look_up(item(1))
    worker.finish({unused: PackUse(entered=1)})
    with site.holding("UPDATE pack SET state = 'c' WHERE pack_no = %s", unused):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
    assert isinstance(sealing.result(), Refused)
