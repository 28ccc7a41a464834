"""Makes the topics that are missing and says how existing ones differ from what they must be."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition  # type: ignore[import-untyped]  # no py.typed
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]  # no py.typed
from aiokafka.admin.config_resource import (  # type: ignore[import-untyped]  # no py.typed
    ConfigResource,
    ConfigResourceType,
)

from libs.errors import UnavailableError
from libs.events.topics import Topic
from libs.kafka.clients import (
    TOPIC_MESSAGE_SIZE_BYTES_MAX,
    admin,
    consumer,
    translate,
    translated,
)
from libs.kafka.starting import start_client
from libs.runtime.groups import KafkaSettings

_VISIBLE_POLL_SECONDS = 0.05
_VISIBLE_POLLS_MAX = 400


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What `ensure_topics` did and found."""

    created: tuple[str, ...]
    #: One sentence per setting of an existing topic that is not as it must be; nothing was changed.
    differences: tuple[str, ...]


async def ensure_topics(
    settings: KafkaSettings, topics: Sequence[Topic], replication_factor: int
) -> TopicsReport:
    """Create the topics that are missing; compare the others. Safe twice, and by two at once.

    Existing topics are never changed: fewer days of retention delete events, and more partitions of
    a relayed topic break its order. Their owner decides.

    Args:
        settings: how to reach the brokers; the user needs the right to create and describe topics.
        topics: what there must be.
        replication_factor: copies of a new topic's records. From 3 on, two must have a record
            before it is acknowledged.

    Raises:
        UnavailableError: no broker answers, or it cannot create a topic now.
        ForbiddenError: the user lacks the right.
    """
    client = admin(settings)
    with translated("make topics"):
        try:
            await start_client(client, settings, "make topics")
            existing = set(await client.list_topics())
            missing = [topic for topic in topics if topic.name not in existing]
            created = await _create(client, missing, replication_factor)
            await _wait_visible(client, [topic.name for topic in topics])
            others = [topic for topic in topics if topic.name not in created]
            return TopicsReport(tuple(created), tuple(await _differences(client, others)))
        finally:
            await client.close()


async def count_records(settings: KafkaSettings, topics: Iterable[str]) -> dict[str, int]:
    """Number of records that each topic holds now, by its first and next offsets.

    Raises:
        ConfigurationError: a topic does not exist.
        UnavailableError: no broker answers.
    """
    client = consumer(settings, None)
    counts: dict[str, int] = {}
    with translated("count records"):
        try:
            client.subscribe(list(topics))
            await start_client(client, settings, "count records")
            partitions: set[TopicPartition] = client.assignment()
            firsts = await client.beginning_offsets(partitions)
            nexts = await client.end_offsets(partitions)
            for partition in partitions:
                count = nexts[partition] - firsts[partition]
                counts[partition.topic] = counts.get(partition.topic, 0) + count
        finally:
            await client.stop()
    return counts


async def _create(
    client: AIOKafkaAdminClient, topics: Sequence[Topic], replication_factor: int
) -> list[str]:
    if not topics:
        return []
    min_in_sync = "2" if replication_factor >= 3 else "1"
    wanted = [
        NewTopic(
            topic.name,
            topic.partitions,
            replication_factor,
            topic_configs=_configuration(topic) | {"min.insync.replicas": min_in_sync},
        )
        for topic in topics
    ]
    response = await client.create_topics(wanted)
    created = []
    for name, code, *message in response.topic_errors:
        error = kafka.for_code(code)
        if error is kafka.NoError:
            created.append(name)
        elif error is not kafka.TopicAlreadyExistsError:  # another process was faster
            raise translate(error(*message), f"create topic {name}")
    return created


async def _wait_visible(client: AIOKafkaAdminClient, names: Sequence[str]) -> None:
    """Return when the broker knows every topic; it learns of new ones from the controller."""
    for _ in range(_VISIBLE_POLLS_MAX):
        if not any(entry["error_code"] for entry in await client.describe_topics(list(names))):
            return
        await asyncio.sleep(_VISIBLE_POLL_SECONDS)
    raise UnavailableError(f"Kafka: topics {', '.join(names)} were made, but the broker has none")


async def _differences(client: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    if not topics:
        return []
    names = [topic.name for topic in topics]
    described = {entry["topic"]: entry for entry in await client.describe_topics(names)}
    configured = await _configured(client, names)
    differences = []
    for topic in topics:
        found = configured[topic.name] | {
            "partitions": str(len(described[topic.name]["partitions"]))
        }
        wanted = _configuration(topic) | {"partitions": str(topic.partitions)}
        differences += [
            f"topic {topic.name}: {name} is {found.get(name)}, expected {value}"
            for name, value in wanted.items()
            if found.get(name) != value
        ]
    return differences


async def _configured(
    client: AIOKafkaAdminClient, names: Sequence[str]
) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configured: dict[str, dict[str, str]] = {}
    for response in await client.describe_configs(resources):
        resource: dict[str, Any]
        for resource in response.to_object()["resources"]:
            name = resource["resource_name"]
            error = kafka.for_code(resource["error_code"])
            if error is not kafka.NoError:
                raise translate(error(resource["error_message"]), f"describe topic {name}")
            entries = resource["config_entries"]
            configured[name] = {entry["config_names"]: entry["config_value"] for entry in entries}
    return configured


def _configuration(topic: Topic) -> dict[str, str]:
    kept = topic.retention_seconds
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(kept * 1000) if kept is not None else "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(TOPIC_MESSAGE_SIZE_BYTES_MAX),
        # Retention by the broker's clock: an agent a month behind would lose its events at once.
        "message.timestamp.type": "LogAppendTime",
    }
