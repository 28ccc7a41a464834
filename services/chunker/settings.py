"""Settings of the chunker: BACKCAST_CHUNKER_*."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

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
    """What a chunker needs to know."""

    postgres: PostgresSettings
    kafka: KafkaSettings
    s3: S3Settings
    second_s3: SecondS3Settings = NO_SECOND_STORE
    #: File with the key-encryption key: 64 hexadecimal characters.
    kek: Secret
    #: File with the key-encryption key that was used before, while it is changed: opens, and wraps
    #: nothing.
    previous_kek: Secret | None = None
    #: Certificate authorities in PEM that sign agents. If it is set, every agent must speak TLS. If
    #: it is not, those beyond loopback must, and the system's authorities are trusted.
    ca_file: Path | None = None
    #: Name that the certificates of all agents have; the name of each one's node if not set.
    agent_tls_name: str | None = None
    #: Name of this process, for people who look at attempts.
    name: str = field(default_factory=lambda: socket.gethostname().lower())
    #: Threads that take, verify, compress and store spans. One more than cores hides the waiting.
    lane_count: int = 3
    #: Packs under construction or upload at once, 34 MiB each: the bound of the chunker's memory.
    pack_buffer_count_max: int = 5
    #: Spans read from Kafka and waiting for a lane; more are read when these are done.
    span_queue_length_max: int = 64
    #: A session that makes no progress for so long is rejected.
    session_deadline_seconds: float = 120.0
    #: How often progress is recorded.
    renew_interval_seconds: float = 1.0
    #: One of so many chunks that are already stored is asked for and checked all the same: a client
    #: that claims to have what it has only the hash of is found out.
    known_chunk_sample: int = 128
