"""Expiry: a snapshot is given up, and what only it referred to may be collected.

Order: `expire` (one transaction: the snapshot is expired, the rows of `pack_use` that ended there
are shortened or go, their packs become candidates of collection, SnapshotExpired) → its manifest's
object is deleted → that is recorded (`libs.catalogdb.deletion.condemning`). A crash after the
commit leaves an object that a collector deletes later. Sequence and MAC of the snapshot stay for
ever, because the manifests after it are chained to it: first in its row, which later is folded
(`libs.catalogdb.sessions.folding`).

Closed rows of `pack_use` always end at a live snapshot, and open ones exist only while the head is
live. So the rows that end where a snapshot expires are all that it can hold alone (scenario 25),
and the work is O(those rows), however many snapshots and packs there are.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg import sql

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows
from libs.catalogdb.snapshots.retention import IS_OVERDUE
from libs.errors import NotFoundError
from libs.events.snapshots import SnapshotExpired

#: Who expires what a group's retention does not keep.
BY_RETENTION = "retention"

Reason = Literal["last-good-point", "held", "base-of-session", "being-read", "kept"]


@dataclass(frozen=True, slots=True)
class Expired:
    """The snapshot cannot be restored any more."""

    session: UUID
    sequence: int
    #: Rows of `pack_use` that were shortened or went.
    rows: int
    #: Packs that perhaps nothing needs any more.
    packs: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The snapshot stays."""

    session: UUID
    sequence: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class ExpiredSnapshot:
    """What is left of a snapshot that expired."""

    session: UUID
    group: str
    sequence: int
    sealed_at: datetime
    #: None: a catalog that was rebuilt knows that it expired, but not when.
    expired_at: datetime | None


def expire(
    catalog: Catalog, tenant: str, session: UUID, by: str, *, dry_run: bool = False
) -> Expired | Refused:
    """Give up a snapshot, unless something needs it; one that has expired stays so.

    Never removed are the group's last good point (the newest live snapshot that is not known to be
    damaged, or the newest if all are), what somebody holds, the base of an open session, and what
    an open lease reads. It needs no clock.

    Args:
        catalog: the catalog.
        tenant: whose snapshot.
        session: the snapshot.
        by: name of whoever asks.
        dry_run: only say what would become of it now.

    Raises:
        NotFoundError: the tenant has no such snapshot.
        NotReconciledError: the catalog may have gone back in time; trying again later may help.
    """
    with catalog.transaction() as tx:
        return _expire(tx, tenant, session, by, dry_run=dry_run)


def expire_overdue(catalog: Catalog, tenant: str, session: UUID) -> Expired | Refused:
    """Give up a snapshot that its group's retention does not keep, by what holds at this moment.

    Raises as `expire` does.
    """
    with catalog.transaction() as tx:
        return _expire(tx, tenant, session, None)


def list_expired(
    catalog: Catalog, tenant: str, name: str | None, limit: int
) -> list[ExpiredSnapshot]:
    """The tenant's expired snapshots, the last given up first; of one volume or group if named."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            ExpiredSnapshot,
            """SELECT s.session, g.name AS "group", s.sequence, s.sealed_at, s.expired_at
               FROM (SELECT session, group_no, sequence, sealed_at, expired_at FROM snapshot
                     WHERE state = 'x'
                     UNION ALL SELECT session, group_no, sequence, sealed_at, ended_at FROM past
                     WHERE sequence IS NOT NULL) s
               JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               WHERE t.name = %(tenant)s
                 AND (%(name)s::text IS NULL OR g.name = %(name)s
                      OR EXISTS (SELECT FROM volume v
                                 WHERE v.group_no = g.group_no AND v.name = %(name)s))
               ORDER BY s.expired_at DESC NULLS LAST, s.session DESC LIMIT %(limit)s""",
            {"tenant": tenant, "name": name, "limit": limit},
        )


@dataclass(frozen=True, slots=True)
class _Locked:
    group_no: int
    group: UUID
    sequence: int
    is_head: bool
    live: bool


def _expire(
    tx: Tx, tenant: str, session: UUID, by: str | None, *, dry_run: bool = False
) -> Expired | Refused:
    require_reconciled(tx)
    sequence = _past_sequence(tx, tenant, session)
    if sequence is not None:
        return Expired(session, sequence, rows=0, packs=0)
    snapshot = _lock(tx, tenant, session)
    if not snapshot.live:
        return Expired(session, snapshot.sequence, rows=0, packs=0)
    refusal = _refusal(tx, session, snapshot.group_no, overdue_only=by is None)
    if refusal:
        return Refused(session, snapshot.sequence, *refusal)
    if dry_run:
        return Expired(session, snapshot.sequence, rows=0, packs=0)
    tx.execute("UPDATE snapshot SET state = 'x', expired_at = now() WHERE session = %s", [session])
    rows, packs = _shorten(tx, snapshot)
    event = SnapshotExpired(
        session=session, group=snapshot.group, sequence=snapshot.sequence, by=by or BY_RETENTION
    )
    append(tx, "catalog", [Entry(event, tenant, str(snapshot.group), session)])
    return Expired(session, snapshot.sequence, rows, packs)


def _past_sequence(tx: Tx, tenant: str, session: UUID) -> int | None:
    """The sequence of the tenant's snapshot if it was folded."""
    row = tx.execute(
        """SELECT sequence FROM past JOIN volume_group USING (group_no)
           JOIN tenant t USING (tenant_no) WHERE session = %s AND t.name = %s""",
        [session, tenant],
    ).fetchone()
    return row[0] if row else None


