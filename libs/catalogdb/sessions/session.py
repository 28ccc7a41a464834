"""Sessions: the making of one snapshot, from the request to its acknowledgement or rejection.

A session is open, then sealed or rejected, for ever. It pins its base while open. One group has at
most one open session, because the base is the group's head or nothing. Sealing is in `sealing`.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from libs.catalogdb.domains import GroupDomain, append_granted
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.notifications.opening import open_notification
from libs.catalogdb.packs.damage import newest_damage
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.sessions.awaited import deadline_message
from libs.catalogdb.sessions.folding import is_past, require_not_past
from libs.catalogdb.sessions.opening import insert_parts, lock_live, require_admission
from libs.catalogdb.sessions.sources import Follower, followers_of, needs_barrier
from libs.catalogdb.sessions.telling import finding_of, tell_rejected
from libs.errors import NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.snapshots import SnapshotRejected, SnapshotRequested

#: Wakes whoever waits for a session; the payload is its UUID.
SESSION_CHANNEL = "backcast_session"

State = Literal["open", "sealed", "rejected"]
Consistency = Literal["frozen", "quiet", "unvouched", "fuzzy"]


@dataclass(frozen=True, slots=True)
class PartView:
    """One volume of a session: what its agent and chunker need, and how far it is."""

    volume_no: int
    volume: UUID
    volume_name: str
    path: str
    #: Mount point of the file system to freeze while writes are held, or None.
    freeze: str | None
    #: By which driver it is captured, unless the client brings hints.
    driver: str
    capture: UUID
    token: bytes
    #: The node that captures: that of the volume's lead source.
    node: str
    credential: UUID | None  # of the node; None: nothing can be ordered from it
    rpc_url: str
    span_address: str
    boot: UUID | None
    finished: bool
    attempt_number: int
    base_root: bytes | None
    base_level: int
    base_size_bytes: int
    root: bytes | None
    root_level: int
    size_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int
    consistency: Consistency
    #: How its changes are known, once its capture has begun (`attempts.Tracking`).
    tracking: str
    #: Whether other nodes write it, and which.
    is_shared: bool = False
    followers: tuple[Follower, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as the catalog knows it."""

    session: UUID
    tenant: str
    #: The group's list of domains, in order of their tags; the first one is the tenant's own.
    domains: tuple[GroupDomain, ...]
    group: str
    group_id: UUID
    state: State
    base: UUID | None
    head_sequence: int
    previous_mac: bytes | None
    sequence: int | None
    manifest_key: str | None
    reject_code: str | None
    reject_message: str | None
    seconds: float
    #: The current attempt at its barrier, from 1; 0 if it needs none.
    cut_attempt: int
    #: Whether the cut of that attempt counts.
    cut: bool
    #: Time since its deadline, negative before; of no meaning once it has ended.
    overdue_seconds: float
    #: False: in a session on the same base a tracker was found to have overlooked changes, or a
    #: volume was moved since.
    is_trusted: bool
    parts: tuple[PartView, ...]

    @property
    def domain_no(self) -> int:
        """Number of the tenant's own domain."""
        return self.domains[0].domain_no

    @property
    def domain(self) -> UUID:
        """The tenant's own domain."""
        return self.domains[0].domain

    @property
    def key_id(self) -> UUID:
        """Of the tenant's own domain: the data key that new packs use."""
        return self.domains[0].key_id


@dataclass(frozen=True, slots=True)
class GroupBusy:
    """Another session of the group is open; nothing was done."""

    session: UUID


