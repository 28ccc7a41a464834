"""Which S3 server a home has: chosen once, then remembered, because its data are there."""

import enum

from deploy.local.home import BackcastHome
from deploy.local.lock import Tell
from deploy.local.servers import minio_build
from deploy.local.servers.minio import MinioServer
from deploy.local.servers.seaweedfs import SeaweedServer
from libs.errors import UnavailableError

S3Server = MinioServer | SeaweedServer


class S3Choice(enum.StrEnum):
    """What a person may ask for."""

    #: MinIO if it is built or can be, else SeaweedFS.
    AUTO = "auto"
    #: MinIO if it is built already, else SeaweedFS: nobody waits for a build.
    SOONEST = "soonest"
    MINIO = "minio"
    SEAWEEDFS = "seaweedfs"


def choose_s3(home: BackcastHome, choice: S3Choice, tell: Tell) -> S3Server:
    """The S3 server of ``home``, ready to be started; ``choice`` decides if it has none yet.

    Raises:
        ConflictError: the home holds the data of another server than the one asked for.
        BackcastError: the server asked for cannot be got; see `LocalServer.prepare`.
    """
    if choice in (S3Choice.MINIO, S3Choice.SEAWEEDFS):
        home.remember_s3_server(choice)
    if home.s3_server is None:
        home.remember_s3_server(_first_choice(choice, tell))
    server = s3_server(home)
    server.prepare(tell)
    return server


def s3_server(home: BackcastHome) -> S3Server:
    """The S3 server that ``home`` remembers; MinIO, not chosen for good, if it remembers none."""
    return SeaweedServer(home) if home.s3_server == S3Choice.SEAWEEDFS else MinioServer(home)


def _first_choice(choice: S3Choice, tell: Tell) -> S3Choice:
    if minio_build.is_cached():
        return S3Choice.MINIO
    if choice is S3Choice.AUTO and minio_build.can_be_built():
        try:
            minio_build.minio_program(tell)
        except UnavailableError as error:  # no network, no space: the wheel needs neither
            tell(
                f"{error}\nusing SeaweedFS instead; --s3 minio with a new BACKCAST_HOME tries again"
            )
        else:
            return S3Choice.MINIO
    return S3Choice.SEAWEEDFS
