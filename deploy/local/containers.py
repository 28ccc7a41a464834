"""PostgreSQL, Kafka and MinIO in containers, for tests that ask for nothing but their addresses.

A container is on the host's network, so that its server listens on loopback, with the port and the
credentials of a home, exactly as a local server does. Its data are in the container and go with it.
Nothing is pulled: images come from `deploy.images`.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.images.build import DATA, IMAGES, POSTGRES_PROGRAMS, PROGRAMS, USER, tags_of
from deploy.local.home import BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers import kafka, postgres
from deploy.local.servers.kafka import KafkaServer
from deploy.local.servers.minio import MinioServer
from deploy.local.servers.postgres import PostgresServer
from deploy.local.servers.server import LocalServer
from libs.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    import docker  # type: ignore[import-untyped]  # it has no types
    from testcontainers.core.container import DockerContainer

_SOCKET = Path("/var/run/docker.sock")
#: Containers of ours say whose they are: the process, and when it was started.
OWNER = "backcast.test.owner"
_SETTINGS = DATA / "server.properties"
_ARGUMENTS = DATA / "format.args"
_PASSWORD = DATA / "password"


@dataclass(frozen=True, slots=True)
class ContainerServers:
    """As much of a `LocalCluster` as its servers are: addresses and credentials, no processes."""

    home: BackcastHome
    postgres: PostgresServer
    kafka: KafkaServer
    s3: MinioServer


def can_be_had() -> bool:
    """Whether an engine answers and has all images. Costs nothing where there is no engine."""
    if "DOCKER_HOST" not in os.environ and not _is_socket(_SOCKET):
        return False
    try:
        with engine() as client:
            return tags_of(client) >= set(IMAGES.values())
    except (ConfigurationError, UnavailableError):
        return False


@contextmanager
def engine() -> Iterator["docker.DockerClient"]:
    """The container engine that DOCKER_HOST names, or the machine's own.

    Raises:
        ConfigurationError: the packages that speak to it are not installed.
        UnavailableError: no engine answers, or it fails at what is asked of it here.
    """
    try:
        import docker  # noqa: PLC0415 -- takes half a second, and most have no engine
    except ImportError as err:
        raise ConfigurationError(f"{err}; run: uv sync --group dev") from err
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as err:
        raise UnavailableError(f"no container engine answers: {err}") from err
    with closing(client):
        try:
            yield client
        except docker.errors.DockerException as err:
            raise UnavailableError(f"the container engine failed: {err}") from err


@contextmanager
def container_servers(home: BackcastHome) -> Iterator[ContainerServers]:
    """The three servers, ready; they and their data are gone afterwards.

    Raises:
        ConfigurationError: the images are missing.
        UnavailableError: no engine answers, or a server does not start.
    """
    with engine() as client, ExitStack() as stack:
        if missing := set(IMAGES.values()) - tags_of(client):
            raise ConfigurationError(
                f"images are missing: {', '.join(sorted(missing))}; build them: make images"
            )
        remove_abandoned(client)
        servers = ContainerServers(home, PostgresServer(home), KafkaServer(home), MinioServer(home))
        started = [(servers.kafka, _kafka(servers.kafka)), (servers.s3, _minio(servers.s3))]
        started.append((servers.postgres, _postgres(servers.postgres)))
        for _, container in started:
            stack.callback(container.stop)
            container.start()
        for server, container in started:
            _wait_ready(server, container)
        yield servers


def remove_abandoned(client: "docker.DockerClient") -> None:
    """Remove what test processes left that were killed.

    Any number of test processes may do so at the same time.
    """
    import docker  # noqa: PLC0415 -- as in `engine`

    # Others remove containers while this lists and inspects them.
    found = client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
    for container in found:
        if _owner(int(container.labels[OWNER].split()[0])) == container.labels[OWNER]:
            continue
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as err:
            # It is gone, or another process is just removing it.
            if err.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise


def _wait_ready(server: LocalServer, container: "DockerContainer") -> None:
    def settled() -> bool:
        container.reload()
        return server.is_ready() or container.status == "exited"

    wait_until(settled, server.ready_seconds)
    if not server.is_ready():
        said = b"\n".join(container.get_logs()).decode(errors="replace")
        raise UnavailableError(
            f"{server.name} in a container ended, or needs longer than "
            f"{server.ready_seconds:g} s; "
            f"the end of what it said:\n{said[-2000:]}"
        )


def _container(name: str, *commands: str) -> "DockerContainer":
    """A container that runs shell commands one after another; the last one is the server."""
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 -- as above
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 -- as above

    testcontainers_config.ryuk_disabled = True  # it would be pulled; see `remove_abandoned`
    *before, last = commands
    return (
        DockerContainer(IMAGES[name])
        .with_command(["sh", "-ec", "\n".join([*before, f"exec {last}"])])
        .with_kwargs(
            network_mode="host",
            user=USER,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            labels={OWNER: _owner(os.getpid()) or ""},
        )
    )


def _kafka(server: KafkaServer) -> "DockerContainer":
    log = DATA / "log"
    container = _container(
        "kafka",
        shlex.join(kafka.format_command(_ARGUMENTS)),
        shlex.join(kafka.broker_command(PROGRAMS, _SETTINGS)),
    )
    arguments = server.format_arguments(PROGRAMS, _SETTINGS)
    container.with_copy_into_container(arguments.encode(), str(_ARGUMENTS))
    return container.with_copy_into_container(server.settings(log).encode(), str(_SETTINGS))


def _minio(server: MinioServer) -> "DockerContainer":
    command = shlex.join(server.server_command(PROGRAMS / "minio", DATA))
    return _container("minio", command).with_envs(**server.server_environ())


def _postgres(server: PostgresServer) -> "DockerContainer":
    programs, cluster = POSTGRES_PROGRAMS, DATA / "cluster"
    single = shlex.join(postgres.single_command(programs, cluster))
    return _container(
        "postgres",
        shlex.join(postgres.initdb_command(programs, cluster, _PASSWORD)),
        f"printf %s {shlex.quote(postgres.CREATE_DATABASE)} | {single}",
        shlex.join(server.server_command(programs, cluster)),
    ).with_copy_into_container(server.home.secret("postgres-password").encode(), str(_PASSWORD))


def _owner(pid: int) -> str | None:
    """A process as a label: its id, and when it was started; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{pid} {fields[19]}"


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
