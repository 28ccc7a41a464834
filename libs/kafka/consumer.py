"""Reads events at positions that the caller keeps; nothing is ever committed to Kafka."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from aiokafka import (  # type: ignore[import-untyped]  # no py.typed
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]  # no py.typed
from aiokafka.partitioner import (  # type: ignore[import-untyped]  # no py.typed
    DefaultPartitioner,
)

from libs.errors import BadEventError, UnavailableError
from libs.events.envelope import Envelope, from_headers
from libs.events.record import from_record
from libs.events.registry import Event
from libs.kafka.clients import consumer, translated
from libs.kafka.starting import start_client
from libs.runtime.groups import KafkaSettings

#: As a start: the first record that the partition still has.
EARLIEST = -2
#: As a start: the next record that will be written.
LATEST = -1

_STOP_SECONDS_MAX = 3.0
#: How much longer than it was asked to `batch` may wait while partitions are assigned anew.
_REBALANCE_WAIT_SECONDS_MAX = 1.0


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event, and where it stood."""

    partition: Partition
    offset: int
    envelope: Envelope
    event: Event
    #: Its encoded form: what a MAC and the digest of batches cover.
    value: bytes


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no event that can be applied. Count it, report it, go on."""

    partition: Partition
    offset: int
    error: BadEventError
    key: bytes | None
    #: If the headers could be read; what they claim is not authenticated.
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class LostRecords:
    """Offsets that the partition no longer has, or has again after it was made anew.

    Retention deleted them, or someone deleted the topic: what they said is gone.
    """

    partition: Partition
    #: Where reading should have gone on.
    expected_offset: int
    #: Where it goes on instead.
    found_offset: int


Delivery = ReceivedEvent | BadRecord | LostRecords

#: Says where to start on partitions that were just assigned; what it leaves out starts at EARLIEST.
StartOffsets = Callable[[frozenset[Partition]], Awaitable[Mapping[Partition, int]]]
#: Is told which partitions were taken away, before another member gets them.
Revoked = Callable[[frozenset[Partition]], Awaitable[None]]


async def from_earliest(_partitions: frozenset[Partition]) -> Mapping[Partition, int]:
    """`StartOffsets` of a consumer that reads everything there is."""
    return {}


async def _ignore(_partitions: frozenset[Partition]) -> None:
    """`Revoked` of a consumer that keeps nothing by partition."""


_Callback = Callable[[Iterable[TopicPartition]], Awaitable[None]]


class EventConsumer:
    """Delivers the records of its partitions in order, each as an event, a bad record, or a loss.

    At every rebalance all partitions are revoked and assigned anew, and their starts asked for
    again: a record may be delivered more than once, also to two members that both believe to own
    its partition. Only the database decides who does. Use it as an async context manager, from
    one task.

    Args:
        settings: how to reach the brokers.
        topics: what to read.
        group: members of a group share the partitions; None = this consumer reads all of them.
        starts: see `StartOffsets`.
        revoked: see `Revoked`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        *,
        group: str | None,
        starts: StartOffsets = from_earliest,
        revoked: Revoked = _ignore,
    ) -> None:
        self._settings = settings
        self._topics = sorted(topics)
        self._group = group
        self._starts = starts
        self._revoked = revoked
        self._consumer = consumer(settings, group)
        #: The next offset of each partition that is ours and has its start.
        self._next: dict[TopicPartition, int] = {}
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        try:
            with translated(f"read {', '.join(self._topics)}"):
                if self._group is not None:
                    self._consumer.subscribe(
                        self._topics, listener=_Listener(self._drop_all, self._take)
                    )
                    await self._start()
                else:
                    await self._start_alone()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions that are delivered now."""
        return frozenset(Partition(*partition) for partition in self._next)

    def positions(self) -> dict[Partition, int]:
        """The partitions that are delivered now, and the next offset of each."""
        return {Partition(*partition): offset for partition, offset in self._next.items()}

    def missing_topics(self) -> list[str]:
        """Topics without any partition, as far as the client knows: none of theirs is delivered.

        A topic that has partitions, all of them another member's, is not missing.
        """
        return [topic for topic in self._topics if not self._consumer.partitions_for_topic(topic)]

    def reads(self, topic: str, key: bytes) -> bool:
        """Whether records with this key are delivered to us now, as far as the client knows."""
        numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
        if not numbers:
            return False
        # As our producers place them; partitions that were added since move keys.
        number = DefaultPartitioner()(key, numbers, numbers)
        return TopicPartition(topic, number) in self._next

    async def batch(self, timeout_seconds: float, count_max: int = 256) -> list[Delivery]:
        """The next records, or none after the timeout (also while no broker answers).

        Call it at least every five minutes, or the group gives the partitions to others.

        Raises:
            InvariantViolation: a record is larger than a fetch; nothing may be skipped.
            ForbiddenError: the user may not read a topic.
            DamagedDataError: the broker sends records that fail their checksum.
            UnavailableError: the client has broken; make another consumer.
            Exception: what `starts` or `revoked` raised.
        """
        if self._failure is not None:
            raise self._failure
        self._check_fetching()
        with translated(f"read {', '.join(self._topics)}"):
            fetched = await self._fetched(timeout_seconds, count_max)
        deliveries: list[Delivery] = []
        for partition, records in fetched.items():
            for record in records:
                self._deliver(partition, record, deliveries)
        return deliveries

    def rewind(self, partition: Partition, offset: int) -> None:
        """Deliver a partition again from an offset; nothing if it is not delivered now."""
        name = TopicPartition(*partition)
        if offset < self._next.get(name, offset):
            self._seek({name: offset})

    async def ends(self) -> dict[Partition, int]:
        """The offset after the last record of each partition that is delivered now."""
        with translated("ask for the ends of partitions"):
            ends = await self._consumer.end_offsets(list(self._next))
        return {Partition(*partition): offset for partition, offset in ends.items()}

    def _check_fetching(self) -> None:
        """Notice that aiokafka's task which fetches has ended: it only logs why (0.14).

        Without this, `batch` would find nothing for ever and everybody would look well.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 -- its `error_future` is asked by nobody
        if fetcher is not None and fetcher.error_future.done():
            raise UnavailableError(
                f"reading {', '.join(self._topics)}: the client has stopped fetching; see the log"
            )

    async def _fetched(
        self, timeout_seconds: float, count_max: int
    ) -> Mapping[TopicPartition, list[ConsumerRecord]]:
        """What aiokafka has. Cancelling loses nothing: it hands records over without waiting."""
        # aiokafka 0.14 waits for the end of a rebalance without regard to its own time-out: where
        # the broker went away in the middle of one, until a broker is back.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds + _REBALANCE_WAIT_SECONDS_MAX):
                found: Mapping[TopicPartition, list[ConsumerRecord]]
                found = await self._consumer.getmany(
                    timeout_ms=int(timeout_seconds * 1000), max_records=count_max
                )
                return found
        return {}

    async def _start(self) -> None:
        await start_client(self._consumer, self._settings, f"read {', '.join(self._topics)}")

    async def _start_alone(self) -> None:
        self._consumer.subscribe(self._topics)
        await self._start()
        partitions = list(self._consumer.assignment())
        starts = await self._resolve_starts(partitions)
        # From here on assigned by hand, so that no later change of the topics resets positions.
        self._consumer.unsubscribe()
        self._consumer.assign(partitions)
        self._seek(starts)

    async def _take(self, partitions: Iterable[TopicPartition]) -> None:
        try:
            self._seek(await self._resolve_starts(list(partitions)))
        except Exception as err:
            self._failure = err
            raise

    async def _drop_all(self, partitions: Iterable[TopicPartition]) -> None:
        self._next.clear()
        try:
            await self._revoked(frozenset(Partition(*partition) for partition in partitions))
        except Exception as err:
            self._failure = err
            raise

    async def _resolve_starts(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        wanted = await self._starts(frozenset(Partition(*partition) for partition in partitions))
        named = {
            EARLIEST: await self._consumer.beginning_offsets(partitions),
            LATEST: await self._consumer.end_offsets(partitions),
        }
        starts = {}
        for partition in partitions:
            start = wanted.get(Partition(*partition), EARLIEST)
            starts[partition] = named[start][partition] if start in named else start
        return starts

    def _seek(self, starts: Mapping[TopicPartition, int]) -> None:
        """Start on new partitions. Until then `_deliver` drops what aiokafka fetches of them."""
        for partition, start in starts.items():
            self._consumer.seek(partition, start)
            self._next[partition] = start

    async def _stop(self) -> None:
        # Without a bound it waits for brokers that do not answer (to leave the group), and for ever
        # where aiokafka 0.14 loses the cancellation of its fetch task.
        # Of a broken client it raises what broke it, in place of what the caller is told already.
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(self._consumer.stop(), _STOP_SECONDS_MAX)

    def _deliver(
        self, partition: TopicPartition, record: ConsumerRecord, deliveries: list[Delivery]
    ) -> None:
        expected = self._next.get(partition)
        if expected is None:  # fetched before its start was known: it will be fetched again
            return
        name = Partition(*partition)
        if record.offset != expected:
            deliveries.append(LostRecords(name, expected, record.offset))
        self._next[partition] = record.offset + 1
        deliveries.append(_read(name, record))


def _read(partition: Partition, record: ConsumerRecord) -> ReceivedEvent | BadRecord:
    try:
        envelope, event = from_record(partition.topic, record.headers, record.value)
    except BadEventError as err:
        try:
            claimed = from_headers(record.headers)
        except BadEventError:
            claimed = None
        return BadRecord(partition, record.offset, err, record.key, claimed)
    return ReceivedEvent(partition, record.offset, envelope, event, record.value)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # its base is untyped
    """Hands aiokafka's callbacks on; what they raise it only logs, so that `batch` raises it."""

    def __init__(self, revoked: _Callback, assigned: _Callback) -> None:
        self._revoked = revoked
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._assigned(assigned)
