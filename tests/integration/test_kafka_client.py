"""What breaks the client library inside is noticed, although the library only logs it."""

import asyncio

import pytest

from deploy.local.cluster import LocalCluster
from libs.errors import UnavailableError
from libs.events.topics import PACKS, TOPICS
from libs.kafka.consumer import EventConsumer
from libs.kafka.topics import ensure_topics

SECONDS_MAX = 60


def test_a_client_that_has_stopped_fetching_is_noticed(
    servers: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka logs what ends its task and then finds nothing for ever."""
    settings = servers.kafka.client_settings

    def broken(*_: object) -> None:
        raise ValueError("a bug in a library")

    async def until_it_ends() -> None:
        await ensure_topics(settings, TOPICS, replication_factor=1)
        async with EventConsumer(settings, [PACKS], group=None) as consumer:
            monkeypatch.setattr(consumer._consumer._fetcher, "_get_actions_per_node", broken)
            while True:
                await consumer.batch(0.2)

    with pytest.raises(UnavailableError, match="stopped fetching"):
        asyncio.run(asyncio.wait_for(until_it_ends(), SECONDS_MAX))
