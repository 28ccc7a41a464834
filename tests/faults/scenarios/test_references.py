"""Scenarios 4, 23, 24, 25, 27, 28 and 29: references, rewriting, deletion, readers."""

import pytest

from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.leases import close_lease, open_lease, resolve
from libs.catalogdb.snapshots.points import find_volume_at
from libs.events.topics import SNAPSHOTS
from libs.ids import uuid7
from libs.points import RecoveryPoint
from libs.store.layout import pack_object
from libs.store.memory import MemoryStore
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
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
from tests.support.rewriting import Rewriting

STORED = [item(1), item(2), item(3)]
LIVE = [item(1)]


@pytest.fixture
def mostly_dead(site: CatalogSite) -> int:
    """A pack of items 1 to 3; the only live snapshot of `vm` has kept item 1 of them."""
    protect(site, "vm")
    first, pack_no = take_snapshot(site, "vm", *STORED)
    second = Worker(site, open_on(site, "vm"))
    new = second.store(item(4))
    second.finish({new: PackUse(entered=1), pack_no: PackUse(departed=2)})
    assert isinstance(second.seal(), Sealed)
    assert isinstance(expire(site.catalog, TENANT, first.view.session, by="a test"), Expired)
    return pack_no


def test_scenario_04_a_rewrite_gives_up_where_a_session_revives_a_dead_chunk(
    site: CatalogSite, mostly_dead: int
) -> None:
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    rewriting = Rewriting(site, mostly_dead)
    assert worker.look_up(item(2)) == [mostly_dead]
    assert rewriting.commit(STORED, LIVE) is False
    worker.finish({mostly_dead: PackUse(entered=1)})
    assert isinstance(worker.seal(), Sealed)
    assert condemn(site, mostly_dead) is False


def test_scenario_23_without_its_head_a_volume_counts_anew(site: CatalogSite) -> None:
    """The base is the head or nothing; all rows of the volume close then."""
    protect(site, "vm")
    old = take_snapshot(site, "vm", item(1))[1]
    head = Worker(site, open_on(site, "vm"))
    new = head.store(item(2))
    head.finish({new: PackUse(entered=1), old: PackUse(departed=1)})
    assert isinstance(head.seal(), Sealed)
    expire_anyway(site, "vm", 2)
    third = Worker(site, open_on(site, "vm"))
    assert third.view.base is None
    third.look_up(item(1))
    third.finish({old: PackUse(entered=1)})
    assert isinstance(third.seal(), Sealed)
    assert site.sql("SELECT pack_no, addresses FROM pack_use WHERE last_sequence IS NULL") == [
        (old, 1)
    ]
    assert condemn(site, new) is True


