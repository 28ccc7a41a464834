"""Leases: they keep what a restore, a download, a verification or a marking reads.

A lease pins the snapshot (its row) and each pack when it resolves it, live and locked; both are
needed, because a pack that is rewritten goes even while the snapshot stays (scenario 29). Every
lease has an id that its owner chose and a deadline; one that dies holds nothing back for longer.

A lease that is announced is a restore: each of its steps is an event.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.index import Domains, Resolved, locate, pin_packs
from libs.catalogdb.packs.location import LOCATION_COLUMNS, PackLocation
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.snapshots.points import SnapshotVolume, volume_of_snapshot
from libs.errors import ConflictError, DamagedDataError, NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.restores import (
    RestoreCompleted,
    RestoreFailed,
    RestorePlanned,
    RestoreProgressed,
    RestoreRequested,
)

#: Code of the RestoreFailed of a restore that was not heard of for too long.
DEADLINE_CODE = "deadline"


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far a restore is, as told by whoever restores: totals since it began."""

    #: Logical bytes written and verified.
    restored_bytes: int
    #: Stored bytes fetched.
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """How a restore ended, as told by whoever restored."""

    progress: RestoreProgress
    seconds: float
    #: Code and message of the error; None if every byte was written and verified.
    failure: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """One window of a restore's plan, in figures."""

    first_chunk: int
    chunk_count: int
    packs: int
    frames: int
    planned_bytes: int


def open_lease(
    catalog: Catalog,
    lease: UUID,
    point: SnapshotVolume,
    deadline_seconds: float,
    *,
    announce: bool,
) -> None:
    """Pin a snapshot for a lease. Opening it again with the same id renews it.

    Args:
        catalog: the catalog.
        lease: chosen by the caller.
        point: what is read.
        deadline_seconds: without renewal for so long, the pins fall.
        announce: whether to log events: for whole restores, not for single ranges.

    Raises:
        NotFoundError: the snapshot is no longer live.
        ConflictError: the id stands for a lease of something else, or for one that has ended.
    """
    with catalog.transaction() as tx:
        live = tx.execute(
            "SELECT 1 FROM snapshot WHERE session = %s AND state = 'l' FOR SHARE", [point.session]
        )
        if live.fetchone() is None:
            raise NotFoundError(f"snapshot {point.session}: it has expired meanwhile")
        opened = tx.execute(
            """INSERT INTO lease AS l (lease, session, volume_no, announced, deadline)
               VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
               ON CONFLICT (lease) DO UPDATE SET deadline = excluded.deadline
               WHERE l.state = 'o'
                 AND (l.session, l.volume_no, l.announced)
                     = (excluded.session, excluded.volume_no, excluded.announced)
               RETURNING xmax = 0""",
            [lease, point.session, point.volume_no, announce, deadline_seconds],
        ).fetchone()
        if opened is None:
            raise ConflictError(
                f"restore {lease}: the id is taken by one that has ended or reads something else; "
                f"choose a new one"
            )
        if announce and opened[0]:  # xmax is 0 in a row that was inserted, not updated
            event = RestoreRequested(
                restore=lease,
                session=point.session,
                volume=point.volume,
                size_bytes=point.size_bytes,
            )
            append(tx, "restore", [Entry(event, point.tenant, str(lease), lease)])


