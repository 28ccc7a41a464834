"""What became of volumes survives the catalog: names, places, removals and pauses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, add_volume, list_volumes
from libs.catalogdb.recovery.dump import dump
from libs.catalogdb.sessions.session import SessionView
from libs.catalogdb.snapshots.notes import note_snapshot
from libs.catalogdb.snapshots.points import find_volume_at
from libs.catalogdb.tenants import read_tenant, set_quota
from libs.catalogdb.volumes.moving import move
from libs.catalogdb.volumes.pausing import pause
from libs.catalogdb.volumes.regrouping import regroup
from libs.catalogdb.volumes.removing import remove
from libs.catalogdb.volumes.renaming import rename
from libs.catalogdb.volumes.sharing import Place, join, leave, share
from libs.errors import PausedError
from libs.points import RecoveryPoint
from libs.store.folder import FolderStore
from tests.integration.catalog.protected import TENANT, content
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.support.catalog import BOOT, NODE, open_on


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("disk", "other", "third")
        yield made


def change_everything(line: Timeline) -> None:
    """Every change that there is, with recovery points before and after it."""
    coordinator = line.site.coordinator
    taker = line.protected.taker
    taker.protect(TENANT, "db", "data", "log")
    for name, number in (("disk", 1), ("other", 2), ("third", 3)):
        line.protected.take(name, number)
    taker.take(TENANT, "db", {"data": content(4), "log": content(5)})
    # Two volumes exchange their names.
    for name, new_name in (("disk", "free"), ("other", "disk"), ("free", "other")):
        rename(coordinator, TENANT, name, new_name)
    announce_node(coordinator, Node("node-2", "http://node-2:1", "node-2:2", BOOT))
    move(coordinator, TENANT, "disk", "node-2", "/dev/moved", None)
    remove(coordinator, TENANT, "log", "ops")
    taker.take(TENANT, "db", {"data": content(4, 6)})
    regroup(coordinator, TENANT, "third", "db", "ops", may_shorten=False)
    taker.take(TENANT, "db", {"data": content(4, 6), "third": content(9)})
    pause(coordinator, TENANT, "other", "ops", "the array moves")
    places = [Place(NODE.name, "/dev/c"), Place("node-2", "/dev/c")]
    share(coordinator, TENANT, "cluster", "db", places)
    announce_node(coordinator, Node("node-3", "http://node-3:1", "node-3:2", BOOT))
    join(coordinator, TENANT, "cluster", Place("node-3", "/dev/c"))
    leave(coordinator, TENANT, "cluster", NODE.name)
    set_quota(coordinator, TENANT, 1 << 50)
    session = line.protected.sessions["disk", 1]  # which is `other` by now
    note_snapshot(line.site.catalog, TENANT, session, "ops", "before the upgrade")


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_catalog_that_was_lost_or_fell_back_knows_what_became_of_volumes(
    line: Timeline, is_lost: bool
) -> None:
    line.checkpoints.write()
    yesterday = line.dump()
    change_everything(line)
    line.checkpoints.write()
    known = list(dump(line.site.catalog))
    if is_lost:
        line.lose_everything()
    else:
        line.go_back(yesterday)
    line.reconcile()
    assert list(dump(line.site.catalog)) == known
    site = line.site
    assert [(one.name, one.node) for one in list_volumes(site.restore, TENANT)] == [
        ("data", "node-1"),
        ("disk", "node-2"),
        ("other", "node-1"),
        ("third", "node-1"),
    ]
    gone = list_volumes(site.restore, TENANT, removed=True)
    assert [(one.name, one.removed_by) for one in gone] == [("log", "ops"), ("third-1", "ops")]
    view = open_on(site, "disk")
    assert (view.base is None, view.is_trusted) == (False, False)
    with pytest.raises(PausedError, match="the array moves"):
        open_on(site, "other")
    assert isinstance(open_on(site, "db"), SessionView)
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("other", "1")).note is not None
    assert read_tenant(site.coordinator, TENANT).quota_bytes == 1 << 50


def test_a_name_that_was_given_anew_after_the_last_checkpoint_goes_to_the_newer_volume(
    line: Timeline,
) -> None:
    """The rename was lost with the catalog, and a manifest proves that somebody has the name."""
    line.protected.take("disk", 1)
    line.checkpoints.write()
    first = line.site.sql("SELECT volume_id FROM volume WHERE name = 'disk'")
    rename(line.site.coordinator, TENANT, "disk", "old")
    add_volume(line.site.coordinator, TENANT, "disk", None, NODE.name, "/dev/new")
    line.protected.taker.take(TENANT, "disk", {"disk": content(7)})
    line.lose_everything()
    line.reconcile()
    ((first_id,),) = first
    names = [one.name for one in list_volumes(line.site.restore, TENANT)]
    assert names == ["disk", f"disk-{first_id}", "other", "third"]
    groups = line.site.sql("SELECT name FROM volume_group ORDER BY name")
    assert len(groups) == 4
    # A person gives it its name again.
    rename(line.site.coordinator, TENANT, f"disk-{first_id}", "old")
