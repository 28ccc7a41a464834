"""Which keys a member of a group reads, on a real broker."""

import dataclasses
import uuid

from libs.events.codec import encode
from libs.events.record import to_record
from libs.events.topics import BLOCK_CHANGES
from libs.kafka.consumer import BadRecord, EventConsumer
from libs.runtime.groups import KafkaSettings
from tests.golden.make_events import SAMPLES, envelope_of
from tests.integration.test_kafka import broker, from_latest, publish, run, settings, until

__all__ = ["broker", "settings"]


def test_a_member_of_a_group_knows_the_keys_that_it_reads(settings: KafkaSettings) -> None:
    record = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0]))
    keys = {str(uuid.uuid4()).encode() for _ in range(20)}
    sent = [dataclasses.replace(record, key=key, value=b"") for key in keys]

    async def check() -> None:
        async with (
            EventConsumer(settings, [BLOCK_CHANGES], group="keys", starts=from_latest) as one,
            EventConsumer(settings, [BLOCK_CHANGES], group="keys", starts=from_latest) as two,
        ):
            await until(lambda: len(one.partitions) == len(two.partitions) == 4, one, two)
            await publish(settings, sent)
            found = 0
            while found < len(keys):
                for member, other in ((one, two), (two, one)):
                    for delivery in await member.batch(0.1):
                        assert isinstance(delivery, BadRecord)
                        assert delivery.key is not None
                        assert member.reads(BLOCK_CHANGES, delivery.key)
                        assert not other.reads(BLOCK_CHANGES, delivery.key)
                        found += 1

    run(check())
