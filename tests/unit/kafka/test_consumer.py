import asyncio

import pytest

from libs.kafka.consumer import EventConsumer
from libs.runtime.groups import KafkaSettings


def test_a_batch_ends_while_a_rebalance_waits_for_a_broker_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What aiokafka does then: its own time-out does not count while partitions are assigned."""
    monkeypatch.setattr("libs.kafka.consumer._REBALANCE_WAIT_SECONDS_MAX", 0.01)

    async def never(**_: object) -> object:
        return await asyncio.get_running_loop().create_future()

    async def read() -> list[object]:
        reader = EventConsumer(KafkaSettings(bootstrap="127.0.0.1:1"), ["a"], group="g")
        monkeypatch.setattr(reader._consumer, "getmany", never)
        async with asyncio.timeout(10):
            return list(await reader.batch(0.01))

    assert asyncio.run(read()) == []
