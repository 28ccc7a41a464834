"""Sessions as people look at them: which are open, which ended how, and ending one by hand."""

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.sessions.folding import is_past
from libs.catalogdb.sessions.session import State, reject
from libs.catalogdb.sessions.telling import tell_rejected
from libs.errors import CancelledError, ConflictError, NotFoundError


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session in a list."""

    session: UUID
    group: str
    state: State
    #: Names of its volumes, as they are called now.
    volumes: list[str]
    opened_at: datetime
    ended_at: datetime | None
    #: Of its snapshot, if it was sealed.
    sequence: int | None
    #: Why it was rejected.
    code: str | None
    message: str | None
    #: What its agents have read, and what was stored for it.
    read_bytes: int
    stored_bytes: int


_STATES: dict[State, str] = {"open": "o", "sealed": "s", "rejected": "r"}

_SUMMARY: LiteralString = """
    SELECT s.session, g.name AS group,
           CASE s.state WHEN 'o' THEN 'open' WHEN 's' THEN 'sealed' ELSE 'rejected' END AS state,
           s.opened_at, s.ended_at, n.sequence, s.reject_code AS code, s.reject_message AS message,
           sums.volumes, sums.read_bytes, sums.stored_bytes"""
_SUMS: LiteralString = """
    LEFT JOIN snapshot n ON n.session = s.session,
    LATERAL (SELECT coalesce(array_agg(v.name ORDER BY v.name), '{}') AS volumes,
                    coalesce(sum(p.read_bytes), 0)::bigint AS read_bytes,
                    coalesce(sum(p.stored_bytes), 0)::bigint AS stored_bytes
             FROM part p JOIN volume v USING (volume_no) WHERE p.session = s.session) sums"""


def list_sessions(
    catalog: Catalog, tenant: str, name: str | None, state: State | None, limit: int
) -> list[SessionSummary]:
    """The newest sessions of each of a tenant's groups, the newest first; ``limit`` in all.

    Sessions that ended long ago were folded and are not there. The cost is that of ``limit``
    sessions for each group, whatever there is besides.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: only of this group, or of the group of this volume.
        state: only in this state.
        limit: so many at most.
    """
    newest: LiteralString = """
        FROM volume_group g JOIN tenant t USING (tenant_no),
             LATERAL (SELECT * FROM session x
                      WHERE x.group_no = g.group_no
                        AND (%(state)s::text IS NULL OR x.state = %(state)s::"char")
                      ORDER BY x.opened_at DESC LIMIT %(limit)s) s """
    of_name: LiteralString = """
        WHERE t.name = %(tenant)s
          AND (%(name)s::text IS NULL OR g.name = %(name)s
               OR EXISTS (SELECT FROM volume w WHERE w.group_no = g.group_no AND w.name = %(name)s))
        ORDER BY s.opened_at DESC, s.session DESC LIMIT %(limit)s"""
    wanted = {
        "tenant": tenant,
        "name": name,
        "state": state and _STATES[state],
        "limit": limit,
    }
    with catalog.reading() as tx:
        # The sums are of those that are listed alone.
        listed: LiteralString = "SELECT s.session, s.group_no, s.opened_at" + newest + of_name
        return all_rows(
            tx,
            SessionSummary,
            _SUMMARY
            + " FROM ("
            + listed
            + ") l JOIN session s USING (session) JOIN volume_group g ON g.group_no = s.group_no"
            + _SUMS
            + " ORDER BY s.opened_at DESC, s.session DESC",
            wanted,
        )


@idempotent
def cancel_session(
    catalog: Catalog, tenant: str, session: UUID, by: str, reason: str
) -> SessionSummary:
    """End an open session without a snapshot, because somebody says so.

    A rejection like any other, so agents, chunkers and the sweep need no other rule. The session's
    row is locked first, as the seal does: one of the two is first, and the other one finds that the
    session has ended. Calling it again changes nothing.

    Args:
        catalog: the catalog.
        tenant: whose session.
        session: the session.
        by: name of whoever asks.
        reason: for people; may be empty.

    Returns:
        The session, which is rejected: by this call, or before.

    Raises:
        NotFoundError: the tenant has no such session, or it ended long ago.
        ConflictError: it was sealed.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """SELECT s.state::text FROM session s JOIN volume_group g USING (group_no)
               JOIN tenant t USING (tenant_no) WHERE s.session = %s AND t.name = %s
               FOR UPDATE OF s""",
            [session, tenant],
        ).fetchone()
        if row is None:
            ended = " that is not folded" if is_past(tx, session) else ""
            raise NotFoundError(f"session {session}: tenant {tenant} has none of this id{ended}")
        if row[0] == "s":
            raise ConflictError(
                f"session {session}: was sealed already; `backcast snapshot show {session}` shows "
                f"it, `backcast snapshot expire {session}` gives it up"
            )
        message = f"{by} cancelled it" + (f": {reason}" if reason else "")
        rejected = reject(tx, session, CancelledError.code, message)
        append(tx, "coordinator", rejected)
        summary = one_row(
            tx,
            SessionSummary,
            _SUMMARY
            + " FROM session s JOIN volume_group g ON g.group_no = s.group_no"
            + _SUMS
            + " WHERE s.session = %s",
            [session],
        )
    tell_rejected(rejected)
    assert summary is not None
    return summary
