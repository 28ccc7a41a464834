"""Making and comparing topics on the shared broker; what happens where no broker answers."""

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deploy.local.cluster import LocalCluster
from libs.errors import UnavailableError
from libs.events.topics import PACKS, TOPICS, Topic
from libs.kafka.consumer import EventConsumer
from libs.kafka.publisher import Publisher
from libs.kafka.topics import count_records, ensure_topics
from libs.runtime.groups import KafkaSettings
from libs.runtime.settings import Secret

#: No server listens on the discard port.
NOBODY = KafkaSettings(bootstrap="127.0.0.1:9")


@pytest.fixture
def settings(servers: LocalCluster) -> KafkaSettings:
    return servers.kafka.client_settings


def some_topic() -> Topic:
    name = f"t-{uuid.uuid4()}"
    return Topic(name=name, key="k", partitions=1, retention_seconds=60, relayed=True)


def test_topics_are_made_once_even_by_two_at_once(settings: KafkaSettings) -> None:
    topic = some_topic()

    async def both() -> list[str]:
        reports = await asyncio.gather(*(ensure_topics(settings, [topic], 1) for _ in range(2)))
        assert not any(report.differences for report in reports)
        return [name for report in reports for name in report.created]

    assert asyncio.run(both()) == [topic.name]


def test_topics_that_exist_as_they_must_be_are_nothing_to_report(settings: KafkaSettings) -> None:
    asyncio.run(ensure_topics(settings, TOPICS, 1))
    report = asyncio.run(ensure_topics(settings, TOPICS, 1))
    assert (report.created, report.differences) == ((), ())


def test_topics_that_are_not_as_they_must_be_are_reported_and_left_alone(
    settings: KafkaSettings,
) -> None:
    topic = some_topic()
    other = dataclasses.replace(topic, partitions=2, retention_seconds=None)
    asyncio.run(ensure_topics(settings, [topic], 1))
    for _ in range(2):
        assert asyncio.run(ensure_topics(settings, [other], 1)).differences == (
            f"topic {topic.name}: retention.ms is 60000, expected -1",
            f"topic {topic.name}: partitions is 1, expected 2",
        )


def test_a_new_topic_holds_no_records(settings: KafkaSettings) -> None:
    topic = some_topic()
    asyncio.run(ensure_topics(settings, [topic], 1))
    assert asyncio.run(count_records(settings, [topic.name])) == {topic.name: 0}


async def publish_nothing() -> None:
    async with Publisher(NOBODY):
        pass


async def consume_nothing() -> None:
    async with EventConsumer(NOBODY, [PACKS], group=None):
        pass


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda: ensure_topics(NOBODY, TOPICS, 1), id="topics"),
        pytest.param(lambda: count_records(NOBODY, [PACKS]), id="counts"),
        pytest.param(publish_nothing, id="publisher"),
        pytest.param(consume_nothing, id="consumer"),
    ],
)
def test_no_broker_is_unavailable(use: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    with pytest.raises(UnavailableError, match=r"broker 127\.0\.0\.1:\d+: .*KAFKA_BOOTSTRAP"):
        asyncio.run(use())


async def publish_as(settings: KafkaSettings) -> None:
    async with Publisher(settings):
        pass


async def consume_as(settings: KafkaSettings) -> None:
    async with EventConsumer(settings, [PACKS], group=None):
        pass


async def share_as(settings: KafkaSettings) -> None:
    async with EventConsumer(settings, [PACKS], group="some"):
        pass


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda guest: ensure_topics(guest, TOPICS, 1), id="topics"),
        pytest.param(lambda guest: count_records(guest, [PACKS]), id="counts"),
        pytest.param(publish_as, id="publisher"),
        pytest.param(consume_as, id="consumer"),
        pytest.param(share_as, id="member"),
    ],
)
def test_a_wrong_password_is_named_with_its_user_and_setting(
    settings: KafkaSettings, use: Callable[[KafkaSettings], Coroutine[Any, Any, Any]]
) -> None:
    guest = dataclasses.replace(settings, sasl_password=Secret("guessed"))
    with pytest.raises(UnavailableError, match=r"login of user backcast .*PASSWORD_FILE") as told:
        asyncio.run(use(guest))
    assert "guessed" not in str(told.value)
