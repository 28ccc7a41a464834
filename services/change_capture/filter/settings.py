"""Settings of the volume filter: BACKCAST_FILTER_*."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from libs.runtime.groups import ServiceSettings
from libs.runtime.tls import ServerTls
from services.change_capture.filter.places import CONTROL_FOLDER


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What a volume filter needs to know."""

    #: Regular file or block device that is served; nobody else may write it on this node.
    volume: Path
    #: Where NBD is spoken: unix:PATH, without TLS; or address and port, with TLS if the service has
    #: a certificate.
    nbd_listen: str
    #: Authorities in PEM whose certificates NBD clients must show. Whoever has one may write the
    #: volume, so these authorities should issue for nobody else. For an address and port.
    nbd_client_ca_file: Path | None = None
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
    #: Take over from a filter of this volume that runs already, with its clients; if there is none,
    #: start as ever. For upgrades. Not with DIRECT: such a filter shares its volume and its cuts
    #: with those of other nodes.
    take_over: bool = False
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
            ValueError: an address beyond loopback without TLS, or where anybody could write;
                authorities of clients where no client shows a certificate; or a take-over of a disk
                that other nodes write too.
        """
        super().__post_init__()
        if self.take_over and self.direct:
            raise ValueError(
                "TAKE_OVER and DIRECT: a filter past the page cache is not taken over, as filters "
                "of other nodes share the cuts of its volume; stop it and start the new one"
            )
        if self.nbd_client_ca_file is not None:
            if self._is_local:
                raise ValueError(
                    f"NBD_CLIENT_CA_FILE: NBD_LISTEN {self.nbd_listen!r} is a Unix socket, where "
                    f"no TLS is spoken; expected an address and port, or NBD_GROUP to say who may "
                    f"connect"
                )
            if self.tls_certificate_file is None:
                raise ValueError("NBD_CLIENT_CA_FILE needs TLS_CERTIFICATE_FILE and TLS_KEY_FILE")
        if self._is_local:
            return
        self._check_listen("NBD_LISTEN", self.nbd_listen)
        host = self.nbd_listen.rpartition(":")[0]
        if self.nbd_client_ca_file is None and not self.may_speak_plainly(host):
            raise ValueError(
                f"NBD_LISTEN {self.nbd_listen!r} is beyond loopback, and anybody who reaches it "
                f"could write the volume; expected NBD_CLIENT_CA_FILE, or PLAINTEXT=anywhere where "
                f"the network itself keeps others out"
            )

    def nbd_tls(self) -> ServerTls | None:
        """What NBD clients are shown; None: they are spoken to without TLS.

        Raises:
            ConfigurationError: the files cannot be used.
        """
        if self._is_local or self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerTls(
            self.tls_certificate_file,
            self.tls_key_file,
            ssl.TLSVersion.TLSv1_3,
            self.nbd_client_ca_file,
        )

    @property
    def _is_local(self) -> bool:
        return self.nbd_listen.startswith("unix:")
