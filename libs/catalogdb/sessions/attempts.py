"""Attempts: a chunker's try at one part of a session.

A chunker that takes a part over increments its attempt; whatever an older attempt still does is
refused, because every transaction of a chunker names its attempt and requires it to be open
(scenario 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.sessions.session import close_attempts, notify_session, reject
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


@idempotent
def take_part(  # noqa: PLR0913 -- who takes which part, and where its capture stands in the topic
    catalog: Catalog,
    capture: UUID,
    boot: UUID,
    chunker: str,
    partition: int,
    start_offset: int,
    tracking: Tracking = "none",
) -> Taken | NotTaken | WrongBoot:
    """Make a new attempt at a part; older ones are closed and lose their pins.

    Calling it again makes another attempt: what the first answer was worth is refused from then on.

    Args:
        catalog: the catalog.
        capture: names the part.
        boot: the agent process that captures; must be the one that began.
        chunker: name of this chunker process, for people.
        partition: partition of `block-changes` that the capture is in.
        start_offset: offset of its CaptureStarted: where a successor must begin reading.
        tracking: how the capture's changes are known.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        part = tx.execute(
            """SELECT p.session, p.volume_no, p.state::text, p.boot, s.state::text
               FROM part p JOIN session s USING (session) WHERE p.capture = %s FOR UPDATE""",
            [capture],
        ).fetchone()
        if part is None:
            return NotTaken(session_ended=True)
        session, volume_no, part_state, part_boot, session_state = part
        if session_state != "o" or part_state == "f":
            return NotTaken(session_ended=session_state != "o")
        if part_boot not in (None, boot):
            return WrongBoot()
        close_attempts(tx, session, volume_no)
        attempt = uuid7()
        row = tx.execute(
            """UPDATE part SET attempt = %s, attempt_number = attempt_number + 1, state = 'c',
                               boot = %s, partition = %s, start_offset = %s, tracking = %s
               WHERE capture = %s RETURNING attempt_number""",
            [attempt, boot, partition, start_offset, tracking, capture],
        ).fetchone()
        assert row is not None
        tx.execute(
            """INSERT INTO attempt (attempt, session, volume_no, number, chunker)
               VALUES (%s, %s, %s, %s, %s)""",
            [attempt, session, volume_no, row[0], chunker],
        )
        return Taken(attempt, row[0])


def renew(catalog: Catalog, attempt: UUID, progress: PartProgress, deadline_seconds: float) -> bool:
    """Move the session's deadline and record progress; False if the attempt is stale."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """UPDATE part SET size_bytes = %s, read_bytes = greatest(read_bytes, %s),
                               changed_bytes = %s, sent_bytes = %s, stored_bytes = %s
               WHERE attempt = %s AND state = 'c' RETURNING session""",
            [
                progress.size_bytes,
                progress.read_bytes,
                progress.changed_bytes,
                progress.sent_bytes,
                progress.stored_bytes,
                attempt,
            ],
        ).fetchone()
        if row is None:
            return False
        renewed = tx.execute(
            """UPDATE session SET deadline = now() + make_interval(secs => %s)
               WHERE session = %s AND state = 'o'""",
            [deadline_seconds, row[0]],
        )
        notify_session(tx, row[0])
        return renewed.rowcount == 1


@idempotent
def finish_part(  # noqa: PLR0913 -- everything the seal will need from a part
    catalog: Catalog,
    attempt: UUID,
    root: bytes | None,
    root_level: int,
    progress: PartProgress,
    consistency: str,
    use: Mapping[int, PackUse],
) -> bool | Stale:
    """Record that all of a part is stored and registered; its pins stay until the session ends.

    Args:
        catalog: the catalog.
        attempt: the attempt that did it.
        root: node id of the new block map's root; None for an empty map.
        root_level: its level.
        progress: final figures.
        consistency: "frozen", "quiet" or "fuzzy".
        use: per pack number, the addresses that enter and leave. Every pack with entered > 0 must
            be pinned by the attempt: the seal expects exactly these.

    Returns:
        Whether all parts of the session are finished now: the caller seals (scenario 11).
    """
    with catalog.transaction() as tx:
        part = tx.execute(
            """SELECT p.session, p.volume_no, p.state::text
               FROM part p JOIN session s USING (session)
               WHERE p.attempt = %s AND s.state = 'o' FOR UPDATE""",
            [attempt],
        ).fetchone()
        if part is None:
            return Stale(attempt)
        session, volume_no, state = part
        if state != "f":
            tx.execute(
                """UPDATE part SET state = 'f', root = %s, root_level = %s, size_bytes = %s,
                                   read_bytes = %s, changed_bytes = %s, sent_bytes = %s,
                                   stored_bytes = %s, consistency = %s
                   WHERE attempt = %s""",
                [
                    root,
                    root_level,
                    progress.size_bytes,
                    progress.read_bytes,
                    progress.changed_bytes,
                    progress.sent_bytes,
                    progress.stored_bytes,
                    consistency,
                    attempt,
                ],
            )
            _record_use(tx, session, volume_no, use)
        row = tx.execute(
            "SELECT bool_and(state = 'f') FROM part WHERE session = %s", [session]
        ).fetchone()
        return bool(row and row[0])


@idempotent
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
        append(tx, "chunker", [rejected] if rejected else [])
        return rejected is not None


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


def _record_use(tx: Tx, session: UUID, volume_no: int, use: Mapping[int, PackUse]) -> None:
    columns = "COPY part_use (session, volume_no, pack_no, entered, departed) FROM STDIN"
    with tx.cursor() as cursor, cursor.copy(columns) as copy:
        for pack_no, counts in use.items():
            copy.write_row((session, volume_no, pack_no, counts.entered, counts.departed))
