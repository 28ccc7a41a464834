"""Publishing from threads: the agent's one Kafka producer, on an event loop of its own."""

import asyncio
import contextlib
import logging
import threading
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from libs.errors import UnavailableError
from libs.events.block_changes import ExtentsChanged
from libs.events.codec import encode
from libs.events.envelope import Envelope
from libs.events.mac import event_mac
from libs.events.record import EventRecord, to_record
from libs.events.registry import REGISTRY, Event
from libs.ids import uuid7
from libs.kafka.publisher import Publisher
from libs.runtime.groups import KafkaSettings
from libs.runtime.threads import end_with, is_expected, start_thread
from services.change_capture.agent.order import CaptureOrder

log = logging.getLogger(__name__)

#: Least time between two requests to the brokers, unless something is urgent. Each costs them, the
#: agent and the chunker some milliseconds of CPU. Spans follow each other every 20 ms or so, and
#: the window has room for those that wait.
_PACE_SECONDS = 0.03
#: Events handed over and not yet with the producer; scanners wait beyond that.
_QUEUE_LENGTH_MAX = 64


class _Item(NamedTuple):
    """Something for the task that publishes."""

    #: An event; or, to be resolved when everything before it was acknowledged, a future.
    what: "EventRecord | asyncio.Future[None]"
    #: It may share the next request with what follows.
    can_wait: bool = False


class EventSender:
    """Sends the events of captures, in the order of calls, authenticated with each capture's token.

    Thread-safe. `send` only hands over: a scanner that waited for the event loop with each span
    would spend half of its time waiting. After a failure the producer is replaced: captures that
    were publishing get the error with their next call, later ones begin with a fresh producer.

    Args:
        settings: how to reach the brokers.
        node: name of this node, for the envelopes.
    """

    def __init__(self, settings: KafkaSettings, node: str) -> None:
        self._settings = settings
        self._source = f"agent/{node}"
        self._room = threading.BoundedSemaphore(_QUEUE_LENGTH_MAX)
        #: Counts failures; a capture that began to publish before the last one has lost events.
        self._failure_count = 0
        self._failure: Exception | None = None
        self._began_at: dict[UUID, int] = {}
        self._publisher: Publisher | None = None
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        start_thread("kafka", self._loop.run_forever, daemon=True)
        self._draining = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
        end_with("publishing", self._draining)

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        """Publish an event of a capture; returns its encoded value.

        Raises:
            UnavailableError: Kafka did not take an earlier event of the capture. What the capture
                sends after that goes to a fresh producer.
        """
        self._check(order)
        value = encode(event)
        item = _Item(self._record(order, event, value), isinstance(event, ExtentsChanged))
        self._room.acquire()  # given back when the producer has the event
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        return value

    def flush(self, order: CaptureOrder) -> None:
        """Return when Kafka has acknowledged everything that the capture sent.

        Raises:
            UnavailableError: it has not.
        """

        async def everything() -> None:
            done: asyncio.Future[None] = self._loop.create_future()
            self._queue.put_nowait(_Item(done))
            await done

        asyncio.run_coroutine_threadsafe(everything(), self._loop).result()
        self._check(order)
        self._began_at.pop(order.capture, None)

    def close(self) -> None:
        """End the producer and its loop; what was not flushed may be lost."""
        self._draining.cancel()
        asyncio.run_coroutine_threadsafe(self._replace(None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _check(self, order: CaptureOrder) -> None:
        if self._began_at.setdefault(order.capture, self._failure_count) != self._failure_count:
            del self._began_at[order.capture]
            raise UnavailableError(f"events were not published: {self._failure}")

    def _record(self, order: CaptureOrder, event: Event, value: bytes) -> EventRecord:
        name, version = REGISTRY.wire_of(type(event))
        attributes: dict[str, Any] = {
            "event_id": uuid7(),
            "type": name,
            "version": version,
            "source": self._source,
            "subject": str(order.volume),
            "tenant": order.tenant,
            "occurred_at": datetime.now(UTC),
            "correlation_id": order.session,
        }
        mac = event_mac(order.token, Envelope(**attributes), value)
        return to_record(Envelope(**attributes, mac=mac), value)

    async def _drain(self) -> None:
        """The one task that uses the producer, so that events keep their order."""
        published_at = 0.0
        while True:
            items = [await self._queue.get()]
            rest = published_at + _PACE_SECONDS - self._loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    while items[-1].can_wait:
                        items.append(await self._queue.get())
            for item in items:
                await self._hand_over(item.what)
            published_at = self._loop.time()

    async def _hand_over(self, what: "EventRecord | asyncio.Future[None]") -> None:
        try:
            if isinstance(what, EventRecord):
                await (await self._ready()).publish(what)
            elif self._publisher:
                await self._publisher.flush()
        except Exception as err:
            expected = is_expected(err)
            log.log(
                logging.WARNING if expected else logging.CRITICAL,
                "events not published",
                extra={"detail": str(err)},
                exc_info=None if expected else err,
            )
            self._failure = err
            self._failure_count += 1
            await self._replace(err)
        finally:
            if isinstance(what, EventRecord):
                self._room.release()
            elif not what.done():
                what.set_result(None)

    async def _ready(self) -> Publisher:
        if self._publisher is None:
            publisher = Publisher(self._settings)
            await publisher.__aenter__()
            self._publisher = publisher
        return self._publisher

    async def _replace(self, error: Exception | None) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher:
            try:
                await publisher.__aexit__(type(error) if error else None, error, None)
            except Exception as err:  # noqa: BLE001 -- it is given up, and the next one is fresh
                log.warning("producer not ended cleanly", extra={"detail": repr(err)})
