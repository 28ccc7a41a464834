"""Volumes and groups that are renamed, moved, removed, taken back, regrouped and paused."""

from typing import Any

import pytest

from libs.catalogdb.log.log import read_log
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, add_volume, group_of, list_volumes
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import read_session, reject_session
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.points import find_volume_at, list_snapshots, newest_points
from libs.catalogdb.snapshots.retention import (
    RetentionPolicy,
    overdue_snapshots,
    points_given_up,
    set_retention,
)
from libs.catalogdb.volumes.moving import move
from libs.catalogdb.volumes.pausing import pause, resume
from libs.catalogdb.volumes.regrouping import regroup
from libs.catalogdb.volumes.removing import remove
from libs.catalogdb.volumes.renaming import rename
from libs.errors import ConflictError, NotFoundError, PausedError
from libs.events.topics import SNAPSHOTS
from libs.points import RecoveryPoint
from tests.integration.catalogdb.volumes.groups import seal_group
from tests.support.catalog import (
    BOOT,
    NODE,
    TENANT,
    CatalogSite,
    Worker,
    condemn,
    item,
    open_on,
    protect,
    take_snapshot,
)


def uses(site: CatalogSite, volume: str) -> list[tuple[Any, ...]]:
    """First and last sequence of each row of a volume's references."""
    return site.sql(
        """SELECT first_sequence, last_sequence FROM pack_use JOIN volume USING (volume_no)
           WHERE name = %s ORDER BY 1, 2""",
        volume,
    )


def told(site: CatalogSite) -> list[str]:
    """What the log says, by the last word of each event's type."""
    return [
        one.envelope.type.rpartition(".")[2] for one in read_log(site.catalog, SNAPSHOTS, 0, 99)
    ]


def names(site: CatalogSite, *, removed: bool = False) -> list[str]:
    return [one.name for one in list_volumes(site.restore, TENANT, removed=removed)]


def test_a_new_name_holds_for_the_whole_history(site: CatalogSite) -> None:
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    before = list_volumes(site.restore, TENANT)[0]
    renamed = rename(site.coordinator, TENANT, "disk", "web")
    assert (renamed.volume, renamed.group) == ("web", "web")
    after = list_volumes(site.restore, TENANT)[0]
    assert (after.volume_no, after.volume, after.group_id) == (
        before.volume_no,
        before.volume,
        before.group_id,
    )
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("web", "1")).name == "web"
    with pytest.raises(NotFoundError):
        find_volume_at(site.restore, TENANT, RecoveryPoint("disk", "latest"))
    assert told(site)[-2:] == ["volume_renamed", "group_renamed"]


def test_an_old_name_is_free_and_a_taken_one_is_not(site: CatalogSite) -> None:
    protect(site, "disk")
    add_volume(site.coordinator, TENANT, "log", None, NODE.name, "/dev/log")
    with pytest.raises(ConflictError, match="log: a volume of tenant acme has this name"):
        rename(site.coordinator, TENANT, "disk", "log")
    rename(site.coordinator, TENANT, "disk", "web")
    other = add_volume(site.coordinator, TENANT, "disk", None, NODE.name, "/dev/other")
    assert other.group == "disk"
    assert names(site) == ["disk", "log", "web"]


def test_an_open_session_is_sealed_under_the_name_that_holds_then(site: CatalogSite) -> None:
    protect(site, "disk")
    worker = Worker(site, open_on(site, "disk"))
    rename(site.coordinator, TENANT, "disk", "web")
    worker.finish_storing(item(1))
    assert isinstance(worker.seal(), Sealed)
    view = read_session(site.chunker, worker.view.session)
    assert [part.volume_name for part in view.parts] == ["web"]
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("web", "1")).sequence == 1


