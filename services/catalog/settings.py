"""Settings of the catalog service: BACKCAST_CATALOG_*."""

from dataclasses import dataclass

from libs.runtime.groups import KafkaSettings, PostgresSettings, S3Settings, ServiceSettings
from libs.runtime.settings import Secret


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the catalog's loops need to know."""

    postgres: PostgresSettings
    kafka: KafkaSettings
    s3: S3Settings
    #: File with the key-encryption key: 64 hexadecimal characters.
    kek: Secret
    #: File with the tokens that the REST endpoints accept.
    tokens: Secret
    #: Events that are read from the log and published at a time.
    relay_batch_count_max: int = 500
    #: The relay looks at the log at least this often, also if nobody woke it.
    relay_interval_seconds: float = 1.0
    #: How often overdue sessions and readers are ended.
    housekeeping_interval_seconds: float = 5.0
    #: How often the clock is looked at and snapshots that retention does not keep are expired.
    retention_interval_seconds: float = 60.0
    #: Pause between two passes of collection.
    collection_interval_seconds: float = 60.0
    #: How often every pack is looked at, should one have been overlooked.
    collection_slow_interval_seconds: float = 86_400.0
    #: Time after which another collector may take over what one has begun to delete.
    tombstone_deadline_seconds: float = 60.0
