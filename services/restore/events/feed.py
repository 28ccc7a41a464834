"""The catalog's event log for people and programs without Kafka: pages of decoded events.

Any number of requests may follow the log. One `Listener` hears for all of them that something was
appended. Those at the same position share one read, and those of one tenant its decoded events.

Positions stay in here: tenants get cursors (`services.restore.events.cursors`).
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from anyio import to_thread
from fastapi import Request

from libs.catalogdb.log.log import LoggedEvent, folded_positions, read_log
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import require_tenant
from libs.errors import EventsFoldedError
from libs.events.codec import decode
from libs.events.positions import incarnation_of
from libs.keys.kek import KeyEncryptionKey
from libs.rest.waiting import Bells, read_or_wait
from services.restore.events.cursors import TenantCursors
from services.restore.events.sharing import SharedReads

#: What followers wait for.
_APPENDED = "appended"
#: A page ends with the event that reaches this, so a client that takes nothing costs no more.
PAGE_SIZE_BYTES_MAX = 256 << 10

#: Position per topic, and events at most: followers with the same share their reads.
_Place = tuple[tuple[tuple[str, int], ...], int]


@dataclass(frozen=True, slots=True)
class EventPage:
    """A tenant's events in order of time, and within a topic in order of position."""

    #: Each encoded as JSON.
    events: list[bytes]
    #: Position per topic after the last event that was looked at, also if none was the tenant's.
    positions: dict[str, int]
    #: Position per topic up to which events that were asked for are not kept any more.
    folded: dict[str, int]

    def document(self, cursors: TenantCursors) -> bytes:
        """The page as JSON."""
        events, end = b",".join(self.events), msgspec.json.encode(cursors.seal(self.positions))
        folded = msgspec.json.encode(sorted(self.folded))
        return b'{"events":[%b],"next":%b,"folded":%b}' % (events, end, folded)


class Feed:
    """Pages of the log, for one event loop.

    Args:
        catalog: the catalog.
        kek: cursors are sealed under keys that are derived from it.
    """

    def __init__(self, catalog: Catalog, kek: KeyEncryptionKey) -> None:
        self._catalog = catalog
        self._kek = kek
        self._bells: Bells[str] = Bells()
        self.reads: SharedReads[_Place, LogPage] = SharedReads(self._read)

    @property
    def follower_count(self) -> int:
        """How many follow the log now."""
        return self._bells.waiting_count

    def wake(self) -> None:
        """Something was appended, or may have been. Any thread may say so."""
        self._bells.ring_all()

    def close(self) -> None:
        """Answer all followers: the process is about to end."""
        self._bells.close()

    def cursors(self, tenant: str) -> TenantCursors:
        """What a tenant is told instead of positions."""
        return TenantCursors(self._kek, tenant)

    async def follow(
        self,
        request: Request,
        tenant: str,
        cursor: Mapping[str, int],
        limit: int,
        wait_seconds: float,
    ) -> EventPage:
        """The tenant's events after a cursor; waits for one if there is none.

        Args:
            request: of the follower.
            tenant: whose events.
            cursor: position per topic; only these topics are read.
            limit: events at most.
            wait_seconds: how long to wait at most.

        Raises:
            NotFoundError: there is no such tenant.
            EventsFoldedError: events after a position of the cursor are not kept any more.
            TooManyRequestsError: too many wait already.
        """
        await to_thread.run_sync(require_tenant, self._catalog, tenant)
        at, folded = dict(cursor), dict[str, int]()

        async def look() -> EventPage:
            page = await self.look(tenant, at, limit)
            at.update(page.positions)
            folded.update(page.folded)
            return page

        def enough(page: EventPage, _news_count: int) -> bool:
            return bool(page.events)

        page = await read_or_wait(request, self._bells, _APPENDED, look, enough, wait_seconds)
        return EventPage(page.events, page.positions, folded)

    async def look(self, tenant: str, cursor: Mapping[str, int], limit: int) -> EventPage:
        """Read on until there is an event of the tenant, or nothing more. Raises as `follow`."""
        at, folded = dict(cursor), dict[str, int]()
        while True:
            log_page = await self.reads.get((tuple(at.items()), limit))
            page = log_page.known.get(tenant)
            if page is None:
                page = await to_thread.run_sync(log_page.of, tenant)
            folded.update(page.folded)
            if page.events or len(log_page.events) < limit:
                return EventPage(page.events, page.positions, folded)
            at = page.positions

    def _read(self, place: _Place) -> "LogPage":
        # Who begins at the beginning is told where that is; who goes on from a position, by an
        # error.
        cursor, limit = place
        kept_after = folded_positions(self._catalog)
        folded = {
            topic: kept_after[topic]
            for topic, after in cursor
            if not after and kept_after.get(topic)
        }
        positions = {topic: after or folded.get(topic, 0) for topic, after in cursor}
        logs = [self._log(topic, after, limit) for topic, after in positions.items()]
        events = list(heapq.merge(*logs, key=_time_of))[:limit]
        return LogPage(events, positions, folded, self.cursors)

    def _log(self, topic: str, after: int, limit: int) -> list[LoggedEvent]:
        try:
            return read_log(self._catalog, topic, after, limit)
        except EventsFoldedError as err:  # its text has positions
            raise EventsFoldedError(
                f"topic {topic}: events after this cursor are older than the catalog keeps them; "
                f"read them from Kafka, or begin without a cursor at the oldest that is kept"
            ) from err


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of the log, of all tenants."""

    events: list[LoggedEvent]
    #: Position per topic after which it begins.
    positions: dict[str, int]
    folded: dict[str, int]
    #: What makes a tenant's cursors.
    cursors_of: Callable[[str], TenantCursors]
    #: What was decoded of it, by tenant.
    known: dict[str, EventPage] = field(default_factory=dict)

    def of(self, tenant: str) -> EventPage:
        """The tenant's events of it, as far as they fit one page."""
        positions, events, size_bytes = dict(self.positions), list[bytes](), 0
        cursors = self.cursors_of(tenant)
        for event in self.events:
            if event.envelope.tenant == tenant:
                if size_bytes >= PAGE_SIZE_BYTES_MAX:
                    break
                events.append(_document(event, cursors))
                size_bytes += len(events[-1])
            assert event.envelope.position is not None
            positions[event.topic] = event.envelope.position
        page = self.known[tenant] = EventPage(events, positions, self.folded)
        return page


def _time_of(event: LoggedEvent) -> datetime:
    return event.envelope.occurred_at


def _document(event: LoggedEvent, cursors: TenantCursors) -> bytes:
    envelope = event.envelope
    assert envelope.position is not None
    document = {
        "topic": event.topic,
        "cursor": cursors.seal({event.topic: envelope.position}),
        "incarnation": incarnation_of(envelope.position),
        "id": str(envelope.event_id),
        "type": envelope.type,
        "version": envelope.version,
        "subject": envelope.subject,
        "tenant": envelope.tenant,
        "occurred_at": envelope.occurred_at,
        "correlation_id": envelope.correlation_id,
        "data": msgspec.to_builtins(decode(envelope.type, envelope.version, event.value)),
    }
    return msgspec.json.encode(document)