def open_session(  # noqa: PLR0913 -- what a client may ask for
    catalog: Catalog,
    tenant: str,
    group: str,
    session: UUID,
    deadline_seconds: float,
    barrier_seconds: float = 30.0,
    *,
    full: bool = False,
    opened_with: str = "",
) -> SessionView | GroupBusy:
    """Open a session on a group's head, or return the one of this id, whatever became of it.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        group: name of the group.
        session: chosen by the client, so that a request that is sent twice makes one snapshot.
        deadline_seconds: without progress for so long, the session is rejected.
        barrier_seconds: for so long the first attempt at its barrier is the caller's alone.
        full: take no base, and count anew; as if what the head needs was found damaged since.
        opened_with: SHA-256 of the caller's token, with which the session ends.

    Raises:
        NotFoundError: no such group, or it has no volume any more. PausedError: it is paused.
        ConflictError: a session of this id was folded.
        NotReconciledError: the catalog may have gone back in time; nobody knows the head.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        locked = tx.execute(
            """SELECT group_no, head_sequence, head_session FROM volume_group g
               JOIN tenant t USING (tenant_no) WHERE t.name = %s AND g.name = %s FOR UPDATE OF g""",
            [tenant, group],
        ).fetchone()
        if locked is None:
            raise NotFoundError(f"group {group}: tenant {tenant} has none of this name")
        group_no, head_sequence, head = locked
        if tx.execute("SELECT 1 FROM session WHERE session = %s", [session]).fetchone():
            return session_view(tx, session)
        require_not_past(tx, session)
        busy = tx.execute(
            "SELECT session FROM session WHERE group_no = %s AND state = 'o'", [group_no]
        ).fetchone()
        if busy:
            return GroupBusy(busy[0])
        require_admission(tx, tenant, group, group_no)
        damage_seen, must_recount = newest_damage(tx, group_no)
        base = None if full or must_recount else lock_live(tx, head)
        opened = _insert_session(
            tx, session, group_no, base, head_sequence, damage_seen, barrier_seconds,
            deadline_seconds, opened_with)  # fmt: skip
        if not opened:  # the same id was given to another group at the same time
            return session_view(tx, session)
        append_granted(tx, group_no)
        insert_parts(tx, session, group_no, base)
        view = session_view(tx, session)
        event = SnapshotRequested(session=session, group=view.group_id, base=base)
        append(tx, "coordinator", [Entry(event, tenant, str(view.group_id), session)])
        return view


@idempotent
def read_session(catalog: Catalog, session: UUID) -> SessionView:
    """A session as it is now.

    Raises:
        NotFoundError: there is none of this id.
    """
    with catalog.transaction() as tx:
        return session_view(tx, session)


@idempotent
def session_of_capture(catalog: Catalog, capture: UUID) -> SessionView | None:
    """The session that a capture belongs to.

    None: the capture was never asked for, or its session ended and was folded
    (`libs.catalogdb.sessions.folding.has_ended`).
    """
    with catalog.transaction() as tx:
        row = tx.execute("SELECT session FROM part WHERE capture = %s", [capture]).fetchone()
        return session_view(tx, row[0]) if row else None


@idempotent
def reject_session(catalog: Catalog, source: str, session: UUID, code: str, message: str) -> bool:
    """End an open session without a snapshot; its attempts close and lose all their pins at once.

    Returns:
        Whether this call rejected it; False if it had ended already.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        rejected = reject(tx, session, code, message)
        append(tx, source, rejected)
    return tell_rejected(rejected)


def reject_overdue(catalog: Catalog, source: str = "catalog") -> list[UUID]:
    """Reject every open session whose deadline has passed; return their ids."""
    with catalog.transaction() as tx:
        # A catalog that fell back may believe one open that was sealed since.
        require_reconciled(tx)
        # One that somebody works on at this moment is left for the next time: it makes progress.
        overdue = tx.execute(
            """SELECT session FROM session s WHERE state = 'o' AND deadline < now()
               ORDER BY (SELECT tenant_no FROM volume_group g WHERE g.group_no = s.group_no)
               FOR UPDATE SKIP LOCKED"""
        ).fetchall()
        told = [
            reject(tx, session, "deadline", deadline_message(tx, session)) for (session,) in overdue
        ]
        rejected = [entry for entries in told for entry in entries]
        append(tx, source, rejected)
    tell_rejected(rejected)
    return [session for (session,) in overdue]


def close_attempts(tx: Tx, session: UUID, volume_no: int | None = None) -> None:
    """Close the open attempts of a session, or of one of its parts, and drop all pins they own."""
    found = tx.execute(  # in the order in which a registration locks those that share its pack
        """SELECT attempt FROM attempt
           WHERE session = %s AND open AND (%s::int IS NULL OR volume_no = %s)
           ORDER BY attempt FOR UPDATE""",
        [session, volume_no, volume_no],
    )
    closed = [attempt for (attempt,) in found]
    tx.execute("UPDATE attempt SET open = false WHERE attempt = ANY(%s)", [closed])
    tx.execute("DELETE FROM pin WHERE owner = ANY(%s)", [closed])


def notify_session(tx: Tx, session: UUID) -> None:
    """Wake whoever waits for this session when the transaction commits."""
    tx.execute("SELECT pg_notify(%s, %s)", [SESSION_CHANNEL, str(session)])


def reject(tx: Tx, session: UUID, code: str, message: str) -> list[Entry]:
    """End a session in the caller's transaction, unless it has ended; what to append to the log."""
    ended = tx.execute(
        """UPDATE session s SET state = 'r', ended_at = now(), reject_code = %s, reject_message = %s
           FROM volume_group g JOIN tenant t USING (tenant_no)
           WHERE s.session = %s AND s.state = 'o' AND g.group_no = s.group_no
           RETURNING g.group_id, g.name, t.name""",
        [code, message[:MESSAGE_LENGTH_MAX], session],
    ).fetchone()
    if ended is None:
        return []
    group, name, tenant = ended
    close_attempts(tx, session)
    tx.execute("DELETE FROM part_use WHERE session = %s", [session])
    notify_session(tx, session)
    tx.execute("SELECT count_ended(%s)", [session])
    event = SnapshotRejected(
        session=session, group=group, code=code, message=message[:MESSAGE_LENGTH_MAX]
    )
    finding = finding_of(event, tenant, name)
    opened = open_notification(tx, finding) if finding else []
    return [Entry(event, tenant, str(group), session), *opened]


