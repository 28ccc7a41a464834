"""Rewrites beside pins, seals, readers and expiry, in transactions that wait for each other."""

import pytest

from libs.catalogdb.deletion.mostly_dead import Weight, find_mostly_dead, weigh
from libs.catalogdb.deletion.rewriting import (
    begin_marking,
    end_marking,
    indexed_in,
    next_point,
    renew_marking,
)
from libs.catalogdb.deletion.sweeping import bury_abandoned
from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.leases import close_lease, open_lease, resolve
from libs.catalogdb.snapshots.points import find_volume_at
from libs.errors import NotReconciledError
from libs.events.topics import PACKS, SNAPSHOTS
from libs.ids import uuid7
from libs.points import RecoveryPoint
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
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
def pack_no(site: CatalogSite) -> int:
    """A pack of items 1 to 3; the only live snapshot of `vm` has kept item 1 of them."""
    protect(site, "vm")
    first, pack_no = take_snapshot(site, "vm", *STORED)
    second = Worker(site, open_on(site, "vm"))
    new = second.store(item(4))
    second.finish({new: PackUse(entered=1), pack_no: PackUse(departed=2)})
    assert isinstance(second.seal(), Sealed)
    expired = expire(site.catalog, TENANT, first.view.session, by="a test")
    assert isinstance(expired, Expired)
    return pack_no


def test_live_items_move_and_dead_ones_are_forgotten(site: CatalogSite, pack_no: int) -> None:
    rewriting = Rewriting(site, pack_no)
    assert rewriting.packs == [pack_no]
    assert rewriting.commit(STORED, LIVE) is True
    new = rewriting.moved_to()
    assert where(site) == {item(1): new, item(4): new - 1}
    assert site.sql("SELECT state::text, moved_to FROM pack WHERE pack_no = %s", pack_no) == [
        ("c", new)
    ]
    assert site.sql("SELECT pack_no FROM tombstone") == [(pack_no,)]
    assert site.sql("SELECT pack_no, addresses FROM pack_use ORDER BY pack_no") == [
        (new - 1, 1),
        (new, 1),
    ]
    assert site.sql("SELECT FROM marking") == []


def test_a_commit_whose_answer_was_lost_may_be_made_again(site: CatalogSite, pack_no: int) -> None:
    rewriting = Rewriting(site, pack_no)
    assert rewriting.commit(STORED, LIVE) is True
    assert rewriting.commit(STORED, LIVE) is True
    assert len(site.sql("SELECT FROM event_log WHERE type LIKE %s", "%rewritten")) == 1


def test_a_pinned_pack_is_not_marked(site: CatalogSite, pack_no: int) -> None:
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    worker.look_up(item(2))
    assert Rewriting(site, pack_no).packs == []


def test_a_rewrite_gives_up_where_a_session_pins_the_pack_meanwhile(
    site: CatalogSite, pack_no: int
) -> None:
    """Scenario 4."""
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    rewriting = Rewriting(site, pack_no)
    assert worker.look_up(item(2)) == [pack_no]
    assert rewriting.commit(STORED, LIVE) is False
    assert where(site)[item(2)] == pack_no


def test_a_rewrite_gives_up_where_a_session_revived_an_item_and_is_sealed_already(
    site: CatalogSite, pack_no: int
) -> None:
    """Scenario 27: no pin stands any more, and no count has changed: one came, one went."""
    worker = Worker(site, open_on(site, "vm"))
    rewriting = Rewriting(site, pack_no)
    counted = site.sql("SELECT addresses FROM pack_use WHERE pack_no = %s", pack_no)
    assert worker.look_up(item(2)) == [pack_no]
    worker.finish({pack_no: PackUse(entered=1, departed=1)})
    assert isinstance(worker.seal(), Sealed)
    assert site.sql("SELECT FROM pin") == []
    assert site.sql("SELECT addresses FROM pack_use WHERE pack_no = %s", pack_no) == counted

    assert rewriting.commit(STORED, LIVE) is False
    assert where(site)[item(2)] == pack_no


def test_a_rewrite_waits_for_a_pin_under_way_and_gives_up(site: CatalogSite, pack_no: int) -> None:
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    rewriting = Rewriting(site, pack_no)
    with site.holding("INSERT INTO pin VALUES (%s, %s)", worker.attempt, pack_no) as rival:
        looking = site.start(worker.look_up, item(2))
        site.wait_until_waiting(1)
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(2)
        rival.rollback()
    assert looking.result() == [pack_no]
    assert committing.result() is False


def test_a_pin_that_waits_for_a_rewrite_finds_the_pack_condemned(
    site: CatalogSite, pack_no: int
) -> None:
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(PACKS):
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(1)
        looking = site.start(worker.look_up, item(1))
        site.wait_until_waiting(2)
    assert committing.result() is True
    assert looking.result() == [0]
    assert worker.look_up(item(1)) == [rewriting.moved_to()]


