"""Attempts: a chunker's try at one part of a session.

A chunker that takes a part over increments its attempt; whatever an older attempt still does is
refused, because every transaction of a chunker names its attempt and requires it to be open
(scenario 1).

A chunker works on all parts of a session whose captures it reads, and records what it does to them
together: it takes them in one transaction, renews them in one, and finishes them in one. Each part
has its attempt all the same, so another chunker may take over any of them alone. Parts are locked
before their session, in order of their captures.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.sessions.session import close_attempts, notify_session, reject
from libs.catalogdb.sessions.telling import tell_rejected
from libs.ids import uuid7


@dataclass(frozen=True, slots=True)
class Stale:
    """The attempt is no longer the current one of an open session; stop working on it."""

    attempt: UUID


@dataclass(frozen=True, slots=True)
class Taken:
    """The part is this chunker's now."""

    attempt: UUID
    number: int
    #: Capture → attempt at the part of another volume that was taken with it.
    with_it: Mapping[UUID, UUID] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Nothing to take: the session has ended, or the part is finished and awaits the seal."""

    session_ended: bool


@dataclass(frozen=True, slots=True)
class WrongBoot:
    """The part's capture began in another process of the agent: two frozen views must not mix."""


@dataclass(frozen=True, slots=True)
class PartProgress:
    """What a part has cost so far, in bytes; shown while waiting and kept with the snapshot."""

    size_bytes: int = 0
    read_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PackUse:
    """Addresses of the volume that enter a pack with this snapshot, and that leave it."""

    entered: int = 0
    departed: int = 0


#: How the changes of a part are known. ``none``: there is no base. ``lost``: there is one, and
#: nobody knew what changed since, so everything was compared. ``exact``: each chunk was compared
#: with what it was. ``candidates``: somebody said which chunks may differ.
Tracking = Literal["none", "lost", "exact", "candidates"]


@dataclass(frozen=True, slots=True)
class CaptureBegun:
    """How a part's capture began, which the catalog keeps for whoever takes the part over."""

    #: The agent process that captures; only one ever does.
    boot: UUID
    #: Partition of `block-changes` that the capture is in.
    partition: int
    #: Offset of its CaptureStarted: where a successor must begin reading.
    start_offset: int
    #: How the capture's changes are known.
    tracking: Tracking = "none"


@dataclass(frozen=True, slots=True)
class PartInWork:
    """What is recorded of a part while it is worked on."""

    attempt: UUID
    begun: CaptureBegun
    progress: PartProgress


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part all of which is stored and registered: everything that the seal will need."""

    attempt: UUID
    #: How its capture began: it may not be recorded yet.
    begun: CaptureBegun
    #: Node id of the new block map's root; None for an empty map.
    root: bytes | None
    root_level: int
    #: Final figures.
    progress: PartProgress
    #: "frozen", "quiet", "unvouched" or "fuzzy".
    consistency: str
    #: Per pack number, the addresses that enter and leave. Every pack with entered > 0 must be
    #: pinned by the attempt: the seal expects exactly these.
    use: Mapping[int, PackUse]


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of parts that were to be finished."""

    #: Attempts that are no longer the current ones of an open session; nothing was recorded.
    stale: frozenset[UUID]
    #: Whether all parts of the session are finished now: the caller seals (scenario 11).
    is_session: bool


