"""The relay: publishes the catalog's event log to Kafka, in order, at least once.

For each topic: read after the published position → publish → wait for Kafka → record the position.
A crash after any step publishes events again, with the same ids and positions; a consumer drops
what it has seen. Two relays at once only repeat each other. One that slept for longer than the
catalog keeps events finds that they were folded; then another one has published them.
"""

import asyncio
import contextlib
from collections.abc import Callable

from libs.catalogdb.log.log import mark_published, read_log, unpublished_topics
from libs.catalogdb.pool import Catalog
from libs.errors import EventsFoldedError
from libs.events.record import to_record
from libs.kafka.publisher import Publisher
from libs.runtime.groups import KafkaSettings
from libs.runtime.signals import Stop


class Relay:
    """A loop that publishes on an event loop of its own; a `Listener` wakes it.

    Args:
        catalog: the catalog, in the catalog service's role.
        kafka: how to reach the brokers.
        batch_count_max: events published at a time.
        interval_seconds: longest time between two looks at the log.
    """

    def __init__(
        self, catalog: Catalog, kafka: KafkaSettings, batch_count_max: int, interval_seconds: float
    ) -> None:
        self._catalog = catalog
        self._kafka = kafka
        self._batch_count_max = batch_count_max
        self._interval_seconds = interval_seconds
        self._wake: Callable[[], object] = lambda: None

    def round(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """Publish until asked to stop. The round after an error begins from what Kafka has."""
        asyncio.run(self._publish(stop, progressed))

    def wake(self) -> None:
        """Something was appended, or may have been. Any thread may say so."""
        self._wake()

    async def _publish(self, stop: Stop, progressed: Callable[[], None]) -> None:
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the round is over: the next one looks anyhow
                loop.call_soon_threadsafe(news.set)

        self._wake = wake
        async with Publisher(self._kafka) as publisher:
            while not stop.requested:
                news.clear()
                behind = await asyncio.to_thread(unpublished_topics, self._catalog)
                more = [
                    await self._publish_topic(publisher, topic, after)
                    for topic, after in behind.items()
                ]
                progressed()
                if not any(more):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._interval_seconds):
                            await news.wait()

    async def _publish_topic(self, publisher: Publisher, topic: str, after: int) -> bool:
        """Publish a batch of one topic; whether there is more, of any topic."""
        try:
            events = await asyncio.to_thread(
                read_log, self._catalog, topic, after, self._batch_count_max
            )
        except EventsFoldedError:
            behind = await asyncio.to_thread(unpublished_topics, self._catalog)
            if behind.get(topic) == after:  # nobody has published them, and they are gone
                raise
            return True
        if not events:
            return False
        for event in events:
            await publisher.publish(to_record(event.envelope, event.value))
        await publisher.flush()
        last = events[-1].envelope.position
        assert last is not None
        return await asyncio.to_thread(mark_published, self._catalog, topic, last)
