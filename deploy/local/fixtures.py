"""pytest fixtures: real servers once per run, an empty database and a new bucket name per test.

A server that cannot start fails the test where ``CI=true``, and skips it with the reason elsewhere.

``BACKCAST_TEST_SERVERS`` says where `servers` come from: ``local`` processes, ``containers``, or
``auto``, which is the default: containers if an engine answers and has the images that
``make images`` builds, else local processes. Tests that kill, pause or fill a server need its
process, so they ask for `local_servers`, or start servers of their own.
"""

import enum
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.containers import ContainerServers, can_be_had, container_servers
from deploy.local.home import BackcastHome
from deploy.local.lock import Tell
from deploy.local.servers.s3 import S3Choice
from deploy.local.servers.seaweedfs import SeaweedServer
from libs.errors import BackcastError, ConfigurationError

__all__ = ["bucket", "database", "local_servers", "seaweedfs", "servers"]


class ServerChoice(enum.StrEnum):
    """Where `servers` come from."""

    AUTO = "auto"
    LOCAL = "local"
    CONTAINERS = "containers"


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster | ContainerServers]:
    """PostgreSQL, Kafka and MinIO: ``postgres.dsn``, ``kafka.bootstrap``, ``s3.endpoint``."""
    choice = server_choice(os.environ.get("BACKCAST_TEST_SERVERS", ServerChoice.AUTO))
    if choice is ServerChoice.LOCAL or (choice is ServerChoice.AUTO and not can_be_had()):
        yield request.getfixturevalue("local_servers")
        return
    with ExitStack() as stack:
        home = BackcastHome(tmp_path_factory.mktemp("containers"), lasting=False)
        found: list[ContainerServers] = []
        start_or_skip(lambda: found.append(stack.enter_context(container_servers(home))))
        yield found[0]


@pytest.fixture(scope="session")
def local_servers(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[LocalCluster]:
    """The same as local processes, for whoever needs these; services may be added."""
    cluster = LocalCluster(passing_home(tmp_path_factory.mktemp("servers")))
    tell = _unhidden(pytestconfig)
    start_or_skip(lambda: cluster.up(tell, s3=S3Choice.MINIO, servers_only=True))
    yield cluster
    discard(cluster, tell)


@pytest.fixture(scope="session")
def seaweedfs(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[SeaweedServer]:
    """SeaweedFS: ``endpoint``, ``access_key``, ``secret_key``."""
    server = SeaweedServer(passing_home(tmp_path_factory.mktemp("seaweedfs")))

    def start() -> None:
        server.prepare(_unhidden(pytestconfig))
        server.spawn()
        server.wait_ready()

    try:
        start_or_skip(start)
        yield server
    finally:
        server.process.stop(signal.SIGKILL)  # a clean stop takes 15 s, for data that nobody needs
        server.stop()
        shutil.rmtree(server.home.folder / "data")


@pytest.fixture
def database(servers: LocalCluster) -> Iterator[str]:
    """The connection string of the superuser for an empty database, dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"'.encode())
    yield servers.postgres.dsn.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def bucket() -> str:
    """A bucket name that nobody used; the bucket is not made."""
    return f"test-{uuid.uuid4().hex}"


def passing_home(folder: Path) -> BackcastHome:
    """A home of one run of tests: its processes end with the run, and nobody needs its data."""
    return BackcastHome(folder, tied=True, lasting=False)


def server_choice(text: str) -> ServerChoice:
    """The choice that a variable names.

    Raises:
        ConfigurationError: it names none.
    """
    try:
        return ServerChoice(text)
    except ValueError:
        raise ConfigurationError(
            f"BACKCAST_TEST_SERVERS: expected {', '.join(ServerChoice)}, got {text!r}"
        ) from None


def start_or_skip(start: Callable[[], None]) -> None:
    """Call ``start``; if a server cannot be had, fail in continuous integration, else skip."""
    try:
        start()
    except BackcastError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def discard(cluster: LocalCluster, tell: Tell = print) -> None:
    """End a cluster whose data nobody needs: at once, where a clean stop takes seconds for each.

    Logs stay, as long as pytest keeps them.
    """
    for one in [*cluster.services(), *cluster.servers()]:
        one.process.stop(signal.SIGKILL)
    cluster.down(tell)
    shutil.rmtree(cluster.home.folder / "data")


def _unhidden(config: pytest.Config) -> Tell:
    """Lines to the terminal although pytest captures output: a build takes minutes."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:  # a process of pytest-xdist has no terminal
        return lambda _: None

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)

    return tell
