"""Settings of the coordinator: BACKCAST_COORDINATOR_*."""

from dataclasses import dataclass
from pathlib import Path

from libs.runtime.groups import (
    NO_ISSUER,
    OidcSettings,
    PostgresSettings,
    S3Settings,
    ServiceSettings,
)
from libs.runtime.settings import Secret
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
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
    oidc: OidcSettings = NO_ISSUER
    #: File with the key above the credentials of nodes: 64 random hexadecimal characters.
    node_key: Secret
    #: Address and port of the listener for agents; port 0 takes a free one.
    nodes_listen: str = "127.0.0.1:0"
    #: Networks in which agents may be, such as 10.2.0.0/16; if not set, all but loopback,
    #: link-local and multicast addresses and those of a cloud's metadata.
    agent_networks: tuple[str, ...] = ()
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

    def __post_init__(self) -> None:
        """Check the networks as well.

        Raises:
            ValueError: one of them is no network.
        """
        super().__post_init__()
        AgentNetworks(self.agent_networks)
