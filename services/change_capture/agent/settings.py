"""Settings of the agent: BACKCAST_AGENT_*."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from libs.runtime.groups import KafkaSettings, ServiceSettings
from libs.runtime.settings import Secret, secret_files
from services.change_capture.drivers.local.roots import Roots, parse_roots
from services.change_capture.filter.places import CONTROL_FOLDER
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
    #: URL of the coordinator's listener for agents, where the agent announces itself.
    coordinator_url: str
    #: Certificate authorities in PEM that sign the coordinator; the system's if not set.
    ca_file: Path | None = None
    #: File with the credential of this node. If not set, it is the one in the state folder.
    credential: Secret | None = None
    #: File with an invitation, which is exchanged for a credential if there is none.
    invitation: Secret | None = None
    #: What tenants may protect on this node: TENANT=PATH, separated by commas. A path is a folder
    #: with all that lies in it, a file, or a block device; mount points to freeze count too. The
    #: tenant * is every tenant. The agent opens nothing else. A path cannot have a comma.
    roots: tuple[str, ...]
    #: Longest request body that is read. Hints take 8 MiB of one at most.
    request_body_size_bytes_max: int = HINTS_BODY_SIZE_BYTES_MAX
    #: Folder of the credential that an invitation was exchanged for, and of the fingerprint files;
    #: without those of the base a capture compares everything.
    state_folder: Path
    #: Folder of the control sockets of this node's volume filters.
    filters_folder: Path = CONTROL_FOLDER
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

    def __post_init__(self) -> None:
        """Check the roots as well, and who could read along.

        Raises:
            ValueError: a root is not TENANT=PATH, or its path is not absolute; or an address beyond
                loopback without TLS.
        """
        super().__post_init__()
        self._check_listen("SPAN_LISTEN", self.span_listen)
        self._check_url("COORDINATOR_URL", self.coordinator_url)
        parse_roots(self.roots)

    def opened_roots(self) -> Roots:
        """What the agent opens: its roots without what is its own.

        Raises:
            ConfigurationError: a root lies in what is the agent's own, or the kernel is too old.
        """
        own = [self.state_folder]
        for file in (*secret_files(self), self.tls_key_file):
            if file is not None:
                own += [file, file.parent, file.resolve().parent]
        return Roots(parse_roots(self.roots), own)
