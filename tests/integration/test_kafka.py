"""Publisher and consumer on a broker of their own: it is frozen, and fed with poison."""

import asyncio
import dataclasses
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest
from aiokafka import TopicPartition  # type: ignore[import-untyped]  # no py.typed
from aiokafka.admin import (  # type: ignore[import-untyped]  # no py.typed
    NewTopic,
    RecordsToDelete,
)

from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.kafka import KafkaServer
from libs.errors import MalformedEventError, OversizedEventError, UnavailableError
from libs.events.codec import EVENT_SIZE_BYTES_MAX, encode
from libs.events.packs import PackStored
from libs.events.record import EventRecord, to_record
from libs.events.topics import BLOCK_CHANGES, PACKS, TOPICS
from libs.ids import new_generation
from libs.kafka.clients import admin
from libs.kafka.consumer import (
    LATEST,
    BadRecord,
    Delivery,
    EventConsumer,
    LostRecords,
    Partition,
    ReceivedEvent,
)
from libs.kafka.publisher import Publisher
from libs.kafka.topics import count_records, ensure_topics
from libs.runtime.groups import KafkaSettings
from tests.golden.make_events import SAMPLES, envelope_of
from tests.support.pausing import paused

T = TypeVar("T")

#: Nothing here takes a tenth of it on an idle machine.
SECONDS_MAX = 60

PACK = next(event for event in SAMPLES if isinstance(event, PackStored))
P0 = Partition(PACKS, 0)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(BackcastHome(tmp_path_factory.mktemp("kafka"), tied=True))

    def start() -> None:
        server.prepare(print)
        server.spawn()
        server.wait_ready()

    try:
        start_or_skip(start)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def settings(broker: KafkaServer) -> KafkaSettings:
    settings = broker.client_settings
    run(ensure_topics(settings, TOPICS, replication_factor=1))
    return settings


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one test's coroutine; hanging is failing."""
    return asyncio.run(asyncio.wait_for(work, SECONDS_MAX))


def packs(count: int) -> list[tuple[PackStored, EventRecord]]:
    """Events of new packs, and their records."""
    made = []
    for number in range(count):
        event = dataclasses.replace(PACK, generation=new_generation(), size_bytes=number)
        envelope = dataclasses.replace(envelope_of(event), subject=str(event.generation))
        made.append((event, to_record(envelope, encode(event))))
    return made


async def publish(settings: KafkaSettings, records: Sequence[EventRecord]) -> None:
    async with Publisher(settings) as publisher:
        for record in records:
            await publisher.publish(record)


async def from_latest(partitions: frozenset[Partition]) -> Mapping[Partition, int]:
    return dict.fromkeys(partitions, LATEST)


def start_at(offset: int) -> Callable[[frozenset[Partition]], Awaitable[Mapping[Partition, int]]]:
    async def starts(partitions: frozenset[Partition]) -> Mapping[Partition, int]:
        return dict.fromkeys(partitions, offset)

    return starts


async def read(consumer: EventConsumer, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        deliveries += await consumer.batch(1.0)
    return deliveries


def events_of(deliveries: Sequence[Delivery]) -> list[Any]:
    return [delivery.event for delivery in deliveries if isinstance(delivery, ReceivedEvent)]


@contextmanager
def frozen(broker: KafkaServer) -> Iterator[None]:
    """The broker takes connections and answers nothing: a stalled disk, a paused machine."""
    pid = broker.process.pid
    assert pid is not None
    with paused(pid):
        yield


def test_events_arrive_in_order_as_they_were_published(settings: KafkaSettings) -> None:
    made = packs(500)

    async def check() -> None:
        async with EventConsumer(settings, [PACKS], group=None, starts=from_latest) as consumer:
            before = (await consumer.ends())[P0]
            await publish(settings, [record for _event, record in made])
            deliveries = await read(consumer, len(made))
            assert (await consumer.ends())[P0] == before + len(made)
        assert events_of(deliveries) == [event for event, _record in made]
        first = deliveries[0]
        assert isinstance(first, ReceivedEvent)
        assert (first.partition, first.offset) == (P0, before)
        assert first.envelope.subject == str(made[0][0].generation)
        assert first.value == made[0][1].value

    run(check())


def test_records_of_one_key_keep_their_order_over_many_partitions(settings: KafkaSettings) -> None:
    record = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0]))
    keys = [str(uuid.uuid4()) for _ in range(20)]
    sent = [
        dataclasses.replace(record, key=key.encode(), value=number.to_bytes(4, "big"))
        for number in range(10)
        for key in keys
    ]

    async def check() -> list[Delivery]:
        async with EventConsumer(
            settings, [BLOCK_CHANGES], group=None, starts=from_latest
        ) as consumer:
            await publish(settings, sent)
            return await read(consumer, len(sent))

    by_key: dict[bytes, list[Partition]] = {key.encode(): [] for key in keys}
    for delivery in run(check()):
        assert isinstance(delivery, BadRecord)
        assert delivery.key is not None
        by_key[delivery.key].append(delivery.partition)
    assert all(len(seen) == 10 and len(set(seen)) == 1 for seen in by_key.values())
    assert len({seen[0] for seen in by_key.values()}) > 1


