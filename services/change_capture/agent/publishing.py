"""Publishing from threads: the agent's one Kafka producer, on an event loop of its own."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from libs.errors import BackcastError
from libs.events.codec import encode
from libs.events.envelope import Envelope
from libs.events.mac import event_mac
from libs.events.record import to_record
from libs.events.registry import REGISTRY, Event
from libs.ids import uuid7
from libs.kafka.publisher import Publisher
from libs.runtime.groups import KafkaSettings
from services.change_capture.agent.order import CaptureOrder

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Spans follow each other every 10 ms or so, and a dozen are in flight: waiting delays none.
_LINGER_SECONDS = 0.02


class EventSender:
    """Sends the events of captures, in the order of calls, authenticated with each capture's token.

    Thread-safe. After a failure the producer is replaced: captures that were publishing end with
    its error, later ones begin with a fresh one.

    Args:
        settings: how to reach the brokers.
        node: name of this node, for the envelopes.
    """

    def __init__(self, settings: KafkaSettings, node: str) -> None:
        self._settings = settings
        self._source = f"agent/{node}"
        self._publisher: Publisher | None = None
        self._connecting = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="kafka", daemon=True).start()

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        """Publish an event of a capture; returns its encoded value.

        Raises:
            UnavailableError: Kafka does not take it.
        """
        value = encode(event)
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
        record = to_record(Envelope(**attributes, mac=mac), value)
        self._run(lambda publisher: publisher.publish(record))
        return value

    def flush(self) -> None:
        """Return when Kafka has acknowledged everything that was sent.

        Raises:
            UnavailableError: it has not.
        """
        self._run(lambda publisher: publisher.flush())

    def close(self) -> None:
        """End the producer and its loop."""
        with contextlib.suppress(BackcastError):
            asyncio.run_coroutine_threadsafe(self._replace(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, call: Callable[[Publisher], Coroutine[Any, Any, T]]) -> T:
        async def on_loop() -> T:
            publisher = await self._ready()
            try:
                return await call(publisher)
            except BackcastError as err:
                if self._publisher is publisher:
                    await self._replace(err)
                raise

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()

    async def _ready(self) -> Publisher:
        """The one producer. With two of them, one capture's events could overtake each other."""
        async with self._connecting:
            if self._publisher is None:
                publisher = Publisher(self._settings, linger_seconds=_LINGER_SECONDS)
                await publisher.__aenter__()
                self._publisher = publisher
            return self._publisher

    async def _replace(self, error: BackcastError | None = None) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher:
            await publisher.__aexit__(type(error) if error else None, error, None)