@idempotent
def take_part(  # noqa: PLR0913 -- who takes which part, and where its capture stands in the topic
    catalog: Catalog,
    capture: UUID,
    boot: UUID,
    chunker: str,
    partition: int,
    start_offset: int,
    tracking: Tracking = "none",
    siblings: Collection[UUID] = (),
) -> Taken | NotTaken | WrongBoot:
    """Make a new attempt at a part; older ones are closed and lose their pins.

    Calling it again makes another attempt: what the first answer was worth is refused from then on.

    Other parts of the session are taken with it if nobody has an attempt at them, before their
    captures have begun. How those began is recorded with their progress, or when they are finished.

    Args:
        catalog: the catalog.
        capture: names the part.
        boot: the agent process that captures; must be the one that began.
        chunker: name of this chunker process, for people.
        partition: partition of `block-changes` that the capture is in.
        start_offset: offset of its CaptureStarted: where a successor must begin reading.
        tracking: how the capture's changes are known.
        siblings: captures of other parts of the session that the caller will read.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        parts = tx.execute(
            """SELECT capture, session, volume_no, state::text, boot, attempt IS NULL FROM part
               WHERE capture = %s OR (
                   capture = ANY(%s) AND attempt IS NULL
                   AND session = (SELECT session FROM part WHERE capture = %s))
               ORDER BY capture FOR UPDATE""",
            [capture, list(siblings), capture],
        ).fetchall()
        part = next((row for row in parts if row[0] == capture), None)
        if part is None:
            return NotTaken(session_ended=True)
        _, session, volume_no, part_state, part_boot, _ = part
        is_open = _lock_session(tx, session)
        if not is_open or part_state == "f":
            return NotTaken(session_ended=not is_open)
        if part_boot not in (None, boot):
            return WrongBoot()
        close_attempts(tx, session, volume_no)
        # Those that somebody else has taken while we waited for their rows are theirs.
        with_it = {
            row[0]: uuid7() for row in parts if row[0] != capture and row[5] and row[3] == "w"
        }
        attempts = {capture: uuid7()} | with_it
        number = _insert_attempts(tx, session, attempts, chunker)[capture]
        tx.execute(
            """UPDATE part SET state = 'c', boot = %s, partition = %s, start_offset = %s,
                               tracking = %s WHERE capture = %s""",
            [boot, partition, start_offset, tracking, capture],
        )
        return Taken(attempts[capture], number, with_it)


def renew(
    catalog: Catalog, parts: Sequence[PartInWork], deadline_seconds: float
) -> frozenset[UUID]:
    """Move the deadlines of the parts' sessions and record progress, in one transaction for all.

    Returns:
        Attempts that are stale.
    """
    with catalog.transaction() as tx:
        by_attempt = {part.attempt: part for part in parts}
        rows = tx.execute(
            """SELECT attempt, session FROM part WHERE attempt = ANY(%s) AND state <> 'f'
               ORDER BY capture FOR UPDATE""",
            [list(by_attempt)],
        ).fetchall()
        _record_work(tx, [by_attempt[attempt] for attempt, _ in rows])
        still_open = {
            session
            for (session,) in tx.execute(
                """UPDATE session SET deadline = now() + make_interval(secs => %s)
                   WHERE session IN (SELECT session FROM session
                                     WHERE session = ANY(%s) AND state = 'o'
                                     ORDER BY session FOR UPDATE) RETURNING session""",
                [deadline_seconds, sorted({session for _, session in rows})],
            )
        }
        for session in sorted(still_open):
            notify_session(tx, session)
        current = {attempt for attempt, session in rows if session in still_open}
        return frozenset(by_attempt.keys() - current)


@idempotent
def finish_parts(catalog: Catalog, parts: Sequence[FinishedPart]) -> Finished:
    """Record that all of some parts of one session is stored; their pins stay until it ends.

    A part whose attempt is stale is left out, and does not keep back the others.

    Args:
        catalog: the catalog.
        parts: at least one, all of one session.
    """
    with catalog.transaction() as tx:
        by_attempt = {part.attempt: part for part in parts}
        rows = tx.execute(
            """SELECT attempt, session, volume_no, state::text FROM part
               WHERE attempt = ANY(%s) ORDER BY capture FOR UPDATE""",
            [list(by_attempt)],
        ).fetchall()
        if not rows or not _lock_session(tx, session := rows[0][1]):
            return Finished(frozenset(by_attempt), is_session=False)
        for attempt, _, volume_no, state in rows:
            if state != "f":
                _record_finished(tx, session, volume_no, by_attempt[attempt])
        row = tx.execute(
            "SELECT bool_and(state = 'f') FROM part WHERE session = %s", [session]
        ).fetchone()
        stale = by_attempt.keys() - {row[0] for row in rows}
        return Finished(frozenset(stale), is_session=bool(row and row[0]))


@idempotent
def note_lost(catalog: Catalog, attempt: UUID, reason: str) -> None:
    """Note why nobody knows what changed since the base of a part; repeating it is harmless.

    An attempt that was taken over has no say any more: whoever took over reads the event again.
    """
    with catalog.transaction() as tx:
        tx.execute("UPDATE part SET lost_reason = %s WHERE attempt = %s", [reason, attempt])


def reject_attempt(catalog: Catalog, attempt: UUID, code: str, message: str) -> bool:
    """Reject the session of a current attempt; one that was taken over has no say any more.

    Returns:
        Whether this call rejected it.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        # The session before the attempt, as every transaction that takes both.
        session = tx.execute(
            """SELECT s.session FROM session s JOIN attempt a USING (session)
               WHERE a.attempt = %s FOR UPDATE OF s""",
            [attempt],
        ).fetchone()
        if session is None or not require_open(tx, attempt):
            return False
        rejected = reject(tx, session[0], code, message)
        append(tx, "chunker", rejected)
    return tell_rejected(rejected)


