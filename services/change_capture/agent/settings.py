"""Settings of the agent: BACKCAST_AGENT_*."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from libs.runtime.groups import KafkaSettings, ServiceSettings
from libs.runtime.settings import Secret
from services.change_capture.rpc import HINTS_BODY_SIZE_BYTES_MAX


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What an agent needs to know."""

    kafka: KafkaSettings
    #: Name of this node; the host's if not set.
    node: str = field(default_factory=lambda: socket.gethostname().lower())
    #: URL under which the coordinator reaches this agent's RPC; that of the listener if not set.
    advertised_url: str | None = None
    #: Address and port of the span server that chunkers dial; port 0 takes a free one.
    span_listen: str = "127.0.0.1:0"
    #: host:port under which chunkers reach the span server; that of the listener if not set.
    span_advertised: str | None = None
    #: URL of the coordinator, where the agent announces itself.
    coordinator_url: str
    #: File with the token for the coordinator.
    coordinator_token: Secret
    #: File with the tokens that this agent's RPC accepts.
    tokens: Secret
    #: Longest request body that is read. Hints take 8 MiB of one at most.
    request_body_size_bytes_max: int = HINTS_BODY_SIZE_BYTES_MAX
    #: Folder of the fingerprint files; without those of the base a capture compares everything.
    state_folder: Path
    #: Threads that read and hash; more than cores gains nothing.
    scan_thread_count: int = 2
    #: Spans of 32 MiB that wait for their chunker, over all captures: bounds the agent's memory.
    window_span_count_max: int = 6
    #: How often the agent tells the coordinator where it is.
    announce_interval_seconds: float = 15.0
    #: How often the agent tells the coordinator how far its captures are.
    report_interval_seconds: float = 2.0
    #: A capture that nobody asked for in so long is let go; longer than a session's deadline.
    outcome_timeout_seconds: float = 300.0
