"""Settings of the restore service: BACKCAST_RESTORE_*."""

from dataclasses import dataclass

from libs.runtime.groups import (
    NO_ISSUER,
    NO_SECOND_STORE,
    OidcSettings,
    PostgresSettings,
    S3Settings,
    SecondS3Settings,
    ServiceSettings,
)
from libs.runtime.settings import Secret


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the restore service needs to know."""

    postgres: PostgresSettings
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
    #: URL at which clients reach the coordinator; handed to whoever asks.
    coordinator_url: str
    #: URL at which clients reach the catalog service; handed to whoever asks.
    catalog_url: str
    #: URL at which clients reach the S3 server with the presigned reads of a restore plan; the
    #: service's own endpoint if not set.
    client_s3_endpoint: str | None = None
    #: The same of the second store.
    client_second_s3_endpoint: str | None = None
    #: How long presigned reads of a plan hold. A restore that is slower asks for new ones.
    plan_expiry_seconds: int = 300
    #: A restore or a download that is not heard of for so long loses its pins.
    lease_deadline_seconds: float = 600.0
    #: Frames of map nodes kept in memory, up to 1 MiB each; one covers 2 GiB of a full volume.
    node_frame_count_max: int = 32
    #: Frames of chunks kept in memory, up to 1 MiB each.
    chunk_frame_count_max: int = 32
    #: Threads that read ahead for downloads.
    read_thread_count: int = 4