def test_a_group_is_renamed_apart_from_its_volumes(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    renamed = rename(site.coordinator, TENANT, "db", "database")
    assert (renamed.volume, renamed.group) == (None, "database")
    assert names(site) == ["data", "log"]
    assert rename(site.coordinator, TENANT, "data", "tables").group == "database"
    with pytest.raises(ConflictError, match="database: a group"):
        rename(site.coordinator, TENANT, "log", "database")


def test_after_a_move_nothing_tracked_is_trusted_until_the_next_snapshot(
    site: CatalogSite,
) -> None:
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    announce_node(site.coordinator, Node("node-2", "http://node-2:1", "node-2:2", BOOT))
    assert open_and_drop(site) is True
    moved = move(site.coordinator, TENANT, "disk", "node-2", "/dev/other", None)
    assert (moved.node, moved.path) == ("node-2", "/dev/other")
    assert open_and_drop(site) is False
    worker = Worker(site, open_on(site, "disk"))
    assert worker.view.base is not None
    assert not read_session(site.chunker, worker.view.session).is_trusted
    assert worker.view.parts[0].path == "/dev/other"
    worker.finish({})
    assert isinstance(worker.seal(), Sealed)
    assert open_and_drop(site) is True
    assert "volume_moved" in told(site)


def open_and_drop(site: CatalogSite) -> bool:
    """Whether a session that opens now may trust what its trackers say."""
    view = open_on(site, "disk")
    reject_session(site.coordinator, "coordinator", view.session, "cancelled", "test")
    return view.is_trusted


def test_a_move_waits_for_a_session_and_keeps_what_ended_ones_say(site: CatalogSite) -> None:
    protect(site, "disk")
    view = open_on(site, "disk")
    with pytest.raises(ConflictError, match=f"session {view.session} is taking"):
        move(site.coordinator, TENANT, "disk", NODE.name, "/dev/other", None)
    reject_session(site.coordinator, "coordinator", view.session, "cancelled", "test")
    announce_node(site.coordinator, Node("node-2", "http://node-2:1", "node-2:2", BOOT))
    move(site.coordinator, TENANT, "disk", "node-2", "/dev/other", None)
    (part,) = read_session(site.coordinator, view.session).parts
    assert (part.node, part.path) == (NODE.name, "/dev/disk")


def test_to_move_where_it_is_is_no_move(site: CatalogSite) -> None:
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    move(site.coordinator, TENANT, "disk", NODE.name, "/dev/disk", None)
    assert open_and_drop(site) is True
    move(site.coordinator, TENANT, "disk", NODE.name, "/dev/disk", "/mnt")
    assert open_and_drop(site) is True
    assert list_volumes(site.restore, TENANT)[0].freeze == "/mnt"


def test_the_same_path_twice_is_told_within_a_tenant_alone(site: CatalogSite) -> None:
    protect(site, "disk")
    with pytest.raises(ConflictError, match="volume disk of this tenant protects node-1:/dev/"):
        add_volume(site.coordinator, TENANT, "two", None, NODE.name, "/dev//./disk/")
    add_volume(site.coordinator, TENANT, "two", None, NODE.name, "/dev/disk", again=True)
    protect(site, "disk", tenant="other")  # the same path, and nothing is told
    with pytest.raises(ConflictError, match="--again"):
        move(site.coordinator, TENANT, "two", NODE.name, "/dev/disk/.", None)


def test_a_removed_volume_keeps_its_history_and_takes_no_snapshots(site: CatalogSite) -> None:
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    removed = remove(site.coordinator, TENANT, "disk", "ops")
    assert (removed.group, removed.points) == ("disk", 1)
    assert remove(site.coordinator, TENANT, "disk", "ops").points == 1
    assert (names(site), names(site, removed=True)) == ([], ["disk"])
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("disk", "latest")).sequence == 1
    with pytest.raises(NotFoundError, match="all volumes of it were removed"):
        open_on(site, "disk")
    assert told(site).count("volume_removed") == 1


def test_a_removal_waits_for_a_session(site: CatalogSite) -> None:
    protect(site, "disk")
    view = open_on(site, "disk")
    with pytest.raises(ConflictError, match=f"session cancel {view.session}"):
        remove(site.coordinator, TENANT, "disk", "ops")
    assert names(site) == ["disk"]


