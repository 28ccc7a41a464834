"""Postgres returns to an earlier state under the store of a later one (scenarios 12, 14 and 17)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.deletion.condemning import condemn_unused
from libs.catalogdb.log.log import read_log
from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.recovery.dump import dump
from libs.catalogdb.recovery.incarnation import read_incarnation
from libs.catalogdb.sessions.attempts import Stale
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import SessionView, open_session, reject_session
from libs.copies.stores import Stores
from libs.errors import NotReconciledError
from libs.events.notifications import NotificationRaised
from libs.events.positions import positions_begin
from libs.events.topics import SNAPSHOTS
from libs.ids import new_generation, uuid7
from libs.store.folder import FolderStore
from libs.store.layout import CheckpointName, pack_object
from libs.store.port import Body, ObjectStore
from services.catalog.recovery.adoption import Adoption
from services.catalog.recovery.check import CatalogCheck
from services.catalog.recovery.checkpoints import Standing
from services.catalog.recovery.manifests import Decisions
from services.chunker.sealer import Sealer
from tests.integration.catalog.protected import TENANT, content
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.support.catalog import Worker, open_on


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("disk", "other")
        yield made


def test_a_catalog_that_was_not_compared_appends_and_opens_nothing(line: Timeline) -> None:
    line.protected.take("disk", 1)
    line.go_back(line.dump())
    notice = NotificationRaised(kind="test", severity="info", message="x")
    with line.site.impatient(), pytest.raises(NotReconciledError, match="since it was compared"):
        raise_notification(line.site.catalog, "catalog", TENANT, "x", notice)
    with pytest.raises(NotReconciledError, match="since it was compared"):
        open_session(line.site.coordinator, TENANT, "disk", uuid7(), 60)
    assert line.checkpoints.compare().standing is Standing.BEHIND


def test_a_new_catalog_over_an_empty_store_is_current(line: Timeline) -> None:
    assert line.checkpoints.compare().standing is Standing.CURRENT
    line.checkpoints.write()
    assert line.checkpoints.compare().standing is Standing.CURRENT
    line.protected.take("disk", 1)
    line.checkpoints.write()
    assert line.checkpoints.compare().standing is Standing.CURRENT


def test_a_checkpoint_or_a_manifest_that_the_catalog_does_not_know_proves_that_it_fell_back(
    line: Timeline,
) -> None:
    line.checkpoints.write()
    before = line.dump()
    line.protected.take("disk", 1)
    line.go_back(before)
    # As after a crash of the same server, where nothing but the time of its start differs.
    line.site.sql("UPDATE incarnation SET life = split_part(catalog_life(), ' ', 1) || ' 0'")
    found = line.checkpoints.compare()
    assert (found.standing, "manifest" in found.reason) == (Standing.BEHIND, True)
    line.site.sql("UPDATE incarnation SET life = catalog_life()")
    assert line.checkpoints.compare().standing is Standing.CURRENT
    newest = line.shelf.newest_state()
    assert newest is not None
    line.shelf.put_head(_later(line), newest.head)
    assert line.checkpoints.compare().standing is Standing.BEHIND


def test_a_restart_of_the_same_server_is_current_at_once(line: Timeline) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.site.sql("UPDATE incarnation SET life = split_part(catalog_life(), ' ', 1) || ' 0'")
    with pytest.raises(NotReconciledError):
        open_on(line.site, "disk")
    assert line.checkpoints.compare().standing is Standing.CURRENT
    assert isinstance(open_on(line.site, "disk"), SessionView)


def test_yesterdays_catalog_over_todays_store_loses_and_resurrects_nothing(
    line: Timeline, tmp_path: Path
) -> None:
    protected = line.protected
    protected.take("disk", 1, 2, 3)
    protected.take("disk", 1, 2, 4)
    protected.take("other", 11, 12)
    line.checkpoints.write()
    yesterday = line.dump()

    protected = line.protected
    protected.take("disk", 5, 2, 4)
    protected.take("disk", 5, 6, 4)
    protected.take("other", 11, 13)
    assert protected.expire("disk", 1)
    assert protected.expire("disk", 3)
    rejected = _leave_a_rejected_manifest(line, tmp_path, "other")
    line.checkpoints.write()
    protected.collect()
    gone = line.generations("d")
    assert gone
    protected.take("disk", 5, 6, 7)  # after the newest checkpoint

    line.go_back(yesterday)
    assert line.checkpoints.compare().standing is Standing.BEHIND
    report = line.reconcile()
    protected = line.protected

    assert line.live() == set(protected.live)
    assert report.recovered == ["disk@5"]
    assert report.damaged == []
    protected.check()
    assert line.site.sql("SELECT state::text FROM session WHERE session = %s", rejected) == [("r",)]
    assert not gone & line.generations("l")
    # Nothing is deduplicated against what is gone, and references are those that sealing counts.
    protected.take("disk", 1, 3, 7)
    protected.take("other", 13, 1)
    protected.check()
    protected.expire("disk", 2)
    protected.expire("disk", 4)
    protected.collect()
    protected.check()
    protected.take("disk", 3, 3, 3)
    protected.check()


def test_a_delete_that_was_on_its_way_cannot_hit_what_is_live_after_a_fall_back(
    line: Timeline,
) -> None:
    """A collector condemns, sleeps before its DELETE, and wakes after the reconciliation."""
    protected = line.protected
    protected.take("disk", 1, 2, 3)
    protected.take("disk", 4, 5, 6)
    line.checkpoints.write()
    yesterday = line.dump()
    protected = line.protected
    assert protected.expire("disk", 1)
    condemn_unused(line.site.catalog, 0, 100)
    condemned = line.generations("c")
    assert condemned
    line.checkpoints.witness()  # what the collector does before its DELETE

    line.go_back(yesterday)
    line.reconcile()
    assert condemned <= line.generations("d")
    for generation in condemned:
        line.store.delete(pack_object(generation))
    protected = line.protected
    protected.take("disk", 1, 2, 3)
    protected.check()


def test_a_restart_between_a_manifest_and_its_commit_is_no_fall_back(
    line: Timeline, tmp_path: Path
) -> None:
    """Postgres is killed while it commits a seal: the session is open, its manifest is there."""
    protected = line.protected
    protected.take("disk", 1)
    _leave_an_open_sessions_manifest(line, tmp_path, "disk")
    line.site.sql("UPDATE incarnation SET life = split_part(catalog_life(), ' ', 1) || ' 0'")
    assert line.checkpoints.compare().standing is Standing.CURRENT


def test_positions_of_the_forgotten_time_are_never_given_again(line: Timeline) -> None:
    line.checkpoints.write()
    yesterday = line.dump()
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.go_back(yesterday)
    report = line.reconcile()
    assert report.incarnation == 1
    line.protected.take("disk", 2)
    events = read_log(line.site.catalog, SNAPSHOTS, 0, 100)
    positions = [event.envelope.position for event in events]
    assert positions == [positions_begin(1) + n for n in range(1, len(events) + 1)]
    line.go_back(yesterday)
    assert line.reconcile().incarnation == 2


def test_a_session_of_before_the_fall_back_cannot_go_on(line: Timeline) -> None:
    yesterday_view = open_on(line.site, "disk")
    worker = Worker(line.site, yesterday_view)
    line.go_back(line.dump())
    line.reconcile()
    worker.site = line.site
    assert isinstance(worker.begin(new_generation()), Stale)
    state = line.site.sql(
        "SELECT state::text, reject_code FROM session WHERE session = %s", yesterday_view.session
    )
    assert state == [("r", "catalog-went-back")]


def test_a_session_that_was_open_in_the_dump_and_sealed_since_is_sealed(line: Timeline) -> None:
    view = open_on(line.site, "disk")
    line.checkpoints.write()
    yesterday = line.dump()
    assert isinstance(_seal(line, view, line.store), Sealed)
    line.go_back(yesterday)
    line.reconcile()
    assert line.live() == {("disk", 1)}
    line.protected.live["disk", 1] = content(21, 22)
    line.protected.check()


def test_reconciling_that_was_killed_goes_on_where_it_was(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.protected.take("disk", 1, 2)
    yesterday = line.dump()
    line.protected.take("disk", 3, 2)
    line.protected.take("disk", 3, 4)
    line.checkpoints.write()
    line.protected.take("disk", 5, 4)
    line.go_back(yesterday)
    for step in ("_apply", "_take_back", "_compare_packs", "_recount"):

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as killed:
            killed.setattr(Adoption, step, die)
            with pytest.raises(KeyboardInterrupt):
                line.reconcile()
        assert not read_incarnation(line.site.catalog).reconciled
        with pytest.raises(NotReconciledError, match="being reconciled"):
            open_session(line.site.coordinator, TENANT, "disk", uuid7(), 60)
    report = line.reconcile()
    assert report.incarnation == 1
    line.protected.check()
    assert line.live() == {("disk", n) for n in (1, 2, 3, 4)}


def test_snapshots_whose_packs_the_store_has_lost_are_named(line: Timeline) -> None:
    protected = line.protected
    protected.take("disk", 1, 2)
    before = set(line.store.list("packs/"))
    protected.take("disk", 1, 3)
    lost = next(stat.key for stat in line.store.list("packs/") if stat not in before)
    line.go_back(line.dump())
    line.store.delete(lost)
    report = line.reconcile()
    assert [point.label for point in report.damaged] == ["disk@2"]
    assert report.packs_lost == 1
    line.protected.live.pop(("disk", 2))
    line.protected.check()
    line.protected.take("disk", 1, 3)
    line.protected.check()


def test_everything_comes_back_from_the_store_alone(line: Timeline) -> None:
    """Scenario 14: bucket and key-encryption key are all there is."""
    protected = line.protected
    for numbers in ((1, 2, 3), (1, 0, 3), (4, 5, 3)):
        protected.take("disk", *numbers)
    protected.take("other", 1, 2)
    protected.expire("disk", 1)
    line.checkpoints.write()
    protected.collect()
    protected.take("disk", 4, 5, 6)
    known = list(dump(line.site.catalog))
    line.lose_everything()
    assert line.checkpoints.compare().standing is Standing.LOST
    line.reconcile()
    line.protected.check()
    assert line.live() == set(line.protected.live)
    assert list(dump(line.site.catalog)) == known
    line.protected.take("disk", 9, 5, 6)
    line.protected.check()


def test_manifests_alone_bring_snapshots_back_where_no_checkpoint_was_ever_written(
    line: Timeline,
) -> None:
    line.protected.take("disk", 1, 2)
    line.protected.take("disk", 3, 2)
    line.lose_everything()
    report = line.reconcile()
    assert report.recovered == ["disk@1", "disk@2"]
    line.protected.check()
    assert line.site.sql("SELECT DISTINCT recovered FROM snapshot") == [(True,)]


def test_a_rebuilt_catalog_equals_the_live_one_and_what_was_changed_by_hand_is_found(
    line: Timeline,
) -> None:
    protected = line.protected
    for numbers in ((1, 2, 3), (1, 0, 3), (4, 5, 3)):
        protected.take("disk", *numbers)
    protected.take("other", 1, 2)
    protected.expire("disk", 2)
    protected.collect()
    checking = CatalogCheck(
        line.site.catalog,
        line.site.dsn_of("catalog"),
        Stores(line.store),
        protected.vault,
        line.checkpoints,
    )
    result = checking.check()
    assert (result.differences, result.changed_meanwhile) == (0, False)
    assert result.rows > 15
    line.site.sql("UPDATE pack_use SET addresses = addresses + 1 WHERE last_sequence IS NULL")
    result = checking.check()
    assert {one.table for one in result.told} == {"pack_use"}
    assert line.site.sql("SELECT FROM pg_tables WHERE schemaname = 'backcast_check'") == []


def test_what_the_log_says_decides_over_the_order_of_manifests(
    line: Timeline, tmp_path: Path
) -> None:
    protected = line.protected
    protected.take("disk", 1)
    rejected = _leave_a_rejected_manifest(line, tmp_path, "disk")
    line.lose_everything()
    line.reconcile(Decisions(sealed={protected.sessions["disk", 1]}, rejected={rejected}))
    assert line.live() == {("disk", 1)}
    assert line.site.sql("SELECT recovered FROM snapshot") == [(False,)]


def _later(line: Timeline) -> CheckpointName:
    own = read_incarnation(line.site.catalog)
    return CheckpointName(own.number, own.checkpoint + 7)


def _seal(line: Timeline, view: SessionView, store: ObjectStore) -> Sealed | Refused:
    name = view.group
    line.protected.taker.fill(view, {name: content(21, 22)})
    return Sealer(line.site.chunker, store, line.protected.vault).seal(view.session)


class CutOffAtItsManifest(FolderStore):
    """A store whose client is cut off once the manifest is durable.

    Fault model: its session passes its deadline meanwhile, so that the seal that follows is
    refused; or Postgres dies, so that there is none.
    """

    def __init__(self, folder: Path, then: Callable[[], object]) -> None:
        super().__init__(folder)
        self._then = then

    def put(self, key: str, body: Body) -> None:
        super().put(key, body)
        self._then()


def _leave_a_rejected_manifest(line: Timeline, folder: Path, volume: str) -> UUID:
    view = open_on(line.site, volume)
    store = CutOffAtItsManifest(
        folder,
        lambda: reject_session(line.site.coordinator, "coordinator", view.session, "x", "late"),
    )
    assert isinstance(_seal(line, view, store), Refused)
    return view.session


def _leave_an_open_sessions_manifest(line: Timeline, folder: Path, volume: str) -> None:
    def die() -> None:
        raise NotReconciledError("Postgres was killed")

    with pytest.raises(NotReconciledError, match="killed"):
        _seal(line, open_on(line.site, volume), CutOffAtItsManifest(folder, die))
