"""Folding: what is over becomes small, and whoever comes late is answered as before."""

from uuid import UUID

import pytest

from libs.catalogdb.deletion.condemning import record_manifests_deleted
from libs.catalogdb.deletion.sweeping import Verdict, judge_manifests
from libs.catalogdb.recovery.adoption import undecided_sessions, unknown_sessions
from libs.catalogdb.sessions.attempts import NotTaken, closed_attempts, take_part
from libs.catalogdb.sessions.folding import fold_sessions, has_ended
from libs.catalogdb.sessions.sealing import Sealed, seal
from libs.catalogdb.sessions.session import (
    open_session,
    read_session,
    reject_session,
    session_of_capture,
)
from libs.catalogdb.snapshots.expiry import Expired, expire, list_expired
from libs.catalogdb.verification import read_manifest_record
from libs.errors import ConflictError, NotFoundError
from libs.ids import uuid7
from tests.support.catalog import (
    BOOT,
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)

FOLDED = ("session", "part", "attempt", "snapshot", "snapshot_volume", "verification", "lease")


@pytest.fixture
def vm(site: CatalogSite) -> CatalogSite:
    protect(site, "vm")
    return site


def sessions(site: CatalogSite) -> list[UUID]:
    return [row[0] for row in site.sql("SELECT session FROM snapshot ORDER BY sequence")]


def expire_first(site: CatalogSite) -> UUID:
    """Two snapshots, the first expired and its manifest deleted."""
    take_snapshot(site, "vm", item(1))
    take_snapshot(site, "vm", item(2))
    first = sessions(site)[0]
    assert isinstance(expire(site.catalog, TENANT, first, "a test"), Expired)
    record_manifests_deleted(site.catalog, [first])
    return first


def counts(site: CatalogSite, session: UUID) -> dict[str, int]:
    return {
        table: site.sql(f"SELECT count(*) FROM {table} WHERE session = %s", session)[0][0]
        for table in FOLDED
    }


def test_one_row_is_left_of_an_expired_snapshot(vm: CatalogSite) -> None:
    first = expire_first(vm)
    link = vm.sql(
        "SELECT group_no, sequence, mac, sealed_at FROM snapshot WHERE session = %s", first
    )
    assert fold_sessions(vm.catalog, 3600, 10) == 0  # somebody may ask yet
    assert fold_sessions(vm.catalog, 0, 10) == 1
    assert set(counts(vm, first).values()) == {0}
    assert vm.sql("SELECT group_no, sequence, mac, sealed_at FROM past") == link
    assert fold_sessions(vm.catalog, 0, 10) == 0


def test_what_is_live_or_has_a_manifest_or_is_rejected_on_the_head_is_not_folded(
    vm: CatalogSite,
) -> None:
    first = expire_first(vm)
    vm.sql("UPDATE snapshot SET manifest_deleted = false")
    view = open_on(vm, "vm")
    reject_session(vm.coordinator, "coordinator", view.session, "x", "late")
    assert fold_sessions(vm.catalog, 0, 10) == 0
    assert vm.sql("SELECT state::text FROM session WHERE session = %s", view.session) == [("r",)]
    take_snapshot(vm, "vm", item(3))  # the head moves on
    assert fold_sessions(vm.catalog, 0, 10) == 1
    assert vm.sql("SELECT session, sequence FROM past") == [(view.session, None)]
    vm.sql("UPDATE snapshot SET manifest_deleted = true WHERE session = %s", first)
    assert fold_sessions(vm.catalog, 0, 10) == 1


def test_a_late_event_and_a_late_chunker_find_that_the_session_ended(vm: CatalogSite) -> None:
    """Scenario 15: terminal sessions are known for ever."""
    view = open_on(vm, "vm")
    worker = Worker(vm, view)
    reject_session(vm.coordinator, "coordinator", view.session, "x", "late")
    take_snapshot(vm, "vm", item(1))
    assert fold_sessions(vm.catalog, 0, 10) == 1
    assert session_of_capture(vm.chunker, worker.capture) is None
    assert has_ended(vm.chunker, view.session)
    assert not has_ended(vm.chunker, uuid7())
    taken = take_part(vm.chunker, worker.capture, BOOT, "late", 0, 0)
    assert taken == NotTaken(session_ended=True)
    assert closed_attempts(vm.chunker, [worker.attempt]) == {worker.attempt}
    assert not worker.renew()
    assert not reject_session(vm.chunker, "chunker", view.session, "x", "again")
    with pytest.raises(ConflictError, match="ended long ago"):
        open_session(vm.coordinator, TENANT, "vm", view.session, 60)
    with pytest.raises(NotFoundError, match="ended long ago"):
        read_session(vm.coordinator, view.session)


def test_a_folded_snapshot_is_answered_as_an_expired_one(vm: CatalogSite) -> None:
    first = expire_first(vm)
    second = sessions(vm)[1]
    known = read_manifest_record(vm.catalog, second)
    listed = list_expired(vm.catalog, TENANT, "vm", 10)
    assert fold_sessions(vm.catalog, 0, 10) == 1
    assert read_manifest_record(vm.catalog, second) == known
    assert list_expired(vm.catalog, TENANT, "vm", 10) == listed
    assert expire(vm.catalog, TENANT, first, "again") == Expired(first, 1, rows=0, packs=0)
    with pytest.raises(NotFoundError):
        expire(vm.catalog, "nobody", first, "again")
    assert seal(vm.chunker, first, "manifests/x", b"mac", []) == Sealed(first, 1)
    assert judge_manifests(vm.catalog, {"manifests/x": first}) == {"manifests/x": Verdict.DEAD}
    assert unknown_sessions(vm.catalog, [first]) == []
    assert undecided_sessions(vm.catalog, [first]) == []


def test_what_somebody_reads_or_holds_is_left_alone(vm: CatalogSite) -> None:
    first = expire_first(vm)
    with vm.holding("SELECT FROM snapshot WHERE session = %s FOR SHARE", first):
        assert fold_sessions(vm.catalog, 0, 10) == 0
    assert fold_sessions(vm.catalog, 0, 10) == 1