def test_a_registration_beside_a_rewrite_finds_the_item_in_the_new_pack(
    site: CatalogSite, pack_no: int
) -> None:
    """Neither waits for the other for ever: both lock items before packs."""
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    pack = worker.claim()
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(PACKS):
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(1)
        registering = site.start(worker.register, pack, item(1), item(2))
        site.wait_until_waiting(2)
    assert committing.result() is True
    assert registering.result() == {0: rewriting.moved_to()}
    assert where(site)[item(2)] == pack.pack_no


def test_a_rewrite_that_waits_for_a_registration_gives_up(site: CatalogSite, pack_no: int) -> None:
    """Scenario 5: the registration was promised the old pack's item."""
    protect(site, "other")
    worker = Worker(site, open_on(site, "other"))
    pack = worker.claim()
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(PACKS):
        registering = site.start(worker.register, pack, item(2))
        site.wait_until_waiting(1)
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(2)
    assert registering.result() == {0: pack_no}
    assert committing.result() is False


def test_a_seal_under_way_is_followed_by_the_rewrite(site: CatalogSite, pack_no: int) -> None:
    """Scenario 24: the address that leaves is taken from where the item is then."""
    worker = Worker(site, open_on(site, "vm"))
    worker.finish({worker.store(item(9)): PackUse(entered=1), pack_no: PackUse(departed=1)})
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(2)
    assert isinstance(sealing.result(), Sealed)
    assert committing.result() is True
    assert site.sql(
        "SELECT addresses, last_sequence FROM pack_use WHERE pack_no = %s", rewriting.moved_to()
    ) == [(0, 2)]


def test_open_rows_of_a_volume_become_one_row(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    packs = [worker.store(item(1), item(2)), worker.store(item(3))]
    worker.finish({pack_no: PackUse(entered=1) for pack_no in packs})
    worker.seal()
    rewriting = Rewriting(site, *packs)
    assert rewriting.commit(STORED, [item(1), item(3)]) is True
    assert site.sql("SELECT pack_no, addresses, first_sequence, last_sequence FROM pack_use") == [
        (rewriting.moved_to(), 2, 1, None)
    ]


def test_a_reader_in_the_old_pack_keeps_the_rewrite_from_committing(
    site: CatalogSite, pack_no: int
) -> None:
    """Scenario 29; one that has gone does not."""
    point = find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "latest"))
    lease = uuid7()
    open_lease(site.restore, lease, point, 60, announce=False)
    rewriting = Rewriting(site, pack_no)
    resolve(site.restore, lease, point.domain_nos, [item(1)], 60)
    assert rewriting.commit(STORED, LIVE) is False
    close_lease(site.restore, lease)
    assert rewriting.commit(STORED, LIVE) is True


def test_a_reader_that_waits_for_a_rewrite_looks_again(site: CatalogSite, pack_no: int) -> None:
    """Scenario 29: the rewrite commits between its look and its pin."""
    point = find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "latest"))
    lease = uuid7()
    open_lease(site.restore, lease, point, 60, announce=False)
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(PACKS):
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(1)
        resolving = site.start(resolve, site.restore, lease, point.domain_nos, LIVE, 60)
        site.wait_until_waiting(2)
    assert committing.result() is True
    assert resolving.result().packs.keys() == {rewriting.moved_to()}


def test_an_expiry_that_waits_for_a_rewrite_shortens_the_moved_rows(
    site: CatalogSite, pack_no: int
) -> None:
    """Scenario 25 with the rows of two packs that become one."""
    third = Worker(site, open_on(site, "vm"))
    new = third.store(item(5))
    third.finish({new: PackUse(entered=1), pack_no: PackUse(departed=1)})
    third.seal()
    ((second,),) = site.sql("SELECT session FROM snapshot WHERE sequence = 2")
    rewriting = Rewriting(site, pack_no)
    with site.holding_log(PACKS):
        committing = site.start(rewriting.commit, STORED, LIVE)
        site.wait_until_waiting(1)
        expiring = site.start(expire, site.catalog, TENANT, second, by="a test")
        site.wait_until_waiting(2)
    assert committing.result() is True
    assert isinstance(expiring.result(), Expired)
    assert site.sql("SELECT FROM pack_use WHERE pack_no = %s", rewriting.moved_to()) == []
    assert (rewriting.moved_to(),) in site.sql("SELECT pack_no FROM candidate")


def test_an_upload_that_was_swept_is_not_committed(site: CatalogSite, pack_no: int) -> None:
    rewriting = Rewriting(site, pack_no)
    site.sql("UPDATE marking SET again_at = now() - interval '1 second'")
    rewriting.site.sql(
        """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
           SELECT %s, domain_no, key_id, %s, 'u' FROM domain""",
        rewriting.generation,
        rewriting.token,
    )
    assert bury_abandoned(site.catalog, 10) == 1
    assert rewriting.commit(STORED, LIVE) is False
    assert where(site)[item(1)] == pack_no


