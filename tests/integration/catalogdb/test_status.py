"""How backups stand and how much room they take, as a real catalog says it."""

import pytest

from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.status import read_installation_status, read_tenant_status
from libs.catalogdb.usage import VolumeUsage, freed_by_expiry, volume_usage
from libs.catalogdb.volumes.pausing import pause
from libs.catalogdb.volumes.removing import remove
from libs.errors import NotFoundError
from libs.ids import uuid7
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    condemn,
    item,
    open_on,
    protect,
    take_snapshot,
)

#: Of every pack that the support makes.
PACK = 1 << 20


def test_groups_are_told_by_what_is_newest(site: CatalogSite) -> None:
    for name in ("failing", "fine", "never", "paused"):
        protect(site, name)
    protect(site, "gone")
    take_snapshot(site, "gone", item(1))
    remove(site.coordinator, TENANT, "gone", "ops")
    take_snapshot(site, "fine", item(2))
    take_snapshot(site, "failing", item(3))
    failed = open_on(site, "failing")
    reject_session(site.coordinator, "coordinator", failed.session, "source", "no such file")
    again = open_on(site, "failing")
    pause(site.coordinator, TENANT, "paused", "ops", "the array moves")
    found = read_tenant_status(site.catalog, TENANT)
    by_name = {one.group: one for one in found.groups}
    assert list(by_name) == ["failing", "fine", "never", "paused"]
    fine, failing = by_name["fine"], by_name["failing"]
    assert (fine.sequence, fine.failed_session, fine.open_session) == (1, None, None)
    assert fine.age_seconds is not None
    assert 0 <= fine.age_seconds < 60
    assert (failing.sequence, failing.failed_session) == (1, failed.session)
    assert (failing.failed_code, failing.open_session) == ("source", again.session)
    assert by_name["never"].sequence is None
    assert by_name["paused"].paused_reason == "the array moves"
    (node,) = found.nodes
    assert (node.node, node.volumes) == ("node-1", 4)
    assert node.silent_seconds < 60


def test_a_failure_is_over_with_the_next_snapshot(site: CatalogSite) -> None:
    protect(site, "disk")
    failed = open_on(site, "disk")
    reject_session(site.coordinator, "coordinator", failed.session, "source", "no such file")
    take_snapshot(site, "disk", item(1))
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert group.failed_session is None


def test_an_open_session_says_which_volume_no_chunker_has_taken(site: CatalogSite) -> None:
    protect(site, "disk")
    opened = open_on(site, "disk")
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert (group.untaken_volume, group.untaken_node) == ("disk", "node-1")
    assert group.untaken_seconds is not None
    site.sql("UPDATE session SET cut_attempt = 1")
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert group.untaken_volume is None, "nothing is captured before the cut"
    site.sql("UPDATE session SET cut_at = now() - interval '50 seconds'")
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert group.untaken_volume == "disk"
    assert 50 <= (group.untaken_seconds or 0) < 100
    Worker(site, opened)
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert group.untaken_volume is None


def test_damage_and_missing_copies_are_counted(site: CatalogSite) -> None:
    protect(site, "disk")
    worker, _ = take_snapshot(site, "disk", item(1))
    site.sql(
        """INSERT INTO verification (session, level, damaged, damaged_bytes)
           VALUES (%s, 'full', true, 65536)""",
        worker.view.session,
    )
    site.sql("UPDATE volume_group SET copies = 2")
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert (group.damaged, group.lacking_copies) == (1, 0)
    site.sql("UPDATE snapshot SET sealed_at = now() - interval '2 hours'")
    (group,) = read_tenant_status(site.catalog, TENANT).groups
    assert group.lacking_copies == 1


def test_the_installation_is_well_until_it_is_not(site: CatalogSite) -> None:
    well = read_installation_status(site.catalog)
    assert (well.is_reconciled, well.is_clock_halted) == (True, False)
    site.sql("UPDATE retention_clock SET halted_since = now()")
    assert read_installation_status(site.catalog).is_clock_halted


def usage_of(site: CatalogSite) -> dict[str, VolumeUsage]:
    return {one.name: one for one in volume_usage(site.catalog, TENANT)}


def seal_using(site: CatalogSite, group: str, *packs: int) -> Worker:
    """A snapshot that finds everything in packs that are there."""
    worker = Worker(site, open_on(site, group))
    worker.look_up(*(item(pack) for pack in packs))
    worker.finish({pack: PackUse(entered=1) for pack in worker.pinned})
    assert isinstance(worker.seal(), Sealed)
    return worker


def test_room_is_told_apart_by_who_needs_it(site: CatalogSite) -> None:
    protect(site, "one")
    protect(site, "two")
    protect(site, "three", tenant="other")
    take_snapshot(site, "one", item(1))
    take_snapshot(site, "one", item(2))
    seal_using(site, "two", 1)
    take_snapshot(site, "two", item(3))
    found = usage_of(site)
    assert sorted(found) == ["one", "two"]
    one, two = found["one"], found["two"]
    assert (one.points, one.logical_bytes, one.protected_bytes) == (2, 1 << 30, 2 << 30)
    # Pack 1 is of both, 2 of one alone, 3 of the other alone.
    assert (one.unique_bytes, one.attributed_bytes) == (PACK, PACK + PACK // 2)
    assert (two.unique_bytes, two.attributed_bytes) == (PACK, PACK + PACK // 2)
    remove(site.coordinator, TENANT, "two", "ops")
    assert usage_of(site)["two"].removed_at is not None


def test_what_an_expiry_would_free_is_what_it_frees(site: CatalogSite) -> None:
    protect(site, "one")
    protect(site, "two")
    first = Worker(site, open_on(site, "one"))
    packs = [first.store(item(number)) for number in (1, 2)]
    first.finish({pack: PackUse(entered=1) for pack in packs})
    assert isinstance(first.seal(), Sealed)
    second = Worker(site, open_on(site, "one"))
    second.finish({packs[0]: PackUse(departed=1), packs[1]: PackUse(departed=1)})
    assert isinstance(second.seal(), Sealed)
    session = first.view.session
    assert freed_by_expiry(site.catalog, TENANT, session).packs == 2
    seal_using(site, "two", 2)
    freed = freed_by_expiry(site.catalog, TENANT, session)
    assert (freed.packs, freed.bytes) == (1, PACK)
    assert isinstance(expire(site.catalog, TENANT, session, "ops"), Expired)
    assert [condemn(site, pack) for pack in packs] == [True, False]
    with pytest.raises(NotFoundError):
        freed_by_expiry(site.catalog, TENANT, session)
    with pytest.raises(NotFoundError):
        freed_by_expiry(site.catalog, TENANT, uuid7())
