"""A topic that was deleted and made anew, as an operator does: who reads and writes it goes on."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.kafka import KafkaServer
from libs.events.topics import Topic
from libs.kafka.clients import admin
from libs.kafka.consumer import EventConsumer, Partition
from libs.kafka.topics import ensure_topics
from libs.runtime.groups import KafkaSettings

#: aiokafka by itself looks at its topics every five minutes.
SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    server = KafkaServer(BackcastHome(tmp_path_factory.mktemp("kafka"), tied=True))

    def start() -> None:
        server.prepare(print)
        server.spawn()
        server.wait_ready()

    try:
        start_or_skip(start)
        yield server.client_settings
    finally:
        server.stop()


async def until(what: Callable[[], object], consumer: EventConsumer) -> float:
    """Read until something is so; seconds that it took."""
    began = time.monotonic()
    while not what():
        await consumer.batch(0.2)
        assert time.monotonic() - began < SECONDS_MAX
    return time.monotonic() - began


async def delete(settings: KafkaSettings, topic: Topic) -> None:
    client = admin(settings)
    await client.start()
    try:
        await client.delete_topics([topic.name])
        for _ in range(100):
            if topic.name not in await client.list_topics():
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"topic {topic.name} is still there")
    finally:
        await client.close()


def test_a_reader_has_the_partitions_of_a_topic_that_was_made_anew(settings: KafkaSettings) -> None:
    topic = Topic(
        name=f"t-{uuid.uuid4()}", key="k", partitions=1, retention_seconds=60, relayed=True
    )
    more = dataclasses.replace(topic, partitions=3)

    async def check() -> None:
        await ensure_topics(settings, [topic], 1)
        async with EventConsumer(settings, [topic.name], group=topic.name) as consumer:
            await until(lambda: consumer.partitions, consumer)
            assert consumer.missing_topics() == []
            await delete(settings, topic)
            await until(consumer.missing_topics, consumer)
            assert consumer.missing_topics() == [topic.name]
            await ensure_topics(settings, [more], 1)
            seconds = await until(lambda: len(consumer.partitions) == 3, consumer)
            assert consumer.missing_topics() == []
            assert consumer.partitions == {Partition(topic.name, number) for number in range(3)}
            print(f"partitions are back after {seconds:.1f} s")

    asyncio.run(asyncio.wait_for(check(), 3 * SECONDS_MAX))