def test_scenario_23_a_session_without_a_base_closes_the_rows_of_a_live_head(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    pack_no = take_snapshot(site, "vm", item(1))[1]
    full = Worker(site, open_on(site, "vm", full=True))
    full.look_up(item(1))
    full.finish({pack_no: PackUse(entered=1)})
    assert isinstance(full.seal(), Sealed)
    assert site.sql(
        "SELECT addresses, first_sequence, last_sequence FROM pack_use ORDER BY first_sequence"
    ) == [(1, 1, 1), (1, 2, None)]


def test_scenario_24_departures_follow_a_pack_that_was_rewritten_before_the_seal(
    site: CatalogSite, mostly_dead: int
) -> None:
    worker = Worker(site, open_on(site, "vm"))
    worker.finish({mostly_dead: PackUse(departed=1)})
    rewriting = Rewriting(site, mostly_dead)
    assert rewriting.commit(STORED, LIVE) is True
    assert isinstance(worker.seal(), Sealed)
    assert site.sql(
        "SELECT addresses, last_sequence FROM pack_use WHERE pack_no = %s", rewriting.moved_to()
    ) == [(0, 2)]


def test_scenario_24_departures_follow_a_pack_that_is_rewritten_beside_the_seal(
    site: CatalogSite, mostly_dead: int
) -> None:
    worker = Worker(site, open_on(site, "vm"))
    worker.finish({mostly_dead: PackUse(departed=1)})
    rewriting = Rewriting(site, mostly_dead)
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(2)
    assert isinstance(sealing.result(), Sealed)
    assert committing.result() is True
    assert site.sql("SELECT FROM pack_use WHERE last_sequence IS NULL AND addresses > 1") == []


def test_scenario_25_whichever_of_two_snapshots_expires_first_the_pack_is_freed(
    site: CatalogSite,
) -> None:
    """The row covers [1, 2]; when 2 goes, it is shortened to 1, and goes with it."""
    for group, order in (("up", (0, 1)), ("down", (1, 0))):
        protect(site, group)
        shared = take_snapshot(site, group, item(len(group)))[1]
        views = [site.sql("SELECT session FROM snapshot s JOIN volume_group g USING (group_no) "
                          "WHERE g.name = %s", group)[0][0]]  # fmt: skip
        second = Worker(site, open_on(site, group))
        second.finish({})
        assert isinstance(second.seal(), Sealed)
        views.append(second.view.session)
        third = Worker(site, open_on(site, group))
        third.finish({shared: PackUse(departed=1)})
        assert isinstance(third.seal(), Sealed)
        for number in order:
            assert condemn(site, shared) is False
            outcome = expire(site.catalog, TENANT, views[number], "ops")
            assert isinstance(outcome, Expired)
        assert condemn(site, shared) is True


def test_scenario_27_a_rewrite_gives_up_although_no_pin_and_no_count_tells_of_a_revival(
    site: CatalogSite, mostly_dead: int
) -> None:
    """One address came, one went, and the session is sealed and has let go of its pins."""
    worker = Worker(site, open_on(site, "vm"))
    rewriting = Rewriting(site, mostly_dead)
    counted = site.sql("SELECT addresses FROM pack_use WHERE pack_no = %s", mostly_dead)
    worker.look_up(item(2))
    worker.finish({mostly_dead: PackUse(entered=1, departed=1)})
    assert isinstance(worker.seal(), Sealed)
    assert site.sql("SELECT FROM pin") == []
    assert site.sql("SELECT addresses FROM pack_use WHERE pack_no = %s", mostly_dead) == counted
    assert rewriting.commit(STORED, LIVE) is False


def test_scenario_28_what_lands_after_the_sweep_is_deleted_by_the_next(site: CatalogSite) -> None:
    site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
    protect(site, "vm")
    worker, store = Worker(site, open_on(site, "vm")), MemoryStore()
    pack = worker.claim()
    reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")
    sweeper = Sweeper(site.catalog, store, SweepPolicy(young_seconds=3600, claim_seconds=60))
    sweeper.run()
    store.put(pack_object(pack.generation), b"late")
    site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
    assert sweeper.run().packs == 1
    assert list(store.list("")) == []


def test_scenario_29_a_reader_keeps_its_packs_from_rewriters(
    site: CatalogSite, mostly_dead: int
) -> None:
    point = find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "latest"))
    lease = uuid7()
    open_lease(site.restore, lease, point, 60, announce=False)
    rewriting = Rewriting(site, mostly_dead)
    resolve(site.restore, lease, point.domain_nos, LIVE, 60)
    assert rewriting.commit(STORED, LIVE) is False
    close_lease(site.restore, lease)
    assert rewriting.commit(STORED, LIVE) is True


def test_scenario_29_a_reader_keeps_its_snapshot_and_its_packs_from_collectors(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    first, pack_no = take_snapshot(site, "vm", item(1))
    take_snapshot(site, "vm", item(2))
    point = find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "1"))
    lease = uuid7()
    open_lease(site.restore, lease, point, 60, announce=False)
    assert not isinstance(expire(site.catalog, TENANT, first.view.session, "ops"), Expired)
    resolve(site.restore, lease, point.domain_nos, LIVE, 60)
    expire_anyway(site, "vm", 1, 2)
    assert condemn(site, pack_no) is False
    close_lease(site.restore, lease)
    assert condemn(site, pack_no) is True
