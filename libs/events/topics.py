"""The Kafka topics: names, keys, partitions and how long they keep events."""

from dataclasses import dataclass

_DAY_SECONDS = 24 * 60 * 60

BLOCK_CHANGES = "backcast.block-changes"
PACKS = "backcast.packs"
SNAPSHOTS = "backcast.snapshots"
RESTORES = "backcast.restores"
NOTIFICATIONS = "backcast.notifications"
AUDIT = "backcast.audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What a topic must be like in the cluster."""

    name: str
    #: What the key of a record (and the subject of its envelope) is; one key keeps its order.
    key: str
    #: Partitions of a new topic. A relayed topic has exactly one: its order is the catalog's.
    partitions: int
    #: How long records are kept; None = for ever.
    retention_seconds: int | None
    #: Whether the catalog's relay writes it, from the event log and with its gapless positions.
    relayed: bool


TOPICS: tuple[Topic, ...] = (
    Topic(
        name=BLOCK_CHANGES,
        key="volume",
        partitions=8,
        retention_seconds=14 * _DAY_SECONDS,
        relayed=False,
    ),
    Topic(name=PACKS, key="generation", partitions=1, retention_seconds=None, relayed=True),
    Topic(name=SNAPSHOTS, key="group", partitions=1, retention_seconds=None, relayed=True),
    Topic(
        name=RESTORES,
        key="restore",
        partitions=1,
        retention_seconds=90 * _DAY_SECONDS,
        relayed=True,
    ),
    Topic(
        name=NOTIFICATIONS,
        key="what the notification is about",
        partitions=1,
        retention_seconds=30 * _DAY_SECONDS,
        relayed=True,
    ),
    Topic(name=AUDIT, key="token", partitions=1, retention_seconds=None, relayed=True),
)

#: Names of the topics that have a position in the catalog's event log.
RELAYED_TOPICS: tuple[str, ...] = tuple(topic.name for topic in TOPICS if topic.relayed)
