"""Settings of the set-up: BACKCAST_INIT_*."""

from dataclasses import dataclass

from libs.runtime.groups import (
    NO_SECOND_STORE,
    KafkaSettings,
    PostgresSettings,
    S3Settings,
    SecondS3Settings,
    ServiceSettings,
)
from libs.runtime.settings import Secret


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the set-up needs to know; it is the only process that connects as the schema's owner."""

    #: Connection of the owner of the schema.
    postgres: PostgresSettings
    kafka: KafkaSettings
    s3: S3Settings
    second_s3: SecondS3Settings = NO_SECOND_STORE
    #: File with the key-encryption key: 64 hexadecimal characters; only checked.
    kek: Secret
    #: File with the connection string whose user and password the coordinator gets; others alike.
    coordinator_dsn: Secret | None = None
    #: See COORDINATOR_DSN_FILE.
    chunker_dsn: Secret | None = None
    #: See COORDINATOR_DSN_FILE.
    catalog_dsn: Secret | None = None
    #: See COORDINATOR_DSN_FILE.
    restore_dsn: Secret | None = None
    #: Replicas of new topics; 3 in production.
    topic_replication_factor: int = 1
