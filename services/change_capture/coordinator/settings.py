"""Settings of the coordinator: BACKCAST_COORDINATOR_*."""

from dataclasses import dataclass
from pathlib import Path

from libs.runtime.groups import PostgresSettings, S3Settings, ServiceSettings
from libs.runtime.settings import Secret
from services.change_capture.rpc import HINTS_BODY_SIZE_BYTES_MAX


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the coordinator needs to know."""

    postgres: PostgresSettings
    s3: S3Settings
    #: File with the key-encryption key: 64 hexadecimal characters.
    kek: Secret
    #: File with the key-encryption key that was used before, while it is changed: opens, and wraps
    #: nothing.
    previous_kek: Secret | None = None
    #: File with the tokens that the REST endpoints accept.
    tokens: Secret
    #: File with the token for the agents' RPC.
    agent_token: Secret
    #: Certificate authorities in PEM that sign agents; the system's if not set.
    ca_file: Path | None = None
    #: Name that the certificates of all agents have; the host of each one's URL if not set.
    agent_tls_name: str | None = None
    #: Longest request body that is read. Hints take 8 MiB of one at most.
    request_body_size_bytes_max: int = HINTS_BODY_SIZE_BYTES_MAX
    #: A session that makes no progress for so long is rejected.
    session_deadline_seconds: float = 120.0
    #: A node that holds writes at a barrier lets them go on by itself after so long.
    hold_seconds_max: float = 10.0
    #: A barrier that takes longer has failed, or was left by a coordinator that is gone.
    barrier_seconds_max: float = 30.0
    #: How often open sessions and their agents are looked after.
    watch_interval_seconds: float = 2.0
