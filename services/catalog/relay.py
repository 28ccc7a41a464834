"""The relay: publishes the catalog's event log to Kafka, in order, at least once.

For each topic: read after the published position → publish → wait for Kafka → record the position.
A crash after any step publishes events again, with the same ids and positions; a consumer drops
what it has seen. Two relays at once only repeat each other.
"""

import asyncio
import logging
from collections.abc import Callable

from libs.catalogdb.log.log import (
    LOG_CHANNEL,
    mark_published,
    published_position,
    read_log,
    unpublished_topics,
)
from libs.catalogdb.pool import Catalog
from libs.errors import BackcastError
from libs.events.record import to_record
from libs.kafka.publisher import Publisher
from libs.runtime.groups import KafkaSettings
from libs.runtime.signals import Stop

log = logging.getLogger(__name__)


class Relay:
    """Runs on one event loop; the catalog is asked in threads.

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
        self._news = asyncio.Event()

    async def run(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """Publish until asked to stop; after an error begin again from what Kafka has for sure."""
        listening = asyncio.create_task(
            asyncio.to_thread(self._listen, stop, asyncio.get_running_loop())
        )
        while not stop.requested:
            try:
                async with Publisher(self._kafka) as publisher:
                    await self._publish(publisher, stop, progressed)
            except BackcastError as err:
                log.warning("relay begins again", extra={"detail": str(err)})
                progressed()  # restarting this process would not bring Kafka back
                await asyncio.sleep(self._interval_seconds)
        await listening

    async def _publish(
        self, publisher: Publisher, stop: Stop, progressed: Callable[[], None]
    ) -> None:
        while not stop.requested:
            self._news.clear()
            behind = await asyncio.to_thread(unpublished_topics, self._catalog)
            published = [await self._publish_topic(publisher, topic) for topic in behind]
            progressed()
            if not any(published):
                try:
                    async with asyncio.timeout(self._interval_seconds):
                        await self._news.wait()
                except TimeoutError:
                    pass

    async def _publish_topic(self, publisher: Publisher, topic: str) -> bool:
        """Publish a batch of one topic; whether there was any."""
        after = await asyncio.to_thread(published_position, self._catalog, topic)
        events = await asyncio.to_thread(
            read_log, self._catalog, topic, after, self._batch_count_max
        )
        if not events:
            return False
        for event in events:
            await publisher.publish(to_record(event.envelope, event.value))
        await publisher.flush()
        last = events[-1].envelope.position
        assert last is not None
        await asyncio.to_thread(mark_published, self._catalog, topic, last)
        return True

    def _listen(self, stop: Stop, loop: asyncio.AbstractEventLoop) -> None:
        """Body of a thread: wakes the relay when something was appended."""
        while not stop.requested:
            try:
                with self._catalog.listen(LOG_CHANNEL) as connection:
                    while not stop.requested:
                        for _ in connection.notifies(timeout=0.5, stop_after=1):
                            loop.call_soon_threadsafe(self._news.set)
            except BackcastError as err:
                log.warning("not listening to the log", extra={"detail": str(err)})
                stop.wait(self._interval_seconds)