def test_poison_is_handed_over_and_stops_nothing(settings: KafkaSettings) -> None:
    (good, record), (last, last_record) = packs(2)
    foreign = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0]))
    poison = [
        dataclasses.replace(record, value=b"\xc1 not msgpack"),
        dataclasses.replace(record, headers=()),
        dataclasses.replace(record, value=bytes(EVENT_SIZE_BYTES_MAX + 1)),
        dataclasses.replace(foreign, topic=PACKS),
    ]

    async def check() -> list[Delivery]:
        async with EventConsumer(settings, [PACKS], group=None, starts=from_latest) as consumer:
            await publish(settings, [record, *poison, last_record])
            return await read(consumer, len(poison) + 2)

    deliveries = run(check())
    assert events_of(deliveries) == [good, last]
    bad = [delivery for delivery in deliveries if isinstance(delivery, BadRecord)]
    assert [type(delivery.error) for delivery in bad] == [
        MalformedEventError,
        MalformedEventError,
        OversizedEventError,
        MalformedEventError,
    ]
    assert bad[0].envelope is not None
    assert bad[0].envelope.subject == str(good.generation)
    assert bad[1].envelope is None
    assert [delivery.offset for delivery in bad] == [*range(bad[0].offset, bad[0].offset + 4)]


def test_reading_goes_on_at_the_position_that_the_caller_kept(settings: KafkaSettings) -> None:
    made = packs(5)

    async def check() -> None:
        async with EventConsumer(
            settings, [PACKS], group="positions", starts=from_latest
        ) as reader:
            await wait_assigned(reader)
            await publish(settings, [record for _event, record in made])
            third = (await read(reader, 5))[2]
        assert isinstance(third, ReceivedEvent)
        for group in ("moving", None):
            async with EventConsumer(
                settings, [PACKS], group=group, starts=start_at(third.offset)
            ) as again:
                assert events_of(await read(again, 3)) == [event for event, _record in made[2:]]

    run(check())


async def wait_assigned(consumer: EventConsumer) -> None:
    while not consumer.partitions:
        await consumer.batch(0.1)


def test_nothing_is_committed_to_kafka(settings: KafkaSettings) -> None:
    async def check() -> None:
        async with EventConsumer(settings, [PACKS], group="commits") as consumer:
            await publish(settings, [packs(1)[0][1]])
            await read(consumer, 1)
        async with administrator(settings) as client:
            assert await client.list_consumer_group_offsets("commits") == {}

    run(check())


@asynccontextmanager
async def administrator(settings: KafkaSettings) -> AsyncIterator[Any]:
    client = admin(settings)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def test_records_that_retention_deleted_are_reported_as_lost(settings: KafkaSettings) -> None:
    made = packs(4)

    async def check() -> list[Delivery]:
        async with EventConsumer(settings, [PACKS], group=None, starts=from_latest) as consumer:
            before = (await consumer.ends())[P0]
        await publish(settings, [record for _event, record in made])
        async with administrator(settings) as client:
            await client.delete_records({TopicPartition(*P0): RecordsToDelete(before + 3)})
        async with EventConsumer(settings, [PACKS], group=None, starts=start_at(before)) as late:
            deliveries = await read(late, 2)
        assert deliveries[0] == LostRecords(P0, before, before + 3)
        return deliveries

    assert events_of(run(check())) == [made[3][0]]


