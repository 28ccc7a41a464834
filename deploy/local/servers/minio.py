"""MinIO: the reference S3 server of tests and benchmarks."""

from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.lock import Tell
from deploy.local.servers.http_probe import status_of
from deploy.local.servers.minio_build import minio_program
from deploy.local.servers.server import LocalServer
from libs.errors import InvariantViolation


class MinioServer(LocalServer):
    """MinIO on one folder, with its web console."""

    s3_server: ClassVar[str] = "minio"

    def __init__(self, home: BackcastHome) -> None:
        super().__init__(home, "minio", ("s3", "s3-console"))
        self._program: Path | None = None

    @property
    def endpoint(self) -> str:
        """The URL of the S3 interface."""
        return f"http://{self.address}"

    @property
    def console_url(self) -> str:
        """The URL of the web console; its user is the access key."""
        return f"http://{LOOPBACK}:{self.home.port('s3-console')}"

    @property
    def access_key(self) -> str:
        """The name of the root user."""
        return self.home.secret("s3-access-key")

    @property
    def secret_key(self) -> str:
        """The root user's secret."""
        return self.home.secret("s3-secret-key")

    def prepare(self, tell: Tell) -> None:
        """Build MinIO unless it is cached."""
        self._program = minio_program(tell)

    def spawn(self) -> None:
        """Start MinIO."""
        if self._program is None:
            raise InvariantViolation("MinIO is started before prepare() was called")
        folder = self.home.data(self.name)
        argv = self.server_command(self._program, folder)
        self.process.start(argv, self.server_environ(), folder=folder)

    def server_command(self, program: Path, folder: Path) -> list[str]:
        """What runs MinIO on a folder of its own."""
        console = self.console_url.removeprefix("http://")
        return [
            *(str(program), "server", "--address", self.address, "--console-address", console),
            # Its own folder of certificates: it would read the user's and then speak TLS.
            *("--certs-dir", str(folder / "certs"), str(folder / "drive")),
        ]

    def server_environ(self) -> dict[str, str]:
        """Its environment, with the root user's secret."""
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_UPDATE": "off",
        }

    def is_ready(self) -> bool:
        """Whether it serves buckets; its own health check says so a moment too early."""
        # Anonymous, so refused: but only once the server knows its users.
        return status_of(f"{self.endpoint}/no-such-bucket") == HTTPStatus.FORBIDDEN
