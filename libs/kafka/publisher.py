"""Publishes events in order, and says when Kafka has them."""

import asyncio
from types import TracebackType
from typing import Self

from libs.errors import BackcastError, UnavailableError
from libs.events.record import EventRecord
from libs.kafka.clients import WAY_OUT, producer, translate, translated
from libs.kafka.starting import start_client
from libs.runtime.groups import KafkaSettings

#: Time that a producer which is given up may take to end.
_ABANDON_SECONDS_MAX = 5.0


class Publisher:
    """Sends records in the order of `publish` calls; `flush` waits for their acknowledgement.

    Records of one key never change order, and no retry repeats one. When a record is refused or
    late, nothing more is sent and every call raises the same error: whoever owns the publisher
    makes a new one and starts again from what it knows to be acknowledged. A record that was not
    acknowledged may have arrived all the same.

    Memory is bounded by two batches (256 KiB) per partition: `publish` waits while they are full.
    Use it as an async context manager. Tasks of one event loop may share it: each one's records
    keep their order, a failure is everybody's, and `flush` waits for everybody's records.

    Args:
        settings: how to reach the brokers.
        ack_seconds_max: longest wait for room in `publish` and for acknowledgements in `flush`;
            by itself an idempotent producer would try for ever.
    """

    def __init__(self, settings: KafkaSettings, ack_seconds_max: float = 30.0) -> None:
        self._settings = settings
        self._producer = producer(settings)
        self._ack_seconds_max = ack_seconds_max
        self._sender = self._producer._sender  # noqa: SLF001 -- there is no public way to stop sending
        self._unacknowledged: set[asyncio.Future[object]] = set()
        self._failure: BackcastError | None = None

    async def __aenter__(self) -> Self:
        try:
            await start_client(self._producer, self._settings, "connect a producer")
        except BaseException:
            await self._abandon()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            if self._unacknowledged or self._failure:
                await self._abandon()
            else:
                await self._producer.stop()

    async def publish(self, record: EventRecord) -> None:
        """Hand a record over; it is sent at once, and acknowledged by the time `flush` returns.

        Raises:
            UnavailableError: no room, or no broker, for `ack_seconds_max`.
            ConfigurationError: the topic does not exist.
            ForbiddenError: the user may not write to the topic.
        """
        self._check()
        try:
            with translated(f"publish to {record.topic}"):
                async with asyncio.timeout(self._ack_seconds_max):
                    acknowledgement = await self._producer.send(
                        record.topic,
                        value=record.value,
                        key=record.key,
                        headers=list(record.headers),
                    )
        except TimeoutError:
            self._fail(self._late(f"took no record of {record.topic}"))
        except BackcastError as err:
            self._fail(err)
        self._check()
        self._unacknowledged.add(acknowledgement)
        acknowledgement.add_done_callback(self._settle)

    async def flush(self) -> None:
        """Return when the brokers have every record that was published.

        Raises:
            UnavailableError: they do not, after `ack_seconds_max`; or a record was refused.
            ForbiddenError: the user may not write to a topic.
        """
        self._check()
        if self._unacknowledged:
            _done, late = await asyncio.wait(
                set(self._unacknowledged),
                timeout=self._ack_seconds_max,
                return_when=asyncio.FIRST_EXCEPTION,
            )
            if late and self._failure is None:
                self._fail(self._late(f"did not acknowledge {len(late)} records"))
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _late(self, what: str) -> UnavailableError:
        return UnavailableError(f"Kafka {what} within {self._ack_seconds_max:g} s. {WAY_OUT}")

    def _settle(self, acknowledgement: "asyncio.Future[object]") -> None:
        self._unacknowledged.discard(acknowledgement)
        error = None if acknowledgement.cancelled() else acknowledgement.exception()
        if error is not None:
            self._fail(translate(error, "publish"))

    def _fail(self, error: BackcastError) -> None:
        if self._failure is None:
            self._failure = error
        # At once, before the sender looks for its next batch: there must be no gap in the order.
        if self._sender.sender_task is not None:
            self._sender.sender_task.cancel()

    async def _abandon(self) -> None:
        """End the producer without delivering what it still holds; `stop` would wait for that."""
        self._producer._closed = True  # noqa: SLF001 -- keeps it from warning that it was not stopped
        await self._producer.client.close()
        task = self._sender.sender_task
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_ABANDON_SECONDS_MAX)