def test_a_group_goes_on_without_a_removed_volume_and_frees_what_it_held(
    site: CatalogSite,
) -> None:
    protect(site, "db", "data", "log")
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    assert uses(site, "log") == [(1, None)]
    ((pack_no,),) = site.sql(
        "SELECT pack_no FROM pack_use JOIN volume USING (volume_no) WHERE name = 'log'"
    )
    seal_group(site, "db", 10)
    # Its open row would have kept the pack for ever.
    assert uses(site, "log") == [(1, 1)]
    assert [one.name for one in list_snapshots(site.restore, TENANT, "db", 9, None)] == [
        "data",
        "data",
        "log",
    ]
    newest = {one.name: one.sequence for one in newest_points(site.restore, TENANT).values()}
    assert newest == {"data": 2, "log": 1}
    session = find_volume_at(site.restore, TENANT, RecoveryPoint("log", "latest")).session
    assert isinstance(expire(site.catalog, TENANT, session, "ops"), Expired)
    assert uses(site, "log") == []
    assert condemn(site, pack_no)


def test_damage_of_a_removed_volume_costs_the_others_no_base(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    site.sql("UPDATE volume SET counted_damage = -1 WHERE name = 'log'")
    assert open_on(site, "db").base is not None


def test_a_removed_volume_is_taken_back_with_its_history(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    with pytest.raises(ConflictError, match="was removed from node-1:/dev/log, and 1 recovery"):
        add_volume(site.coordinator, TENANT, "log", None, NODE.name, "/dev/elsewhere")
    with pytest.raises(ConflictError, match="without --group"):
        add_volume(site.coordinator, TENANT, "log", "other", NODE.name, "/dev/log")
    add_volume(site.coordinator, TENANT, "log", None, NODE.name, "/dev/log")
    assert names(site) == ["data", "log"]
    view = open_on(site, "db")
    assert [part.volume_name for part in view.parts] == ["data", "log"]
    assert view.base is not None
    assert "volume_returned" in told(site)


def test_one_that_missed_a_snapshot_is_counted_anew(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    seal_group(site, "db", 10)
    add_volume(site.coordinator, TENANT, "log", None, NODE.name, "/dev/log")
    seal_group(site, "db", 20)
    assert uses(site, "log") == [(1, 1), (3, None)]


def test_a_volume_that_returns_during_a_session_leaves_no_open_rows(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    seal_group(site, "db", 1)
    remove(site.coordinator, TENANT, "log", "ops")
    worker = Worker(site, open_on(site, "db"))
    add_volume(site.coordinator, TENANT, "log", None, NODE.name, "/dev/log")
    worker.finish({})
    assert isinstance(worker.seal(), Sealed)
    assert uses(site, "log") == [(1, 1)]


def test_a_volume_without_history_returns_to_any_place(site: CatalogSite) -> None:
    protect(site, "disk")
    remove(site.coordinator, TENANT, "disk", "ops")
    add_volume(site.coordinator, TENANT, "disk", None, NODE.name, "/dev/elsewhere")
    assert list_volumes(site.restore, TENANT)[0].path == "/dev/elsewhere"


def test_renaming_a_removed_volume_frees_its_name(site: CatalogSite) -> None:
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    remove(site.coordinator, TENANT, "disk", "ops")
    rename(site.coordinator, TENANT, "disk", "disk-2026")
    add_volume(site.coordinator, TENANT, "disk", None, NODE.name, "/dev/elsewhere")
    assert (names(site), names(site, removed=True)) == (["disk"], ["disk-2026"])
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("disk-2026", "1")).sequence == 1


def test_a_volume_that_changes_its_group_begins_anew(site: CatalogSite) -> None:
    protect(site, "db", "data")
    seal_group(site, "db", 1)
    add_volume(site.coordinator, TENANT, "disk", None, NODE.name, "/dev/disk")
    seal_group(site, "disk", 5)
    done = regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=False)
    assert (done.volume.group, done.kept_as, done.points) == ("db", "disk-1", 1)
    assert group_of(site.restore, TENANT, "disk") == "db"
    assert group_of(site.restore, TENANT, "disk-1") == "disk-1"
    seal_group(site, "db", 10)
    at = {
        name: find_volume_at(site.restore, TENANT, RecoveryPoint(name, "latest")).sequence
        for name in ("data", "disk", "disk-1")
    }
    assert at == {"data": 2, "disk": 2, "disk-1": 1}
    # The references of its history are still those of the group that it was in.
    assert (uses(site, "disk-1"), uses(site, "disk")) == ([(1, None)], [(2, None)])
    again = regroup(
        site.coordinator, TENANT, "disk", "disk", "ops", "disk-in-db", may_shorten=False
    )
    assert (again.volume.group, again.kept_as) == ("disk", "disk-in-db")
    assert (
        regroup(site.coordinator, TENANT, "disk", "disk", "ops", may_shorten=False).kept_as is None
    )


def test_a_volume_leaves_no_group_that_a_session_is_open_for(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    protect(site, "disk")
    view = open_on(site, "db")
    with pytest.raises(ConflictError, match="the volume cannot leave it"):
        regroup(site.coordinator, TENANT, "log", "logs", "ops", may_shorten=False)
    joined = regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=False)
    assert joined.volume.group == "db"
    assert len(read_session(site.coordinator, view.session).parts) == 2
    reject_session(site.coordinator, "coordinator", view.session, "cancelled", "test")
    with pytest.raises(ConflictError, match="cannot share a name"):
        regroup(site.coordinator, TENANT, "disk", "data", "ops", may_shorten=False)


def test_a_paused_group_says_who_and_why(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    paused = pause(site.coordinator, TENANT, "data", "ops", "the array moves")
    assert (paused.group, paused.volumes, paused.by) == ("db", ["data", "log"], "ops")
    pause(site.coordinator, TENANT, "db", "ops", "the array moves")
    with pytest.raises(PausedError, match=r"ops has paused it: the array moves; .*resume db"):
        open_on(site, "db")
    assert resume(site.coordinator, TENANT, "log", "ops").by is None
    resume(site.coordinator, TENANT, "log", "ops")
    assert open_on(site, "db").state == "open"
    assert [one for one in told(site) if one.startswith("group")] == [
        "group_paused",
        "group_resumed",
    ]


def test_an_open_session_goes_on_through_a_pause(site: CatalogSite) -> None:
    protect(site, "disk")
    worker = Worker(site, open_on(site, "disk"))
    pause(site.coordinator, TENANT, "disk", "ops", "why not")
    assert open_on_again(site, worker)
    worker.finish_storing(item(1))
    assert isinstance(worker.seal(), Sealed)


def open_on_again(site: CatalogSite, worker: Worker) -> bool:
    """Whether the same request is answered with the session that it opened."""
    view = read_session(site.coordinator, worker.view.session)
    return view.state == "open"


def test_retention_gives_up_nothing_of_a_paused_group(site: CatalogSite) -> None:
    protect(site, "disk")
    for number in range(3):
        take_snapshot(site, "disk", item(number))
    rule = RetentionPolicy(1, 0)
    set_retention(site.catalog, TENANT, "disk", rule, may_shorten=True)
    site.sql("UPDATE retention_clock SET trusted_at = now() + interval '1 hour'")
    assert len(overdue_snapshots(site.catalog, 9)) == 2
    pause(site.coordinator, TENANT, "disk", "ops", "the array moves")
    assert overdue_snapshots(site.catalog, 9) == []
    assert points_given_up(site.catalog, TENANT, "disk", rule) == []
    resume(site.coordinator, TENANT, "disk", "ops")
    assert len(overdue_snapshots(site.catalog, 9)) == 2
