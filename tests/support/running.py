"""Everything as processes: the servers, our services, volumes on disk, and people who kill them."""

import hashlib
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.request import Request, urlopen
from uuid import UUID

import psycopg
import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import discard, passing_home, start_or_skip
from deploy.local.process import wait_until
from deploy.local.servers.s3 import S3Choice
from deploy.local.servers.server import LocalServer
from deploy.local.services import ServiceProcess
from libs.errors import NotFoundError
from libs.ids import uuid7
from libs.keys.nodes import NodeCredential
from libs.rest.client import RestClient

Answer = Mapping[str, Any]
T = TypeVar("T")

TENANT = "default"
#: Far more than anything here takes, and less than a session's deadline of 120 s.
SECONDS_MAX = 90.0


class RunningSite:
    """A cluster with all services, and what a client of it does.

    Args:
        cluster: running, of a home of its own.
        folder: where volumes are made.
    """

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        token = cluster.home.secret("token")
        home = cluster.home
        self.coordinator = RestClient(home.service_url("coordinator"), token, home.ca_file)
        credential = NodeCredential.parse(home.secret("agent-credential"))
        self.restore = RestClient(home.url, token, home.ca_file)
        self.agent = RestClient(home.service_url("agent"), credential.order_token, home.ca_file)

    # Volumes

    def volume(self, name: str, size_bytes: int, seed: int = 1) -> Path:
        """A protected volume of random bytes, which do not compress and are not stored yet."""
        path = self.folder / name
        path.write_bytes(random.Random(f"{name} {seed}").randbytes(size_bytes))
        self.protect(name, path)
        return path

    def protect(self, name: str, path: Path, *, again: bool = False) -> Answer:
        """Add a volume, as `backcast volume add` does; ``again``: the path is another's too."""
        body = {"name": name, "path": str(path), "again": again}
        added: Answer = self.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
        return added

    def matches(self, name: str, path: Path, point: str = "latest") -> bool:
        """Whether a recovery point, read back through the restore service, is what ``path`` has."""
        where = f"/v1/tenants/{TENANT}/volumes/{name}/points/{point}/bytes"
        token = self.cluster.home.secret("token")
        request = Request(
            self.cluster.home.url + where, headers={"Authorization": f"Bearer {token}"}
        )
        ca_file = self.cluster.home.ca_file
        tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        with urlopen(request, timeout=60, context=tls) as answer:
            return hashlib.sha256(answer.read()).digest() == sha256_of(path)

    # Snapshots

    def begin(self, name: str, session: UUID | None = None, *, full: bool = False) -> UUID:
        """Request a snapshot; returns its session."""
        session = session or uuid7()
        body = {"session": str(session), "name": name, "full": full}
        self.coordinator.post(f"/v1/tenants/{TENANT}/snapshots", body)
        return session

    def end(self, session: UUID, seconds_max: float = SECONDS_MAX) -> Answer:
        """How a session ended, as a client learns it, whoever is restarted meanwhile."""
        deadline = time.monotonic() + seconds_max
        while True:
            answer = self.session(session, wait_seconds=5)
            if answer and answer["state"] != "open":
                return answer
            assert time.monotonic() < deadline, f"session {session} is still {answer}"

    def take(self, name: str, *, full: bool = False) -> Answer:
        """A snapshot, from the request to its end."""
        return self.end(self.begin(name, full=full))

    def session(self, session: UUID, wait_seconds: float = 0) -> Answer:
        """A session as it is now; nothing while the coordinator does not answer."""
        where = f"/v1/tenants/{TENANT}/sessions/{session}"
        found: Answer = self.coordinator.get(where, {"wait_seconds": wait_seconds})
        return found

    def capture_state(self, capture: UUID) -> str | None:
        """How far a capture is, as the agent says; None if this process of it does not know it."""
        try:
            return str(self.agent.get(f"/v1/captures/{capture}")["state"])
        except NotFoundError:
            return None

    # Processes

    def server(self, name: str) -> LocalServer:
        """A server or service by its name."""
        every = [*self.cluster.servers(), *self.cluster.services()]
        return next(one for one in every if one.name == name)

    def service(self, name: str) -> ServiceProcess:
        """One of our services."""
        found = self.server(name)
        assert isinstance(found, ServiceProcess)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the kernel has taken it."""
        process = self.server(name).process
        pid = process.pid
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: process.pid is None, 10)

    def start(self, name: str) -> None:
        """Start it again where it was, and wait until it serves."""
        server = self.server(name)
        if name in ("kafka", "s3", "minio", "postgres"):
            server.prepare(lambda _: None)
        server.spawn()
        server.wait_ready()

    def heal(self) -> list[str]:
        """Start whatever does not run; returns what that was."""
        every = (*self.cluster.servers(), *self.cluster.services())
        dead = [server.name for server in every if server.process.pid is None]
        for name in dead:
            self.start(name)
        return dead

    def log(self, name: str) -> str:
        """What a process has printed."""
        return self.server(name).process.log_file.read_text(errors="replace")

    # The catalog

    def sql(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a statement that the superuser runs."""
        with psycopg.connect(self.cluster.postgres.dsn, autocommit=True) as db:
            return db.execute(query.encode(), arguments or None).fetchall()


class ShownNode(NamedTuple):
    """What a person reads of one node at a barrier; times are those of its clock."""

    node: str
    means: str
    unbroken: str
    held_at: datetime
    cut_at: datetime
    released_at: datetime


def shown_barrier(site: RunningSite, point: str) -> list[ShownNode]:
    """What `backcast snapshot show` prints of each node at the barrier of a recovery point."""
    shown = subprocess.run(
        [sys.executable, "-m", "services.cli", "snapshot", "show", point],
        env=os.environ | {"BACKCAST_HOME": str(site.cluster.home.folder)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    blocks = [
        dict(line.split(maxsplit=1) for line in block.splitlines()) for block in shown.split("\n\n")
    ]
    return [
        ShownNode(
            block["node"],
            block["means"],
            block["unbroken"],
            *(datetime.fromisoformat(block[f"{step}_at"]) for step in ("held", "cut", "released")),
        )
        for block in blocks
        if "held_at" in block
    ]


@contextmanager
def running_site(
    folders: pytest.TempPathFactory,
    s3: S3Choice = S3Choice.MINIO,
    *,
    agent_count: int = 1,
    tls: bool = False,
) -> Iterator[RunningSite]:
    """A site of its own, of which nothing but logs is left afterwards; arguments as for `up`."""
    cluster = LocalCluster(passing_home(folders.mktemp("site")))
    start_or_skip(lambda: cluster.up(print, s3=s3, agent_count=agent_count, tls=tls))
    try:
        yield RunningSite(cluster, folders.mktemp("volumes"))
    finally:
        discard(cluster)


def sha256_of(path: Path) -> bytes:
    """Digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def eventually(what: str, condition: Callable[[], T], seconds: float = SECONDS_MAX) -> T:
    """What ``condition`` returns once that is true; fails the test after the time."""
    found: list[T] = []

    def holds() -> bool:
        found[:] = [condition()]
        return bool(found[0])

    assert wait_until(holds, seconds), f"not within {seconds:g} s: {what}"
    return found[0]
