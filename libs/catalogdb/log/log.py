"""The catalog event log: the truth of decisions, appended by the transaction that decides.

Each relayed topic has gapless positions in commit order. They come from a counter row that is
locked last in the transaction, not from a sequence: with a sequence, a transaction that commits
late would leave a hole that a reader has already passed (scenario 16).

The high bits of a position are the catalog's incarnation (`libs.events.positions`). Nothing is
appended by a server whose life was not compared with the store: its positions may have been given
before (scenario 12).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import sql

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_compared, require_reconciled
from libs.catalogdb.rows import all_rows
from libs.errors import EventsFoldedError, InvariantViolation
from libs.events.codec import encode
from libs.events.envelope import Envelope
from libs.events.positions import follows
from libs.events.registry import REGISTRY, Event
from libs.ids import uuid7

#: Wakes the relay; the payload is empty.
LOG_CHANNEL = "backcast_log"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that a transaction wants to append, with what its envelope needs."""

    event: Event
    tenant: str
    subject: str
    correlation: UUID | None = None


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as it stands in the log: its topic, envelope (with position) and encoded fields."""

    topic: str
    envelope: Envelope
    value: bytes


def append(tx: Tx, source: str, entries: Sequence[Entry]) -> None:
    """Append events. Call it last in the transaction: it locks the counter row of each topic.

    Args:
        tx: the transaction that decided what the events report.
        source: the service that decided, for the envelope.
        entries: at most a few; topics are locked in order of their names, so that two transactions
            cannot wait for each other.
    """
    by_topic: dict[str, list[Entry]] = {}
    for entry in entries:
        by_topic.setdefault(REGISTRY.topic_of(type(entry.event)), []).append(entry)
    for topic in sorted(by_topic):
        batch = by_topic[topic]
        last = _advance(tx, topic, len(batch))
        if last is None:
            require_compared(tx)
            last = _advance(tx, topic, len(batch))  # it was compared in this very moment
        if last is None:
            raise InvariantViolation(f"topic {topic}: no counter in log_position; run `init`")
        for position, entry in enumerate(batch, start=last - len(batch) + 1):
            name, version = REGISTRY.wire_of(type(entry.event))
            tx.execute(
                """INSERT INTO event_log (topic, position, event_id, type, version, source, subject,
                                          tenant, occurred_at, correlation_id, value)
                   VALUES (%s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), %s, %s)""",
                [
                    topic,
                    position,
                    uuid7(),
                    name,
                    version,
                    source,
                    entry.subject,
                    entry.tenant,
                    entry.correlation,
                    encode(entry.event),
                ],
            )
    if by_topic:
        tx.execute(sql.SQL("SELECT pg_notify({}, '')").format(LOG_CHANNEL))


def _advance(tx: Tx, topic: str, count: int) -> int | None:
    """Count positions of a topic; the last of them. None: no counter, or the life is not known."""
    row = tx.execute(
        """UPDATE log_position SET last = last + %s
           WHERE topic = %s AND (SELECT life = catalog_life() FROM incarnation)
           RETURNING last""",
        [count, topic],
    ).fetchone()
    return None if row is None else int(row[0])


def read_log(catalog: Catalog, topic: str, after: int, limit: int) -> list[LoggedEvent]:
    """Events of a topic with positions above ``after``, in order, at most ``limit``.

    From the beginning, which is ``after`` 0, events that were folded are passed over.

    Raises:
        EventsFoldedError: events after ``after`` were folded: they are in Kafka's copy alone.
        InvariantViolation: a position is missing; a reader never moves past a hole it cannot
            explain.
    """
    with catalog.transaction() as tx:
        events = all_rows(
            tx,
            _logged,
            """SELECT topic, position, event_id, type, version, source, subject, tenant,
                      occurred_at, correlation_id, causation_id, value
               FROM event_log WHERE topic = %s AND position > %s ORDER BY position LIMIT %s""",
            [topic, after, limit],
        )
        # Asked afterwards: what the rows show was not folded before they were read.
        folded = tx.execute("SELECT folded FROM log_position WHERE topic = %s", [topic]).fetchone()
    first = events[0].envelope.position if events else None
    if folded and after < folded[0] and not (first is not None and first <= folded[0]):
        if after:
            raise EventsFoldedError(
                f"topic {topic}: events after position {after} up to {folded[0]} are older than "
                f"the catalog keeps them; read them from Kafka, or go on after {folded[0]}"
            )
        after = folded[0]
    for event in events:
        position = event.envelope.position
        assert position is not None
        if not follows(after, position):
            raise InvariantViolation(
                f"topic {topic}: expected position {after + 1} in the log, found {position}"
            )
        after = position
    return events


def fold_events(catalog: Catalog, topic: str, keep_seconds: float, limit: int) -> int:
    """Forget the oldest events of a topic that Kafka has; how many, at most ``limit``.

    Their age is measured against the trusted time of retention, so that a clock that jumps does not
    make all of them old.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """SELECT fold_events(%s, trusted_at - make_interval(secs => %s), %s)
               FROM retention_clock""",
            [topic, keep_seconds, limit],
        ).fetchone()
    return int(row[0]) if row else 0


def folded_positions(catalog: Catalog) -> dict[str, int]:
    """Topic → the position up to which its events were folded; 0: none was."""
    with catalog.reading() as tx:
        return dict(tx.execute("SELECT topic, folded FROM log_position").fetchall())


def last_position(catalog: Catalog, topic: str) -> int:
    """Position of the last event of a topic in the log."""
    with catalog.transaction() as tx:
        row = tx.execute("SELECT last FROM log_position WHERE topic = %s", [topic]).fetchone()
    return int(row[0]) if row else 0


def unpublished_topics(catalog: Catalog) -> dict[str, int]:
    """Topics whose log has events that the relay did not see acknowledged by Kafka.

    Returns:
        For each of them the position up to which it saw that.
    """
    with catalog.reading() as tx:
        return dict(
            tx.execute(
                "SELECT topic, published FROM log_position WHERE last > published ORDER BY topic"
            ).fetchall()
        )


def mark_published(catalog: Catalog, topic: str, position: int) -> bool:
    """Record that Kafka acknowledged everything up to ``position``; never moves backwards.

    Returns:
        Whether there are events of any topic that it did not acknowledge.
    """
    with catalog.transaction() as tx:
        tx.execute(
            "UPDATE log_position SET published = greatest(published, %s) WHERE topic = %s",
            [position, topic],
        )
        row = tx.execute("SELECT EXISTS (SELECT FROM log_position WHERE last > published)")
        return row.fetchone() == (True,)


def _logged(  # noqa: PLR0913 -- the columns of a row
    *,
    topic: str,
    position: int,
    event_id: UUID,
    type: str,  # noqa: A002 -- the column's name
    version: int,
    source: str,
    subject: str,
    tenant: str,
    occurred_at: datetime,
    correlation_id: UUID | None,
    causation_id: UUID | None,
    value: bytes,
) -> LoggedEvent:
    envelope = Envelope(
        event_id=event_id,
        type=type,
        version=version,
        source=source,
        subject=subject,
        tenant=tenant,
        occurred_at=occurred_at,
        position=position,
        correlation_id=correlation_id,
        causation_id=causation_id,
        mac=None,
    )
    return LoggedEvent(topic, envelope, value)
