"""Settings of the volume filter: BACKCAST_FILTER_*."""

from dataclasses import dataclass
from pathlib import Path

from libs.runtime.groups import ServiceSettings
from services.change_capture.filter.places import CONTROL_FOLDER


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What a volume filter needs to know."""

    #: Regular file or block device that is served; nobody else may write it on this node.
    volume: Path
    #: Where NBD is spoken: unix:PATH, or address and port.
    nbd_listen: str
    #: Group whose members may use the Unix socket of NBD, beside the filter's own user.
    nbd_group: str | None = None
    #: Name of the export. A client that names none gets it too.
    export: str = "volume"
    #: Read and write past this node's page cache, as a disk that other nodes write needs it.
    direct: bool = False
    #: Address and port where the filters of other nodes that write the volume ask this one; port 0
    #: takes a free one. Without it this filter leads no cut of a shared disk. No byte of the volume
    #: is sent there, and each message is authenticated.
    peer_listen: str | None = None
    #: host:port under which those filters reach this one; that of the listener if not set.
    peer_advertised: str | None = None
    #: Clients at once; further ones are turned away.
    connection_count_max: int = 32
    #: Folder of this filter alone: which chunks were written since which cut.
    state_folder: Path
    #: Folder of the control sockets of this node's filters, where the agent finds them.
    control_folder: Path = CONTROL_FOLDER
    #: Folder of the scratch file, which has what was overwritten since a cut; the state folder if
    #: not set.
    scratch_folder: Path | None = None
    #: Room of the scratch file. If it is not enough, the snapshot fails, never a client's write.
    scratch_size_bytes_max: int = 16 << 30
    #: Longest wait of one write for the scratch file; then the snapshot fails.
    scratch_wait_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check the listener of NBD as well.

        Raises:
            ValueError: an address beyond loopback without TLS.
        """
        super().__post_init__()
        if not self.nbd_listen.startswith("unix:"):
            self._check_listen("NBD_LISTEN", self.nbd_listen)
