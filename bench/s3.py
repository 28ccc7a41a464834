"""A fresh S3 server with one bucket, so that no pass inherits what another one stored."""

import sys
from pathlib import Path

from minio import Minio

from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice, S3Server, choose_s3, s3_server


class FreshS3:
    """An empty S3 server with the bucket `bench`, until `stop`; it dies with this process.

    Args:
        folder: where it keeps its data; the caller deletes it after `stop`.
        kind: which server, `minio` or `seaweedfs`.
    """

    bucket = "bench"

    def __init__(self, folder: Path, kind: str) -> None:
        self._home = BackcastHome(folder, tied=True)
        self._kind = S3Choice(kind)
        self._server: S3Server = s3_server(self._home)

    def start(self) -> None:
        """Starts the server and makes the bucket."""
        self._server = choose_s3(self._home, self._kind, _tell)
        self._server.spawn()
        self._server.wait_ready()
        _client(self.endpoint, self.access_key, self.secret_key).make_bucket(self.bucket)

    def stop(self) -> None:
        """Stops the server if it runs."""
        self._server.stop()

    @property
    def endpoint(self) -> str:
        """The URL of the S3 interface."""
        return self._server.endpoint

    @property
    def access_key(self) -> str:
        """The access key of its only user."""
        return self._server.access_key

    @property
    def secret_key(self) -> str:
        """The secret key of its only user."""
        return self._server.secret_key

    def pids(self) -> dict[str, int]:
        """The server's process id, by the server's name."""
        pid = self._server.process.pid
        return {self._server.name: pid} if pid else {}

    def objects(self) -> dict[str, int]:
        """Sizes in bytes of the stored objects, by name."""
        return bucket_objects(self.endpoint, self.access_key, self.secret_key, self.bucket)


def bucket_objects(endpoint: str, access_key: str, secret_key: str, bucket: str) -> dict[str, int]:
    """Sizes in bytes of a bucket's objects, by name."""
    listed = _client(endpoint, access_key, secret_key).list_objects(bucket, recursive=True)
    return {str(entry.object_name): int(entry.size or 0) for entry in listed}


def _client(endpoint: str, access_key: str, secret_key: str) -> Minio:
    scheme, _, address = endpoint.partition("://")
    return Minio(address, access_key, secret_key, secure=scheme == "https", region="us-east-1")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