def closed_attempts(catalog: Catalog, attempts: Sequence[UUID]) -> set[UUID]:
    """Of these attempts, those that were taken over or whose session has ended, folded or not."""
    with catalog.transaction() as tx:
        still_open = tx.execute(
            "SELECT attempt FROM attempt WHERE attempt = ANY(%s) AND open", [list(attempts)]
        )
        return set(attempts) - {row[0] for row in still_open}


def require_open(tx: Tx, attempt: UUID) -> bool:
    """Lock the attempt against take-over for the rest of the transaction; False if it is stale."""
    return (
        tx.execute(
            "SELECT 1 FROM attempt WHERE attempt = %s AND open FOR SHARE", [attempt]
        ).fetchone()
        is not None
    )


def _lock_session(tx: Tx, session: UUID) -> bool:
    """Whether the session is open; it stays so until the transaction ends."""
    row = tx.execute(
        "SELECT state = 'o' FROM session WHERE session = %s FOR UPDATE", [session]
    ).fetchone()
    return bool(row and row[0])


def _insert_attempts(
    tx: Tx, session: UUID, attempts: Mapping[UUID, UUID], chunker: str
) -> dict[UUID, int]:
    """Make attempts, by capture, the current ones of their parts; capture → its number."""
    rows = tx.execute(
        """WITH taken AS (
               UPDATE part p SET attempt = a.attempt, attempt_number = attempt_number + 1
               FROM unnest(%s::uuid[], %s::uuid[]) AS a (capture, attempt)
               WHERE p.capture = a.capture
               RETURNING p.capture, p.attempt, p.volume_no, p.attempt_number),
           inserted AS (
               INSERT INTO attempt (attempt, session, volume_no, number, chunker)
               SELECT attempt, %s, volume_no, attempt_number, %s FROM taken)
           SELECT capture, attempt_number FROM taken""",
        [list(attempts), list(attempts.values()), session, chunker],
    ).fetchall()
    return dict(rows)


def _record_work(tx: Tx, parts: Sequence[PartInWork]) -> None:
    tx.execute(
        """UPDATE part p SET state = 'c',
                  size_bytes = w.size, read_bytes = greatest(p.read_bytes, w.read),
                  changed_bytes = w.changed, sent_bytes = w.sent, stored_bytes = w.stored,
                  boot = w.boot, partition = w.partition, start_offset = w.start_offset,
                  tracking = w.tracking
           FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
                       %s::bigint[], %s::uuid[], %s::int[], %s::bigint[], %s::text[])
                AS w (attempt, size, read, changed, sent, stored, boot, partition, start_offset,
                      tracking)
           WHERE p.attempt = w.attempt""",
        [
            [part.attempt for part in parts],
            [part.progress.size_bytes for part in parts],
            [part.progress.read_bytes for part in parts],
            [part.progress.changed_bytes for part in parts],
            [part.progress.sent_bytes for part in parts],
            [part.progress.stored_bytes for part in parts],
            [part.begun.boot for part in parts],
            [part.begun.partition for part in parts],
            [part.begun.start_offset for part in parts],
            [part.begun.tracking for part in parts],
        ],
    )


def _record_finished(tx: Tx, session: UUID, volume_no: int, part: FinishedPart) -> None:
    _record_work(tx, [PartInWork(part.attempt, part.begun, part.progress)])
    progress = part.progress
    tx.execute(
        """UPDATE part SET state = 'f', root = %s, root_level = %s, size_bytes = %s,
                           read_bytes = %s, changed_bytes = %s, sent_bytes = %s,
                           stored_bytes = %s, consistency = %s
           WHERE attempt = %s""",
        [
            part.root,
            part.root_level,
            progress.size_bytes,
            progress.read_bytes,
            progress.changed_bytes,
            progress.sent_bytes,
            progress.stored_bytes,
            part.consistency,
            part.attempt,
        ],
    )
    _record_use(tx, session, volume_no, part.use)


def _record_use(tx: Tx, session: UUID, volume_no: int, use: Mapping[int, PackUse]) -> None:
    columns = "COPY part_use (session, volume_no, pack_no, entered, departed) FROM STDIN"
    with tx.cursor() as cursor, cursor.copy(columns) as copy:
        for pack_no, counts in use.items():
            copy.write_row((session, volume_no, pack_no, counts.entered, counts.departed))