def point_of_lease(catalog: Catalog, tenant: str, lease: UUID) -> SnapshotVolume:
    """What an open lease reads.

    Raises:
        NotFoundError: the tenant has no open lease of this id.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            "SELECT session, volume_no FROM lease WHERE lease = %s AND state = 'o'", [lease]
        ).fetchone()
        if row is not None:
            session, volume_no = row
            point = volume_of_snapshot(tx, tenant, session, volume_no)
            if point is not None:
                return point
    raise _not_open(lease)


def resolve(
    catalog: Catalog, lease: UUID, domains: Domains, ids: Sequence[bytes], deadline_seconds: float
) -> Resolved:
    """Find where items lie, given their tagged ids, and pin their packs for the lease.

    Renews its deadline.

    A rewrite may move items between our look and our pin; then the pack that we saw is condemned,
    and the index, changed by the same commit, says where they are now (scenario 29).

    Raises:
        NotFoundError: the lease is closed or its deadline has passed; open a new one.
        DamagedDataError: an item is not in the index, or its pack is no longer live.
    """
    lost: set[int] = set()
    with catalog.transaction() as tx:
        renew_lease(tx, lease, deadline_seconds)
        while True:
            resolved = locate(tx, domains, ids)
            refused = resolved.packs.keys() - pin_packs(tx, lease, resolved.packs)
            if not refused:
                return resolved
            if refused & lost:  # we have looked again since it was condemned
                raise _not_live(resolved.packs[pack_no] for pack_no in sorted(refused & lost))
            lost |= refused


def resolve_pack(
    catalog: Catalog, lease: UUID, domains: Domains, generation: UUID, deadline_seconds: float
) -> PackLocation:
    """Find a live pack by its name and pin it for the lease; renews its deadline.

    Raises:
        NotFoundError: the lease is closed, or the domains have no live pack of this name.
    """
    with catalog.transaction() as tx:
        renew_lease(tx, lease, deadline_seconds)
        pack = one_row(
            tx,
            PackLocation,
            sql.SQL(
                """SELECT {} FROM pack p JOIN domain d USING (domain_no)
                   WHERE generation = %s AND domain_no = ANY(%s) AND state = 'l'"""
            ).format(LOCATION_COLUMNS),
            [generation, list(domains)],
        )
        # A pack that cannot be pinned was condemned since we looked.
        if pack is None or not pin_packs(tx, lease, [pack.pack_no]):
            raise NotFoundError(f"pack {generation.hex}: there is no live pack of this generation")
        return pack


def report_planned(
    catalog: Catalog, lease: UUID, point: SnapshotVolume, window: PlannedWindow
) -> None:
    """Log that a window of a restore's plan was resolved."""
    event = RestorePlanned(
        restore=lease,
        session=point.session,
        volume=point.volume,
        first_chunk=window.first_chunk,
        chunk_count=window.chunk_count,
        packs=window.packs,
        frames=window.frames,
        planned_bytes=window.planned_bytes,
    )
    with catalog.transaction() as tx:
        append(tx, "restore", [Entry(event, point.tenant, str(lease), lease)])


def report_progress(
    catalog: Catalog,
    lease: UUID,
    point: SnapshotVolume,
    progress: RestoreProgress,
    deadline_seconds: float,
) -> None:
    """Log how far a restore is and renew its deadline. Figures never decrease.

    Raises:
        NotFoundError: the lease is closed or its deadline has passed.
    """
    with catalog.transaction() as tx:
        renew_lease(tx, lease, deadline_seconds)
        row = tx.execute(
            """UPDATE lease SET bytes = greatest(bytes, %s),
                                 fetched_bytes = greatest(fetched_bytes, %s)
               WHERE lease = %s RETURNING bytes, fetched_bytes""",
            [progress.restored_bytes, progress.fetched_bytes, lease],
        ).fetchone()
        assert row is not None
        event = RestoreProgressed(
            restore=lease,
            session=point.session,
            volume=point.volume,
            restored_bytes=row[0],
            fetched_bytes=row[1],
        )
        append(tx, "restore", [Entry(event, point.tenant, str(lease), lease)])


def close_lease(catalog: Catalog, lease: UUID) -> None:
    """Let go of everything that a lease which is not announced has pinned. Idempotent."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE lease SET state = 'c', ended_at = now()
               WHERE lease = %s AND state = 'o' AND NOT announced""",
            [lease],
        )
        tx.execute(
            """DELETE FROM pin USING lease l
               WHERE owner = %s AND l.lease = owner AND l.state <> 'o'""",
            [lease],
        )


