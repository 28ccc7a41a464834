"""What Kafka's copy of the log says of sessions: a rebuild then knows what was acknowledged."""

import asyncio
import time
from uuid import UUID

from libs.errors import UnavailableError
from libs.events.snapshots import (
    SnapshotExpired,
    SnapshotRecovered,
    SnapshotRejected,
    SnapshotSealed,
)
from libs.events.topics import SNAPSHOTS
from libs.kafka.consumer import EventConsumer, ReceivedEvent
from libs.runtime.groups import KafkaSettings
from services.catalog.recovery.manifests import Decisions

#: Without an answer for so long, reading ends with an error.
_SILENCE_SECONDS = 30.0


def read_decisions(settings: KafkaSettings) -> Decisions:
    """Read the topic of snapshots from its beginning to its present end.

    In memory is one id of each session. Duplicates are harmless.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    return asyncio.run(_read(settings))


async def _read(settings: KafkaSettings) -> Decisions:
    sealed: set[UUID] = set()
    rejected: set[UUID] = set()
    expired: set[UUID] = set()
    async with EventConsumer(settings, [SNAPSHOTS], group=None) as consumer:
        ends = await consumer.ends()
        heard_at = time.monotonic()
        while any(consumer.positions()[partition] < end for partition, end in ends.items()):
            deliveries = await consumer.batch(1.0)
            if deliveries:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_SECONDS:
                raise UnavailableError(f"topic {SNAPSHOTS}: no records for {_SILENCE_SECONDS:g} s")
            for delivery in deliveries:
                match delivery.event if isinstance(delivery, ReceivedEvent) else None:
                    case SnapshotSealed(session=session) | SnapshotRecovered(session=session):
                        sealed.add(session)
                    case SnapshotRejected(session=session):
                        rejected.add(session)
                    case SnapshotExpired(session=session):
                        expired.add(session)
    # A relay that lagged has not told of the last seals: what the log does not know is decided by
    # the store.
    return Decisions(sealed, rejected - sealed, expired)
