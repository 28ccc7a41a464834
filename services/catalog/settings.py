"""Settings of the catalog service: BACKCAST_CATALOG_*."""

from dataclasses import dataclass

from libs.runtime.groups import (
    NO_ISSUER,
    NO_SECOND_STORE,
    KafkaSettings,
    OidcSettings,
    PostgresSettings,
    S3Settings,
    SecondS3Settings,
    ServiceSettings,
)
from libs.runtime.settings import Secret


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the catalog's loops need to know."""

    postgres: PostgresSettings
    kafka: KafkaSettings
    s3: S3Settings
    second_s3: SecondS3Settings = NO_SECOND_STORE
    #: File with the key-encryption key: 64 hexadecimal characters.
    kek: Secret
    #: File with the key-encryption key that was used before, while it is changed: opens, and wraps
    #: nothing.
    previous_kek: Secret | None = None
    #: File with the tokens that the REST endpoints accept.
    tokens: Secret
    oidc: OidcSettings = NO_ISSUER
    #: Events that are read from the log and published at a time.
    relay_batch_count_max: int = 500
    #: The relay looks at the log at least this often, also if nobody woke it.
    relay_interval_seconds: float = 1.0
    #: How often overdue sessions and leases are ended.
    overdue_interval_seconds: float = 5.0
    #: How often the clock is looked at and snapshots that retention does not keep are expired.
    retention_interval_seconds: float = 60.0
    #: Pause between two passes of collection.
    collection_interval_seconds: float = 60.0
    #: How often every pack is looked at, should one have been overlooked.
    collection_slow_interval_seconds: float = 86_400.0
    #: Pause between two looks at what is to be verified.
    verification_interval_seconds: float = 60.0
    #: Each live snapshot is verified again this often.
    verification_period_seconds: float = 30 * 86_400.0
    #: Share of frames that is read when a snapshot is verified again.
    verification_sample_percent: float = 1.0
    #: Bytes that one verification fetches per second at most; 0: as fast as it goes.
    verification_bytes_per_second_max: int = 0
    #: A verification that is stuck for so long loses its pins.
    verification_deadline_seconds: float = 600.0
    #: Verifications that were asked for and run at once.
    verification_thread_count: int = 2
    #: Time after which another collector may take over what one has begun to delete.
    tombstone_deadline_seconds: float = 60.0
    #: Pause between two times that the store is swept and mostly dead packs are rewritten.
    upkeep_interval_seconds: float = 21_600.0
    #: Time after which another sweeper or rewriter may take over from one that is not heard of.
    upkeep_deadline_seconds: float = 900.0
    #: Objects that the catalog does not know are left alone while they are younger: only a hint.
    sweep_young_seconds: float = 3600.0
    #: Packs are rewritten when so much of them is live at most, as a share of their bytes.
    rewrite_live_share_max: float = 0.5
    #: A pack that is not worth rewriting is not looked at again for so long.
    rewrite_again_seconds: float = 86_400.0
    #: How often the log is followed to copy new packs and manifests to the second store.
    replication_interval_seconds: float = 5.0
    #: Packs that are copied to the second store at once, each in memory whole.
    replication_thread_count: int = 2
    #: Small packs are merged when they are so old: most are given up or joined by others before.
    merge_young_seconds: float = 86_400.0
    #: How often ended sessions and old events are folded.
    fold_interval_seconds: float = 600.0
    #: Details of a rejected session or an expired snapshot are kept for so long.
    fold_session_grace_seconds: float = 86_400.0
    #: Events are kept in the catalog for so long; later only Kafka has them. Longer than whoever
    #: reads the log over REST may be away.
    fold_event_keep_seconds: float = 30 * 86_400.0
    #: How often a checkpoint is written, if anything has changed.
    checkpoint_interval_seconds: float = 30.0
    #: So many checkpoints are kept, the newest ones.
    checkpoint_count_max: int = 50
    #: After a fall-back, deletions that were under way may arrive for so long; longer than a
    #: request to the store takes.
    reconcile_settle_seconds: float = 90.0
    #: Time between two looks at what is missing in the store: only both together are believed.
    absence_apart_seconds: float = 60.0
