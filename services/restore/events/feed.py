"""The catalog's event log for people and programs without Kafka: pages of decoded events."""

import dataclasses
import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from libs.catalogdb.log.log import LOG_CHANNEL, LoggedEvent, folded_positions, read_log
from libs.catalogdb.pool import Catalog
from libs.errors import BadInputError
from libs.events.codec import decode
from libs.events.topics import RELAYED_TOPICS


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order of time, and within a topic in order of position."""

    events: list[dict[str, Any]]
    #: Cursor after the last event that was looked at, also if none was the tenant's.
    next: str
    #: Position per topic up to which events that were asked for are not kept any more.
    folded: dict[str, int]


def read_events(
    catalog: Catalog, tenant: str, cursor: Mapping[str, int], limit: int, wait_seconds: float
) -> EventPage:
    """The tenant's events after a cursor; waits for one if there is none.

    Args:
        catalog: the catalog.
        tenant: whose events.
        cursor: position per topic; only these topics are read.
        limit: events at most.
        wait_seconds: how long to wait at most.

    Raises:
        EventsFoldedError: events after a position of the cursor are not kept any more.
    """
    deadline = time.monotonic() + wait_seconds
    page = _scan(catalog, tenant, cursor, limit)
    if page.events or not wait_seconds:
        return page
    with catalog.listen(LOG_CHANNEL) as connection:
        while True:
            news = _scan(catalog, tenant, parse_cursor(page.next, ()), limit)
            page = dataclasses.replace(news, folded=page.folded)
            left = deadline - time.monotonic()
            if page.events or left <= 0:
                return page
            for _ in connection.notifies(timeout=left, stop_after=1):
                pass


def parse_cursor(text: str, topics: tuple[str, ...]) -> dict[str, int]:
    """Position per topic from ``topic=position,…``, or from one number for one topic.

    Args:
        text: the cursor; empty = from the beginning.
        topics: the topics that were asked for; empty = those of the cursor, or all.

    Raises:
        BadInputError: not a cursor, or not a topic of the log.
    """
    positions: dict[str, int] = {}
    if text.isdecimal() and len(topics) == 1:
        positions[topics[0]] = _position(text)
    elif text:
        for part in text.split(","):
            topic, _, position = part.partition("=")
            positions[topic] = _position(position)
    wanted = topics or tuple(positions) or RELAYED_TOPICS
    for topic in {*wanted, *positions}:
        if topic not in RELAYED_TOPICS:
            raise BadInputError(
                f"topic {topic[:80]!r}: the catalog's log has {', '.join(RELAYED_TOPICS)}"
            )
    return {topic: positions.get(topic, 0) for topic in wanted}


def _position(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise BadInputError(
            f"cursor: {text[:40]!r} is no position; give what the previous answer named as next, "
            f"or with a single topic the position of an event"
        )
    return int(text)


def _scan(catalog: Catalog, tenant: str, cursor: Mapping[str, int], limit: int) -> EventPage:
    """Read on until there is an event of the tenant, or nothing more."""
    # Who begins at the beginning is told where that is; who goes on from a position, by an error.
    kept_after = folded_positions(catalog)
    folded = {
        topic: kept_after[topic]
        for topic, after in cursor.items()
        if not after and kept_after.get(topic)
    }
    positions = {topic: after or folded.get(topic, 0) for topic, after in cursor.items()}
    while True:
        logs = [read_log(catalog, topic, after, limit) for topic, after in positions.items()]
        page = list(heapq.merge(*logs, key=_time_of))[:limit]
        for event in page:
            assert event.envelope.position is not None
            positions[event.topic] = event.envelope.position
        events = [_document(event) for event in page if event.envelope.tenant == tenant]
        if events or len(page) < limit:
            next_cursor = ",".join(f"{t}={p}" for t, p in positions.items())
            return EventPage(events, next_cursor, folded)


def _time_of(event: LoggedEvent) -> datetime:
    return event.envelope.occurred_at


def _document(event: LoggedEvent) -> dict[str, Any]:
    envelope = event.envelope
    return {
        "topic": event.topic,
        "position": envelope.position,
        "id": str(envelope.event_id),
        "type": envelope.type,
        "version": envelope.version,
        "subject": envelope.subject,
        "tenant": envelope.tenant,
        "occurred_at": envelope.occurred_at,
        "correlation_id": envelope.correlation_id,
        "data": msgspec.to_builtins(decode(envelope.type, envelope.version, event.value)),
    }
