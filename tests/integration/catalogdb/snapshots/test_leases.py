"""Leases keep what they read: the snapshot, and each pack as they resolve it."""

from uuid import UUID

import psycopg
import pytest

from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.snapshots.leases import (
    close_lease,
    drop_overdue_leases,
    open_lease,
    resolve,
)
from libs.catalogdb.snapshots.points import SnapshotVolume, find_volume_at
from libs.errors import DamagedDataError, NotFoundError
from libs.ids import uuid7
from libs.points import RecoveryPoint
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    condemn,
    expire_anyway,
    item,
    open_on,
    protect,
    rewrite,
    take_snapshot,
)


@pytest.fixture
def pack_no(site: CatalogSite) -> int:
    """The pack of a group's only snapshot."""
    protect(site, "vm")
    return take_snapshot(site, "vm", item(1), item(2))[1]


@pytest.fixture
def point(site: CatalogSite, pack_no: int) -> SnapshotVolume:
    return find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "latest"))


def opened(site: CatalogSite, point: SnapshotVolume) -> UUID:
    lease = uuid7()
    open_lease(site.restore, lease, point, 60, announce=False)
    return lease


def test_a_resolved_pack_outlives_its_snapshot_until_the_reader_is_closed(
    site: CatalogSite, point: SnapshotVolume, pack_no: int
) -> None:
    """Scenario 29."""
    lease = opened(site, point)
    resolved = resolve(site.restore, lease, point.domain_nos, [item(2), item(1), item(2)], 60)
    assert resolved.locations == [(pack_no, 1), (pack_no, 0), (pack_no, 1)]
    expire_anyway(site, "vm", 1, 2)
    assert condemn(site, pack_no) is False
    close_lease(site.restore, lease)
    close_lease(site.restore, lease)
    assert condemn(site, pack_no) is True


def test_a_resolved_pack_is_not_rewritten(
    site: CatalogSite, point: SnapshotVolume, pack_no: int
) -> None:
    """Scenario 29: a snapshot's pin alone would not keep the pack."""
    lease = opened(site, point)
    with psycopg.connect(site.dsn) as db:
        moved = rewrite(db, point.domain_no, pack_no, [item(1), item(2)])
    assert moved is not None
    resolved = resolve(site.restore, lease, point.domain_nos, [item(1)], 60)
    assert resolved.packs.keys() == {moved}
    with psycopg.connect(site.dsn) as db:
        assert rewrite(db, point.domain_no, moved, [item(1), item(2)]) is None


def test_opening_waits_for_an_expiry_and_then_finds_nothing(
    site: CatalogSite, point: SnapshotVolume
) -> None:
    """Scenarios 2 and 29."""
    with site.holding("UPDATE snapshot SET state = 'x'"):
        opening = site.start(opened, site, point)
        site.wait_until_waiting(1)
    assert isinstance(opening.exception(), NotFoundError)


def test_a_pack_that_is_gone_is_damage_and_never_an_answer(
    site: CatalogSite, point: SnapshotVolume
) -> None:
    lease = opened(site, point)
    site.sql("UPDATE pack SET state = 'd'")
    with pytest.raises(DamagedDataError):
        resolve(site.restore, lease, point.domain_nos, [item(1)], 60)
    with pytest.raises(DamagedDataError, match=item(9).hex()):
        resolve(site.restore, lease, point.domain_nos, [item(9)], 60)
    assert site.sql("SELECT FROM pin") == []


def test_a_reader_past_its_deadline_holds_nothing_back(
    site: CatalogSite, point: SnapshotVolume, pack_no: int
) -> None:
    """A lease that dies is like one that was closed; resolving renews one that lives."""
    dead, alive = opened(site, point), opened(site, point)
    for lease in (dead, alive):
        resolve(site.restore, lease, point.domain_nos, [item(1)], 60)
    site.sql("UPDATE lease SET deadline = now() - interval '1 s'")
    resolve(site.restore, alive, point.domain_nos, [item(1)], 60)
    assert drop_overdue_leases(site.catalog) == 1
    with pytest.raises(NotFoundError):
        resolve(site.restore, dead, point.domain_nos, [item(1)], 60)
    assert site.sql("SELECT owner FROM pin") == [(alive,)]
    close_lease(site.restore, alive)
    expire_anyway(site, "vm", 1, 2)
    assert condemn(site, pack_no) is True


def test_a_reader_of_an_older_snapshot_finds_what_the_head_has_left(
    site: CatalogSite, point: SnapshotVolume, pack_no: int
) -> None:
    worker = Worker(site, open_on(site, "vm"))
    second = worker.store(item(3))
    worker.finish({pack_no: PackUse(departed=2), second: PackUse(entered=2)})
    worker.seal()
    assert condemn(site, pack_no) is False
    older = find_volume_at(site.restore, TENANT, RecoveryPoint("vm", "1"))
    assert older.session == point.session
    resolved = resolve(site.restore, opened(site, older), older.domain_nos, [item(1)], 60)
    assert resolved.packs.keys() == {pack_no}