def test_a_rewriter_that_was_taken_over_commits_nothing(site: CatalogSite, pack_no: int) -> None:
    slow = Rewriting(site, pack_no)
    assert Rewriting(site, pack_no).packs == []
    site.sql("UPDATE marking SET again_at = now() - interval '1 second'")
    quick = Rewriting(site, pack_no)
    assert renew_marking(site.catalog, slow.token, 60) == set()
    assert slow.commit(STORED, LIVE) is False
    assert quick.commit(STORED, LIVE) is True
    assert slow.commit(STORED, LIVE) is False


def test_a_pack_found_too_live_is_left_alone_for_some_time(site: CatalogSite, pack_no: int) -> None:
    assert pack_no in find_mostly_dead(site.catalog, 0, 0.5, 100).packs
    rewriting = Rewriting(site, pack_no)
    end_marking(site.catalog, rewriting.token, [pack_no], 3600)
    assert pack_no not in find_mostly_dead(site.catalog, 0, 0.5, 100).packs
    assert rewriting.commit(STORED, LIVE) is False


def test_the_hint_names_packs_whose_heads_use_few_items(site: CatalogSite, pack_no: int) -> None:
    assert find_mostly_dead(site.catalog, 0, 0.5, 100).packs == {pack_no: 3}
    assert find_mostly_dead(site.catalog, 0, 0.3, 100).packs == {}
    found = find_mostly_dead(site.catalog, 0, 0.5, 1)
    assert (found.packs, found.next_pack_no) == ({pack_no: 3}, pack_no + 1)
    assert find_mostly_dead(site.catalog, pack_no + 1, 0.5, 100).next_pack_no is None


def test_what_a_rewrite_may_free_is_known_by_what_heads_use(
    site: CatalogSite, pack_no: int
) -> None:
    """One of three items."""
    site.sql("UPDATE pack SET size_bytes = 3001 WHERE pack_no = %s", pack_no)
    assert weigh(site.catalog, [pack_no]) == Weight(3001, 1000, 0, 0)
    assert weigh(site.catalog, []) == Weight(0, 0, 0, 0)


def test_a_pack_that_older_snapshots_use_may_free_less(site: CatalogSite, pack_no: int) -> None:
    """The same item by an open row, then another by a closed one; until they expire."""
    site.sql("UPDATE pack SET size_bytes = 3000")
    kept = Worker(site, open_on(site, "vm"))
    kept.finish({})
    assert isinstance(kept.seal(), Sealed)
    assert weigh(site.catalog, [pack_no]) == Weight(3000, 1000, 1, 2000)
    gone = Worker(site, open_on(site, "vm"))
    gone.finish({pack_no: PackUse(departed=1)})
    assert isinstance(gone.seal(), Sealed)
    assert weigh(site.catalog, [pack_no]) == Weight(3000, 0, 1, 3000)
    ((head,),) = site.sql("SELECT max(sequence) FROM snapshot")
    last = Worker(site, open_on(site, "vm"))
    last.look_up(*STORED)
    last.finish({pack_no: PackUse(entered=2)})
    assert isinstance(last.seal(), Sealed)
    expire_anyway(site, "vm", *range(1, head + 1))
    assert weigh(site.catalog, [pack_no]) == Weight(3000, 2000, 0, 0)


def test_points_to_read_are_the_live_ones_that_may_need_the_pack(
    site: CatalogSite, pack_no: int
) -> None:
    point = next_point(site.catalog, [pack_no], 0, 0)
    assert point is not None
    assert point.label == "vm@2"
    assert next_point(site.catalog, [pack_no], point.volume_no, point.sequence) is None


def test_items_that_another_pack_has_are_not_in_the_pack(site: CatalogSite, pack_no: int) -> None:
    ((domain_no,),) = site.sql("SELECT domain_no FROM domain")
    assert indexed_in(site.catalog, domain_no, pack_no, [*STORED, item(4)]) == set(STORED)


def test_nothing_is_rewritten_by_a_catalog_that_went_back_in_time(
    site: CatalogSite, pack_no: int
) -> None:
    """Scenario 12."""
    rewriting = Rewriting(site, pack_no)
    site.sql("UPDATE incarnation SET reconciled = false")
    try:
        with pytest.raises(NotReconciledError), site.impatient():
            begin_marking(site.catalog, uuid7(), [pack_no], 60)
        with pytest.raises(NotReconciledError), site.impatient():
            rewriting.commit(STORED, LIVE)
    finally:
        site.sql("UPDATE incarnation SET reconciled = true")


def where(site: CatalogSite) -> dict[bytes, int]:
    """Id of each indexed item → its pack."""
    ((domain_no,),) = site.sql("SELECT domain_no FROM domain")
    rows = site.sql(f"SELECT id_high, id_low, pack_no FROM chunk_{domain_no}")
    return {high.bytes + low.bytes: pack_no for high, low, pack_no in rows}