def test_a_position_behind_the_end_is_reported_as_a_loss(settings: KafkaSettings) -> None:
    async def check() -> None:
        await publish(settings, [packs(1)[0][1]])
        async with EventConsumer(settings, [PACKS], group=None, starts=start_at(10**9)) as consumer:
            lost = (await read(consumer, 1))[0]
        assert isinstance(lost, LostRecords)
        assert lost.expected_offset == 10**9 > lost.found_offset

    run(check())


def test_a_group_shares_partitions_and_asks_for_starts_at_every_assignment(
    settings: KafkaSettings,
) -> None:
    asked: list[frozenset[Partition]] = []
    taken: list[frozenset[Partition]] = []

    async def starts(partitions: frozenset[Partition]) -> Mapping[Partition, int]:
        asked.append(partitions)
        return {}

    async def revoked(partitions: frozenset[Partition]) -> None:
        taken.append(partitions)

    async def check() -> None:
        everything = frozenset(Partition(BLOCK_CHANGES, number) for number in range(8))
        async with EventConsumer(
            settings, [BLOCK_CHANGES], group="shared", starts=starts, revoked=revoked
        ) as one:
            await until(lambda: one.partitions == everything, one)
            async with EventConsumer(settings, [BLOCK_CHANGES], group="shared") as two:
                await until(lambda: len(one.partitions) == len(two.partitions) == 4, one, two)
                assert one.partitions | two.partitions == everything
                assert taken[-1] == everything
            await until(lambda: one.partitions == everything, one)
        assert [len(partitions) for partitions in asked] == [8, 4, 8]

    run(check())


async def until(condition: Callable[[], bool], *consumers: EventConsumer) -> None:
    while not condition():
        await asyncio.gather(*(consumer.batch(0.1) for consumer in consumers))


@pytest.mark.parametrize("group", ["failing", None])
def test_what_the_callback_raises_reaches_the_caller(
    settings: KafkaSettings, group: str | None
) -> None:
    async def starts(_partitions: frozenset[Partition]) -> Mapping[Partition, int]:
        raise UnavailableError("the catalog is away")

    async def check() -> None:
        async with EventConsumer(settings, [PACKS], group=group, starts=starts) as consumer:
            await read(consumer, 1)

    with pytest.raises(UnavailableError, match="the catalog is away"):
        run(check())


def test_a_frozen_broker_fails_the_publisher_in_time_and_for_good(
    settings: KafkaSettings, broker: KafkaServer
) -> None:
    made = packs(2)

    async def check() -> None:
        async with Publisher(settings, ack_seconds_max=1.0) as publisher:
            await publisher.publish(made[0][1])
            await publisher.flush()
            with frozen(broker):
                await publisher.publish(made[1][1])
                with pytest.raises(UnavailableError, match=r"within 1 s"):
                    await publisher.flush()
            await publisher.publish(made[1][1])

    with pytest.raises(UnavailableError, match=r"within 1 s"):
        run(check())
    run(publish(settings, [made[1][1]]))


def test_a_frozen_broker_keeps_no_consumer_from_stopping(
    settings: KafkaSettings, broker: KafkaServer
) -> None:
    async def check() -> None:
        async with EventConsumer(settings, [PACKS], group="stopping") as consumer:
            await wait_assigned(consumer)
            with frozen(broker):
                async with asyncio.timeout(10):
                    await consumer.__aexit__(None, None, None)

    run(check())


def test_nothing_is_sent_after_a_record_that_the_broker_refused(settings: KafkaSettings) -> None:
    small = f"t-{uuid.uuid4()}"
    record = packs(1)[0][1]
    large = EventRecord(small, b"k", (), bytes(200 * 1024))
    after = dataclasses.replace(record, topic=small, key=b"k")

    async def check() -> None:
        async with administrator(settings) as client:
            await client.create_topics([new_topic(small, {"max.message.bytes": "100000"})])
        async with Publisher(settings) as publisher:
            await publisher.publish(after)
            await publisher.flush()
            # Two large ones do not fit one batch: the last record waits behind the refused one.
            for refused in (large, large, after):
                await publisher.publish(refused)
            with pytest.raises(OversizedEventError):
                await publisher.flush()
            await publisher.publish(after)

    with pytest.raises(OversizedEventError):
        run(check())
    assert run(count_records(settings, [small])) == {small: 1}


def new_topic(name: str, configuration: dict[str, str]) -> NewTopic:
    return NewTopic(name, 1, 1, topic_configs=configuration)