def _lock(tx: Tx, tenant: str, session: UUID) -> _Locked:
    """Lock the group, then the snapshot, as sessions, seals and leases do.

    The group's lock keeps its sessions from opening on this base and its head from moving; the
    snapshot's keeps holds and leases out. What they did before is seen by later statements.
    """
    group = tx.execute(
        """SELECT g.group_no, g.group_id, s.sequence, g.head_session = s.session
           FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
           WHERE s.session = %s AND t.name = %s FOR UPDATE OF g""",
        [session, tenant],
    ).fetchone()
    if group is None:
        raise NotFoundError(f"snapshot {session}: tenant {tenant} has none of this id")
    row = tx.execute(
        "SELECT state = 'l' FROM snapshot WHERE session = %s FOR UPDATE", [session]
    ).fetchone()
    assert row is not None
    group_no, group_id, sequence, is_head = group
    return _Locked(group_no, group_id, sequence, is_head, row[0])


def _refusal(
    tx: Tx, session: UUID, group_no: int, *, overdue_only: bool
) -> tuple[Reason, str] | None:
    if overdue_only and not _is_overdue(tx, session):
        return "kept", "the group's retention keeps it"
    if session == _last_good_point(tx, group_no):
        return "last-good-point", "it is the group's last good recovery point"
    holds = tx.execute("SELECT owner, reason FROM hold WHERE session = %s", [session]).fetchone()
    if holds:
        return "held", f"{holds[0]} holds it: {holds[1]}"
    based = tx.execute(
        "SELECT session FROM session WHERE group_no = %s AND state = 'o' AND base = %s",
        [group_no, session],
    ).fetchone()
    if based:
        return "base-of-session", f"session {based[0]} takes a snapshot relative to it now"
    lease = tx.execute(
        "SELECT lease FROM lease WHERE session = %s AND state = 'o'", [session]
    ).fetchone()
    if lease:
        return "being-read", f"restore or download {lease[0]} reads it now"
    return None


def _is_overdue(tx: Tx, session: UUID) -> bool:
    row = tx.execute(IS_OVERDUE + " AND s.session = %s", [session]).fetchone()
    return row is not None


def _last_good_point(tx: Tx, group_no: int) -> UUID | None:
    row = tx.execute(
        """SELECT session FROM snapshot s WHERE group_no = %s AND state = 'l'
             AND NOT EXISTS (SELECT FROM verification v WHERE v.session = s.session AND v.damaged)
           ORDER BY sequence DESC LIMIT 1""",
        [group_no],
    ).fetchone()
    if row is None:
        row = tx.execute(
            """SELECT session FROM snapshot WHERE group_no = %s AND state = 'l'
               ORDER BY sequence DESC LIMIT 1""",
            [group_no],
        ).fetchone()
    return row[0] if row else None


def _shorten(tx: Tx, expired: _Locked) -> tuple[int, int]:
    """Shorten the rows that end at an expired snapshot; rows touched, and packs that lost one.

    Open rows end at the head. If it expires, which takes one that is known to be damaged, they are
    closed here: the next session has no base, and would close them at this snapshot (scenario 23).
    """
    row = tx.execute(
        """SELECT coalesce(max(sequence), 0) FROM snapshot
           WHERE group_no = %s AND state = 'l' AND sequence < %s""",
        [expired.group_no, expired.sequence],
    ).fetchone()
    assert row is not None
    wanted = {"group": expired.group_no, "sequence": expired.sequence, "before": row[0]}
    ending = _ENDING_AT_HEAD if expired.is_head else _ENDING
    # In order, because a rewriter repoints the rows of several packs at once.
    rows = tx.execute(_LOCK.format(ending=ending), wanted).rowcount
    packs = tx.execute(_REMOVE.format(ending=ending), wanted).rowcount
    tx.execute(_SHORTEN.format(ending=ending), wanted)
    return rows, packs


#: Two conditions instead of one with an OR: each has its index.
_ENDING = sql.SQL("v.group_no = %(group)s AND u.last_sequence = %(sequence)s")
_ENDING_AT_HEAD = sql.SQL("v.group_no = %(group)s AND u.last_sequence IS NULL")

_LOCK = sql.SQL(
    """SELECT 1 FROM pack_use u JOIN volume v USING (volume_no)
       WHERE {ending} ORDER BY u.pack_no FOR UPDATE OF u"""
)

#: The upsert locks the candidate: a collector that saw the pack used may be about to take it off.
_REMOVE = sql.SQL(
    """WITH gone AS (
           DELETE FROM pack_use u USING volume v
           WHERE v.volume_no = u.volume_no AND {ending} AND u.first_sequence > %(before)s
           RETURNING u.pack_no)
       INSERT INTO candidate AS c SELECT DISTINCT pack_no FROM gone ORDER BY pack_no
       ON CONFLICT (pack_no) DO UPDATE SET pack_no = c.pack_no"""
)

_SHORTEN = sql.SQL(
    """UPDATE pack_use u SET last_sequence = %(before)s FROM volume v
       WHERE v.volume_no = u.volume_no AND {ending}"""
)
