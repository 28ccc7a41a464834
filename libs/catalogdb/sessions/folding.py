"""Folding: what ended sessions leave behind is made small, when nothing needs more of it.

A session that ended has rows for itself, its parts, their attempts, its snapshot with a row for
each volume, the snapshot's verification, and each restore that read it. When the snapshot has
expired and its manifest is deleted, or when the session was rejected and its group's head has moved
on, one row of `past` takes the place of all of them. What still asks afterwards, and is answered:

* **A late event** names a capture. That of a folded session is not found, so `take_part` takes
  nothing and no chunker begins; the event also names its session, which `has_ended` knows. It is
  passed over, never taken for new (scenario 15). The session's ids stay for ever.
* **A late chunker**: its attempt has no row, which every transaction that names one takes for
  closed. Its pins went when the session ended. A seal that it repeats is answered with what became
  of the session.
* **A late client**: the session's id opens no second session.
* **The chain of manifests**: sequence and MAC are kept, so the next snapshot's manifest is checked
  against its predecessor (`libs.catalogdb.verification`) as long as it lives.
* **A manifest that a late PUT brings back** is one of a session that ended: the sweep deletes it.
* **Recovery**: what a checkpoint calls past never returns as live. A rejected session must be known
  while its head is the present one (scenario 17), which is why it is not folded before. Later its
  manifest has the sequence of another snapshot and is no candidate any more.
* **People**: `backcast snapshot list --expired` reads both; that a snapshot expires twice is
  answered alike.

Not answered any more are figures of a capture and the outcome of a restore that was asked for long
ago; the log has them, and its copy in Kafka.

One transaction for each batch; a crash leaves the rest for the next time. Rows that somebody holds
are left alone, so nobody waits.
"""

from collections.abc import Sequence
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.checkpoints.rows import PastRow
from libs.errors import ConflictError

#: Everything that goes; what refers to another comes first.
_FOLDED = (
    "DELETE FROM lease WHERE session = ANY(%s)",
    "DELETE FROM verification WHERE session = ANY(%s)",
    "DELETE FROM snapshot_volume WHERE session = ANY(%s)",
    "DELETE FROM snapshot WHERE session = ANY(%s)",
    "DELETE FROM part_use WHERE session = ANY(%s)",
    "DELETE FROM attempt WHERE session = ANY(%s)",
    "DELETE FROM part WHERE session = ANY(%s)",
    "DELETE FROM barrier_node WHERE session = ANY(%s)",
    "DELETE FROM session WHERE session = ANY(%s)",
)


def fold_sessions(catalog: Catalog, grace_seconds: float, limit: int) -> int:
    """Fold sessions that ended long enough ago and that nothing needs more of.

    Args:
        catalog: the catalog.
        grace_seconds: since they were rejected or expired: longer than anybody asks what became of
            them.
        limit: at most so many expired snapshots, and so many rejected sessions.

    Returns:
        How many were folded.

    Raises:
        NotReconciledError: the catalog may have gone back in time; it may not know what is over.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        wanted = {"grace": grace_seconds, "limit": limit}
        # The manifest is deleted only when a checkpoint knows that the snapshot has expired.
        expired = tx.execute(
            """WITH over AS (
                   SELECT s.session FROM snapshot s JOIN volume_group g USING (group_no)
                   WHERE s.state = 'x' AND s.manifest_deleted
                     AND s.expired_at < now() - make_interval(secs => %(grace)s)
                     AND g.head_session <> s.session
                     AND NOT EXISTS (SELECT FROM hold h WHERE h.session = s.session)
                     AND NOT EXISTS (SELECT FROM lease l
                                     WHERE l.session = s.session AND l.state = 'o')
                   LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED)
               INSERT INTO past (session, sealed_at, ended_at, group_no, sequence, mac)
               SELECT s.session, s.sealed_at, s.expired_at, s.group_no, s.sequence, s.mac
               FROM over JOIN snapshot s USING (session) RETURNING session""",
            wanted,
        ).fetchall()
        rejected = tx.execute(
            """WITH over AS (
                   SELECT s.session FROM session s JOIN volume_group g USING (group_no)
                   WHERE s.state = 'r' AND s.head_sequence < g.head_sequence
                     AND s.ended_at < now() - make_interval(secs => %(grace)s)
                   LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED)
               INSERT INTO past (session, ended_at, group_no)
               SELECT s.session, s.ended_at, s.group_no FROM over JOIN session s USING (session)
               RETURNING session""",
            wanted,
        ).fetchall()
        folded = [row[0] for row in expired + rejected]
        _forget(tx, folded)
        return len(folded)


def fold_known(tx: Tx, rows: Sequence[PastRow]) -> None:
    """Fold snapshots of which a checkpoint says that they are past, whatever the catalog knew.

    The catalog is being reconciled: its attempts are closed, and nothing reads these snapshots any
    more. Volumes of those that were live are counted anew.
    """
    sessions = [row.session for row in rows]
    tx.execute(
        """INSERT INTO recount
           SELECT DISTINCT v.volume_no FROM snapshot s JOIN volume v USING (group_no)
           WHERE s.session = ANY(%s) AND s.state = 'l' ON CONFLICT DO NOTHING""",
        [sessions],
    )
    tx.execute(
        """INSERT INTO past (session, sealed_at, ended_at, group_no, sequence, mac)
           SELECT p.session, p.sealed_at, p.ended_at, g.group_no, p.sequence, p.mac
           FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::uuid[], %s::int[],
                       %s::bytea[])
                AS p (session, sealed_at, ended_at, group_id, sequence, mac)
           JOIN volume_group g USING (group_id) ON CONFLICT (session) DO NOTHING""",
        [
            sessions,
            [row.sealed_at for row in rows],
            [row.expired_at for row in rows],
            [row.group for row in rows],
            [row.sequence for row in rows],
            [row.mac for row in rows],
        ],
    )
    tx.execute(
        "DELETE FROM pin USING lease l WHERE owner = l.lease AND l.session = ANY(%s)", [sessions]
    )
    tx.execute("DELETE FROM hold WHERE session = ANY(%s)", [sessions])
    _forget(tx, sessions)


@idempotent
def has_ended(catalog: Catalog, session: UUID) -> bool:
    """Whether a session ended and was folded; False also if there never was one of this id."""
    with catalog.transaction() as tx:
        return is_past(tx, session)


def is_past(tx: Tx, session: UUID) -> bool:
    """The same in the caller's transaction."""
    return bool(are_past(tx, [session]))


def require_not_past(tx: Tx, session: UUID) -> None:
    """Refuse to open a session again.

    Raises:
        ConflictError: it ended and was folded.
    """
    if is_past(tx, session):
        raise ConflictError(
            f"session {session}: it ended long ago; choose a new id to take another snapshot"
        )


def are_past(tx: Tx, sessions: Sequence[UUID]) -> set[UUID]:
    """Those of these sessions that ended and were folded."""
    rows = tx.execute("SELECT session FROM past WHERE session = ANY(%s)", [list(sessions)])
    return {row[0] for row in rows}


def past_sequence(tx: Tx, session: UUID) -> int | None:
    """The sequence of a folded snapshot; None: the session was rejected, or is not folded."""
    row = tx.execute("SELECT sequence FROM past WHERE session = %s", [session]).fetchone()
    return row[0] if row else None


def _forget(tx: Tx, sessions: Sequence[UUID]) -> None:
    for statement in _FOLDED:
        tx.execute(statement, [list(sessions)])