def end_restore(catalog: Catalog, tenant: str, lease: UUID, end: RestoreOutcome) -> UUID:
    """Let go of everything that a restore pinned and log how it ended; once, however often told.

    Returns:
        The snapshot that was read.

    Raises:
        NotFoundError: the tenant has none of this id, or it has ended otherwise: at its deadline.
    """
    state = "f" if end.failure else "c"
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT session, volume_no, state::text FROM lease
               WHERE lease = %s AND announced FOR UPDATE""",
            [lease],
        ).fetchone()
        if row is None:
            raise _not_open(lease)
        session, volume_no, known_state = row
        point = volume_of_snapshot(tx, tenant, session, volume_no)
        if point is None or known_state not in ("o", state):
            raise _not_open(lease)
        if known_state == state:
            return point.session  # told before, and the answer was lost
        tx.execute(
            """UPDATE lease SET state = %s, ended_at = now(), bytes = %s, fetched_bytes = %s
               WHERE lease = %s""",
            [state, end.progress.restored_bytes, end.progress.fetched_bytes, lease],
        )
        tx.execute("DELETE FROM pin WHERE owner = %s", [lease])
        append(tx, "restore", [_ended(lease, point, end)])
        return point.session


def drop_overdue_leases(catalog: Catalog) -> int:
    """Close leases whose deadline has passed; returns how many."""
    with catalog.transaction() as tx:
        overdue = all_rows(
            tx,
            _Overdue,
            """UPDATE lease l SET state = 'f', ended_at = now()
               FROM volume v JOIN tenant t USING (tenant_no)
               WHERE l.state = 'o' AND l.deadline < now() AND v.volume_no = l.volume_no
               RETURNING l.lease, l.announced, l.session, v.volume_id AS volume, t.name AS tenant,
                         l.bytes AS restored_bytes, l.fetched_bytes""",
        )
        tx.execute("DELETE FROM pin WHERE owner = ANY(%s)", [[one.lease for one in overdue]])
        append(tx, "catalog", [_given_up(one) for one in overdue if one.announced])
    return len(overdue)


@dataclass(frozen=True, slots=True)
class _Overdue:
    """A lease that has just been closed at its deadline."""

    lease: UUID
    announced: bool
    session: UUID
    volume: UUID
    tenant: str
    restored_bytes: int
    fetched_bytes: int


def _given_up(one: _Overdue) -> Entry:
    failed = RestoreFailed(
        restore=one.lease,
        session=one.session,
        volume=one.volume,
        restored_bytes=one.restored_bytes,
        fetched_bytes=one.fetched_bytes,
        code=DEADLINE_CODE,
        message="whoever restored was not heard of before the deadline",
    )
    return Entry(failed, one.tenant, str(one.lease), one.lease)


def renew_lease(tx: Tx, lease: UUID, deadline_seconds: float) -> None:
    """Move an open lease's deadline.

    Raises:
        NotFoundError: it is closed, or its deadline has passed.
    """
    renewed = tx.execute(
        """UPDATE lease SET deadline = now() + make_interval(secs => %s)
           WHERE lease = %s AND state = 'o' RETURNING 1""",
        [deadline_seconds, lease],
    ).fetchone()
    if renewed is None:
        raise _not_open(lease)


def _not_live(packs: Iterable[PackLocation]) -> DamagedDataError:
    names = ", ".join(pack.generation.hex for pack in packs)
    return DamagedDataError(f"packs {names}: needed by a live snapshot, but no longer live")


def _ended(lease: UUID, point: SnapshotVolume, end: RestoreOutcome) -> Entry:
    event: RestoreCompleted | RestoreFailed
    if end.failure is None:
        event = RestoreCompleted(
            restore=lease,
            session=point.session,
            volume=point.volume,
            restored_bytes=end.progress.restored_bytes,
            fetched_bytes=end.progress.fetched_bytes,
            seconds=end.seconds,
        )
    else:
        code, message = end.failure
        event = RestoreFailed(
            restore=lease,
            session=point.session,
            volume=point.volume,
            restored_bytes=end.progress.restored_bytes,
            fetched_bytes=end.progress.fetched_bytes,
            code=code,
            message=message[:MESSAGE_LENGTH_MAX],
        )
    return Entry(event, point.tenant, str(lease), lease)


def _not_open(lease: UUID) -> NotFoundError:
    return NotFoundError(
        f"restore {lease}: none of this id is open: it has ended, or was not heard of before its "
        f"deadline; start a new one"
    )
