"""What is kept of a volume that was removed, moved, or changed its group."""

import pytest

from libs.catalogdb.protected import find_volume, group_of
from libs.catalogdb.snapshots.expiry import Expired, Refused, expire, expire_overdue
from libs.catalogdb.snapshots.points import find_volume_at
from libs.catalogdb.snapshots.retention import (
    Kept,
    RetentionPolicy,
    overdue_snapshots,
    read_retention,
    set_retention,
)
from libs.catalogdb.volumes.moving import move
from libs.catalogdb.volumes.regrouping import regroup
from libs.catalogdb.volumes.removing import remove
from libs.errors import BadInputError, ForbiddenError, NotFoundError
from libs.points import RecoveryPoint
from tests.integration.catalogdb.volumes.groups import seal_group
from tests.support.catalog import NODE, TENANT, CatalogSite, item, protect, take_snapshot


def test_a_group_that_keeps_fewer_takes_a_volume_from_nobody_who_may_not_delete(
    site: CatalogSite,
) -> None:
    protect(site, "disk")
    protect(site, "db", "data")
    rule = RetentionPolicy(3, 60)
    set_retention(site.catalog, TENANT, "disk", rule, 2, may_shorten=True)
    for fewer, copies in ((RetentionPolicy(2, 60), 2), (RetentionPolicy(3, 59), 2), (rule, 1)):
        set_retention(site.catalog, TENANT, "db", fewer, copies, may_shorten=True)
        with pytest.raises(ForbiddenError, match=r"group db keeps the newest .* needs role delete"):
            regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=False)
    assert group_of(site.restore, TENANT, "disk") == "disk"
    done = regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=True)
    assert done.volume.group == "db"
    assert read_retention(site.catalog, TENANT, "disk-1").rule == rule


def test_a_group_that_keeps_as_much_takes_a_volume_from_whoever_backs_up(
    site: CatalogSite,
) -> None:
    protect(site, "disk")
    protect(site, "db", "data")
    set_retention(site.catalog, TENANT, "disk", RetentionPolicy(3, 60), 2, may_shorten=True)
    set_retention(site.catalog, TENANT, "db", RetentionPolicy(4, 60), 2, may_shorten=True)
    joined = regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=False)
    assert joined.volume.group == "db"
    # One that is made keeps everything, at as many stores.
    made = regroup(site.coordinator, TENANT, "disk", "new", "ops", may_shorten=False)
    assert made.volume.group == "new"
    assert read_retention(site.catalog, TENANT, "new") == Kept(rule=None, copies=2)
    with pytest.raises(ForbiddenError, match="instead of all at 2 stores"):
        regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=False)


def test_a_removed_volume_keeps_no_point_of_a_group_that_goes_on(site: CatalogSite) -> None:
    """The last good point is a group's, and newer ones of the group are without the volume."""
    protect(site, "db", "data", "log")
    set_retention(site.catalog, TENANT, "db", RetentionPolicy(1, 0), may_shorten=True)
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    seal_group(site, "db", 10)
    site.sql("UPDATE retention_clock SET trusted_at = now() + interval '1 hour'")
    (overdue,) = overdue_snapshots(site.catalog, 9)
    assert isinstance(expire_overdue(site.catalog, TENANT, overdue.session), Expired)
    with pytest.raises(NotFoundError):
        find_volume_at(site.restore, TENANT, RecoveryPoint("log", "latest"))


def test_a_removed_volume_keeps_the_last_good_point_of_a_group_that_ends(
    site: CatalogSite,
) -> None:
    protect(site, "disk")
    set_retention(site.catalog, TENANT, "disk", RetentionPolicy(1, 0), may_shorten=True)
    take_snapshot(site, "disk", item(1))
    remove(site.coordinator, TENANT, "disk", "ops")
    site.sql("UPDATE retention_clock SET trusted_at = now() + interval '1 hour'")
    assert overdue_snapshots(site.catalog, 9) == []
    session = find_volume_at(site.restore, TENANT, RecoveryPoint("disk", "latest")).session
    refused = expire(site.catalog, TENANT, session, "ops")
    assert isinstance(refused, Refused)
    assert refused.reason == "last-good-point"


def test_a_volume_that_moves_loses_no_freeze_unless_somebody_says_so(site: CatalogSite) -> None:
    """What the caller saw before may have changed: the move itself looks."""
    protect(site, "disk")
    move(site.coordinator, TENANT, "disk", NODE.name, "/dev/disk", "/mnt")
    with pytest.raises(BadInputError, match="/mnt is frozen while it is cut"):
        move(site.coordinator, TENANT, "disk", NODE.name, "/dev/other", None)
    assert find_volume(site.coordinator, TENANT, "disk").path == "/dev/disk"
    moved = move(site.coordinator, TENANT, "disk", NODE.name, "/dev/other", None, no_freeze=True)
    assert (moved.path, moved.freeze) == ("/dev/other", None)
