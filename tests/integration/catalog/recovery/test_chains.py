"""Checkpoints as a base and deltas: nothing that changed is left out, and little is written."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node
from libs.catalogdb.recovery import changes
from libs.catalogdb.recovery.checkpoint_rows import read_rows
from libs.catalogdb.sessions.folding import fold_sessions
from libs.catalogdb.sessions.session import reject_session
from libs.catalogdb.snapshots.holds import place_hold, release_hold
from libs.checkpoints.checkpoint import Link
from libs.checkpoints.rows import Row
from libs.copies.stores import Stores
from libs.errors import NotReconciledError
from libs.store.folder import FolderStore
from libs.store.layout import CheckpointName, checkpoint_object
from services.catalog.recovery import checkpoints as writing
from services.catalog.recovery.check import CatalogCheck
from services.catalog.recovery.checkpoints import Checkpoints
from tests.integration.catalog.protected import TENANT
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.support.announcing import announce, enrol_and_forget, enrol_anew
from tests.support.catalog import open_on
from tests.support.many_snapshots import make_snapshots, table_bytes

#: Live and expired snapshots: in `make test` a tenth of what is promised for.
_SCALES = {"sample": (1_000, 10_000), "full": (10_000, 100_000), "soak": (10_000, 100_000)}
#: Of each expired snapshot, with all tables, indexes and the dead pack that it left.
EXPIRED_BYTES_MAX = 300


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("disk")
        yield made


def stored(line: Timeline) -> list[Row]:
    """What the newest checkpoint stands for."""
    newest = line.shelf.newest_state()
    assert newest is not None
    return list(line.shelf.rows(newest))


def present(line: Timeline) -> list[Row]:
    """What a dump of the whole would say."""
    with line.site.catalog.transaction() as tx:
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return list(read_rows(tx))


def same(left: list[Row], right: list[Row]) -> bool:
    return sorted(map(repr, left)) == sorted(map(repr, right))


def test_after_any_work_base_and_deltas_equal_a_dump_of_the_whole(line: Timeline) -> None:
    protected, site = line.protected, line.site
    rng = random.Random(8)
    for step in range(30):
        match rng.randrange(7):
            case 0 | 1:
                protected.take("disk", rng.randrange(9), step + 20)
            case 2:
                protected.expire("disk", rng.choice([one for _, one in protected.live] or [1])) if (
                    protected.live
                ) else None
            case 3:
                protected.collect()
                fold_sessions(site.catalog, 0, 100)
            case 4:
                view = open_on(site, "disk")
                reject_session(site.coordinator, "coordinator", view.session, "x", "late")
            case 5:
                boot = UUID(int=rng.randrange(3))
                announce(site.coordinator, Node("node-1", "http://node-1:1", "node-1:2", boot))
                change = enrol_and_forget if boot.int else enrol_anew
                change(site.coordinator, "node-2", UUID(int=step + 1))
            case _:
                if protected.live:
                    place = next(iter(protected.live))
                    place_hold(site.catalog, TENANT, protected.sessions[place], "legal", str(step))
                    line.checkpoints.write()
                    release_hold(site.catalog, TENANT, protected.sessions[place], "legal")
        line.checkpoints.write()
        assert same(stored(line), present(line)), f"after step {step} of seed 8"
    newest = line.shelf.newest_state()
    assert newest is not None
    assert newest.head.chain, "many deltas were written, and no base but the first"
    checking = CatalogCheck(
        site.catalog, site.dsn_of("catalog"), Stores(line.store), protected.vault, line.checkpoints
    )
    assert checking.check().differences == 0


def test_nothing_is_written_when_nothing_changed(line: Timeline) -> None:
    first = line.checkpoints.write()
    assert line.checkpoints.write() == first
    boot = UUID(int=7)
    for _ in range(3):  # a node announces itself again and again
        announce(line.site.coordinator, Node("node-1", "http://node-1:1", "node-1:2", boot))
    assert line.checkpoints.write() == first


def test_a_change_between_the_reading_and_the_recording_is_in_the_next_delta(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.protected.take("disk", 1)
    session = line.protected.sessions["disk", 1]
    line.checkpoints.write()
    place_hold(line.site.catalog, TENANT, session, "legal", "before")
    put_head = line.shelf.put_head

    def change_then_put(name: CheckpointName, head: object) -> Link:
        release_hold(line.site.catalog, TENANT, session, "legal")
        return put_head(name, head)  # type: ignore[arg-type] # passed on

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(line.checkpoints.shelf, "put_head", change_then_put)
        line.checkpoints.write()
    assert not same(stored(line), present(line))
    line.checkpoints.write()
    assert same(stored(line), present(line))


def test_a_change_that_is_not_committed_when_a_delta_is_recorded_is_in_the_next_one(
    line: Timeline,
) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.site.sql("UPDATE node SET rpc_url = 'http://first:1'")
    with line.site.holding("UPDATE node SET rpc_url = 'http://second:1'"):
        line.checkpoints.write()
    line.checkpoints.write()
    assert same(stored(line), present(line))


@pytest.mark.parametrize("step", ["put_part", "put_head", "record_link"])
def test_a_crash_at_any_step_loses_no_change(
    line: Timeline, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.protected.take("disk", 2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        where = writing if step == "record_link" else line.checkpoints.shelf
        killed.setattr(where, step, die)
        with pytest.raises(KeyboardInterrupt):
            line.checkpoints.write()
    assert line.checkpoints.compare().reason == ""
    again = Checkpoints(line.site.catalog, line.store, line.shelf, keep_count=2)
    again.write()
    assert same(stored(line), present(line))
    line.protected.take("disk", 3)
    again.write()
    assert same(stored(line), present(line))


def test_two_services_at_once_leave_no_change_out(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.protected.take("disk", 2)
    other = Checkpoints(line.site.catalog, line.store, line.shelf, keep_count=2)
    record = changes.record_link

    def beside(*arguments: object) -> bool:
        monkeypatch.setattr(writing, "record_link", record)
        line.protected.take("disk", 3)
        other.write()
        return record(*arguments)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(writing, "record_link", beside)
    line.checkpoints.write()
    assert same(stored(line), present(line))
    line.protected.take("disk", 4)
    line.checkpoints.write()
    assert same(stored(line), present(line))


def test_what_a_person_deleted_is_not_built_upon(line: Timeline) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.protected.take("disk", 2)
    last = line.checkpoints.write()
    line.store.delete(checkpoint_object(last))
    line.checkpoints.write()
    assert same(stored(line), present(line))
    newest = line.shelf.newest_state()
    assert newest is not None
    assert newest.head.chain == ()


def test_a_new_incarnation_begins_with_a_base(line: Timeline) -> None:
    line.protected.take("disk", 1)
    line.checkpoints.write()
    line.protected.take("disk", 2)
    line.checkpoints.write()
    before = line.dump()
    line.protected.take("disk", 3)
    line.checkpoints.write()
    line.go_back(before)
    with pytest.raises(NotReconciledError, match="since it was compared"):
        line.checkpoints.write()
    line.reconcile()
    newest = line.shelf.newest_state()
    assert newest is not None
    assert (newest.name.incarnation, newest.head.chain) == (1, ())
    assert same(stored(line), present(line))
    line.protected.check()


def test_many_expired_snapshots_cost_little_and_one_more_costs_what_it_is(
    line: Timeline, request: pytest.FixtureRequest
) -> None:
    live_count, expired_count = _SCALES[request.config.getoption("--scale")]
    site = line.site
    line.checkpoints.write()
    empty = table_bytes(site)
    make_snapshots(site, "disk", live_count, 0)
    live = sum(table_bytes(site).values()) - sum(empty.values())
    site.sql("DELETE FROM event_log")
    for table in ("verification", "snapshot_volume", "snapshot", "attempt", "part", "session"):
        site.run(f"DELETE FROM {table}", {})
    make_snapshots(site, "disk", live_count, expired_count)
    while fold_sessions(site.catalog, 0, 2000):
        pass
    bury_all(line)
    site.run(
        """SELECT fold_events('backcast.snapshots', now() - interval '30 days', 1000000)""", {}
    )
    line.checkpoints.write()  # a base
    sizes = table_bytes(site)
    each = (sum(sizes.values()) - sum(empty.values()) - live) / expired_count
    print(f"{each:.0f} bytes of Postgres for each expired snapshot: {sizes}")
    assert each < EXPIRED_BYTES_MAX

    add_one(line)
    with contextlib.closing(Catalog(site.dsn_of("catalog"), size_max=1)) as alone:
        alone.open()
        writer = Checkpoints(alone, line.store, line.shelf, keep_count=10)
        rows, objects = rows_read(alone), stored_objects(line)
        writer.write()
        cost = rows_read(alone) - rows
    print(f"{cost} rows read for a checkpoint after one new snapshot")
    assert 0 < cost < 200
    assert sum(stored_objects(line).values()) - sum(objects.values()) < 4096
    newest = line.shelf.newest_state()
    assert newest is not None
    assert len(newest.head.chain) == 1
    assert same(stored(line), present(line))


def bury_all(line: Timeline) -> None:
    """As collectors do: every pack that is condemned is dead."""
    line.site.run(
        """UPDATE pack SET state = 'd', frames = '', key_id = NULL, attempt = NULL,
                  size_bytes = NULL, items = NULL, created_at = NULL
           WHERE state = 'c'""",
        {},
    )


def add_one(line: Timeline) -> None:
    """One more snapshot of the group, as a seal writes it."""
    session = uuid4()
    line.site.sql(
        """WITH s AS (INSERT INTO session (session, group_no, state, head_sequence, deadline)
                      SELECT %s, group_no, 's', head_sequence, now() FROM volume_group
                      RETURNING session, group_no, head_sequence)
           INSERT INTO snapshot (session, group_no, sequence, manifest_key, mac, consistency)
           SELECT session, group_no, head_sequence + 1, 'm', 'mac', 'quiet' FROM s""",
        session,
    )
    line.site.sql(
        "UPDATE volume_group SET head_sequence = head_sequence + 1, head_session = %s", session
    )


def rows_read(alone: Catalog) -> int:
    """Rows that Postgres has read so far from the catalog's tables, by scans and by indexes.

    Args:
        alone: of one connection, which then has told all that it has read.
    """
    with alone.transaction() as tx:
        tx.execute("SELECT pg_stat_force_next_flush()")
    with alone.transaction() as tx:
        row = tx.execute(
            """SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
               FROM pg_stat_user_tables WHERE schemaname = 'public'"""
        ).fetchone()
    assert row is not None
    return int(row[0])


def stored_objects(line: Timeline) -> dict[str, int]:
    return {stat.key: stat.size_bytes for stat in line.store.list("checkpoints/")}


def test_changes_are_noted_by_whoever_makes_them(line: Timeline) -> None:
    """Each table that a checkpoint carries has a trigger; a service needs no rights for it."""
    line.checkpoints.write()
    with line.site.catalog.transaction() as tx:
        assert changes.count_dirty(tx) == 0
    line.protected.take("disk", 1)
    with line.site.catalog.transaction() as tx:
        kinds = {
            row[0]
            for row in tx.execute("SELECT kind FROM checkpoint_change WHERE carried_by IS NULL")
        }
    assert kinds == {"group", "snapshot"}