def _insert_session(  # noqa: PLR0913 -- the columns of a row
    tx: Tx,
    session: UUID,
    group_no: int,
    base: UUID | None,
    head_sequence: int,
    damage_seen: int,
    barrier_seconds: float,
    deadline_seconds: float,
    opened_with: str,
) -> bool:
    """Whether this made the row; False if the id was given to another group's session."""
    opened = tx.execute(
        """INSERT INTO session (session, group_no, base, head_sequence, damage_seen, cut_attempt,
                                cut_until, deadline, opened_with)
           VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s),
                   now() + make_interval(secs => %s), nullif(%s, ''))
           ON CONFLICT (session) DO NOTHING""",
        [
            session, group_no, base, head_sequence, damage_seen, int(needs_barrier(tx, group_no)),
            barrier_seconds, deadline_seconds, opened_with,
        ],
    )  # fmt: skip
    return opened.rowcount == 1


_SESSION = """
    SELECT s.session, t.name AS tenant,
           listed.domain_nos, listed.domains, listed.key_ids, listed.granted,
           g.name AS group, g.group_id,
           CASE s.state WHEN 'o' THEN 'open' WHEN 's' THEN 'sealed' ELSE 'rejected' END AS state,
           s.base, s.head_sequence, g.head_mac AS previous_mac, n.sequence, n.manifest_key,
           s.reject_code, s.reject_message,
           -- A clock that was set back must not make a duration that no event can carry.
           greatest(0, extract(epoch FROM coalesce(s.ended_at, now()) - s.opened_at))::float8
               AS seconds, s.cut_attempt, s.cut_at IS NOT NULL AS cut,
           extract(epoch FROM now() - s.deadline)::float8 AS overdue_seconds,
           NOT EXISTS (SELECT FROM session r
                       WHERE r.base = s.base AND r.reject_code = 'tracking-lost')
           AND NOT EXISTS (SELECT FROM part p JOIN volume v USING (volume_no)
                           WHERE p.session = s.session AND v.moved_after >= s.head_sequence)
               AS is_trusted
    FROM session s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
    LEFT JOIN snapshot n USING (session),
    LATERAL (SELECT array_agg(d.domain_no ORDER BY l.tag) AS domain_nos,
                    array_agg(d.domain ORDER BY l.tag) AS domains,
                    array_agg(d.key_id ORDER BY l.tag) AS key_ids,
                    array_agg(l.tag = 0 OR a.domain_no IS NOT NULL ORDER BY l.tag) AS granted
             FROM domain_tag l JOIN domain d USING (domain_no) LEFT JOIN domain_grant a
               ON a.tenant_no = t.tenant_no AND a.domain_no = d.domain_no
             WHERE l.group_no = g.group_no) listed
    WHERE s.session = %s"""

_PARTS = """
    SELECT p.volume_no, v.volume_id AS volume, v.name AS volume_name, p.path,
           p.freeze_mount AS freeze, p.driver, p.capture, p.token, n.name AS node, n.rpc_url,
           n.span_address, n.credential, p.boot, p.state = 'f' AS finished, p.attempt_number,
           p.base_root, p.base_level, p.base_size_bytes, p.root, p.root_level, p.size_bytes,
           p.read_bytes, p.changed_bytes, p.sent_bytes, p.stored_bytes, p.consistency, p.tracking,
           EXISTS (SELECT FROM source o WHERE o.volume_no = p.volume_no AND NOT o.lead) AS is_shared
    FROM part p JOIN volume v USING (volume_no) JOIN node n ON n.node_no = p.node_no
    WHERE p.session = %s ORDER BY p.volume_no"""


def session_view(tx: Tx, session: UUID) -> SessionView:
    """A session as it is, in the caller's transaction."""
    parts = tuple(all_rows(tx, PartView, _PARTS, [session]))
    if any(part.is_shared for part in parts):
        followers = followers_of(tx, session)
        parts = tuple(
            replace(part, followers=tuple(o for o in followers if o.volume_no == part.volume_no))
            for part in parts
        )
    found = one_row(tx, functools.partial(_view, parts), _SESSION, [session])
    if found is None:
        if is_past(tx, session):
            raise NotFoundError(f"session {session}: it ended long ago, its details are folded")
        raise NotFoundError(f"session {session}: there is none of this id")
    return found


def _view(parts: tuple[PartView, ...], **columns: Any) -> SessionView:
    listed = [columns.pop(name) for name in ("domain_nos", "domains", "key_ids", "granted")]
    return SessionView(domains=tuple(map(GroupDomain, *listed)), parts=parts, **columns)
