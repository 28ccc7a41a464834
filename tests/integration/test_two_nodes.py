"""A group whose volumes are on two nodes, by the real services: two agents are two processes.

Each agent may be killed at a step of the barrier; the other one lets its file system go.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from libs.rest.client import RestClient
from tests.support.file_systems import mounted, needs_mounts, run
from tests.support.running import TENANT, Answer, RunningSite, eventually

MIB = 1 << 20
#: A hold ends by itself after 10 s (`BACKCAST_COORDINATOR_HOLD_SECONDS_MAX`); who was released
#: writes long before.
RELEASED_SECONDS = 5.0
#: Runs an agent that is killed when it is told to do something, before it does it.
KILL_AT = """
import importlib, os, runpy, signal, sys

place, name = sys.argv.pop(2).rsplit(".", 1)
module, _, class_ = place.rpartition(".")

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(getattr(importlib.import_module(module), class_), name, die)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
CUT = "services.change_capture.barrier.barrier.Barriers.cut"
RELEASE = "services.change_capture.barrier.barrier.Barriers.release"
CAPTURE = "services.change_capture.agent.captures.AgentCaptures.begin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    cluster = LocalCluster(BackcastHome(tmp_path_factory.mktemp("nodes"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO, agent_count=2))
    try:
        yield RunningSite(cluster, tmp_path_factory.mktemp("volumes"))
    finally:
        cluster.down(print)
        shutil.rmtree(cluster.home.folder / "data")


class Volume(NamedTuple):
    """A volume on one of the nodes."""

    name: str
    path: Path
    #: Where its file system is mounted, if it is to be frozen.
    mount: Path | None = None


def nodes(site: RunningSite) -> list[str]:
    """Both nodes, the one of the first agent first."""
    rows = site.sql("SELECT name FROM node ORDER BY length(name)")
    assert len(rows) == 2
    return [row[0] for row in rows]


def protect(site: RunningSite, group: str, volumes: list[Volume]) -> None:
    """A group; each of its volumes is on another node."""
    for node, volume in zip(nodes(site), volumes, strict=True):
        body = {"name": volume.name, "group": group, "path": str(volume.path), "node": node}
        freeze = {"freeze": str(volume.mount)} if volume.mount else {}
        site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body | freeze)


def barrier_of(site: RunningSite, session: str) -> list[Answer]:
    """What each node did at a snapshot's barrier, as `backcast snapshot show` says."""
    restore = RestClient(site.cluster.home.url, site.cluster.home.secret("token"))
    found: list[Answer] = restore.get(f"/v1/tenants/{TENANT}/snapshots/{session}")["barrier"]
    return found


def assert_good(site: RunningSite, group: str, volumes: list[Volume]) -> None:
    """A snapshot is taken: all nodes held before any of them was released, and it is readable."""
    taken = site.take(group)
    assert taken["state"] == "sealed", taken
    steps = barrier_of(site, taken["session"])
    assert sorted(step["node"] for step in steps) == sorted(nodes(site))
    assert all(step["unbroken"] for step in steps)
    assert max(step["held_at"] for step in steps) <= min(step["cut_at"] for step in steps)
    assert max(step["cut_at"] for step in steps) <= min(step["released_at"] for step in steps)
    for volume in volumes:
        if volume.mount is None:
            assert site.matches(volume.name, volume.path)
        else:  # its image goes on changing
            assert written_in(site, volume) == (volume.mount / "written").read_bytes()


def written_in(site: RunningSite, volume: Volume) -> bytes:
    """What `writes` has written, in the file system of the volume's newest snapshot."""
    where = f"/v1/tenants/{TENANT}/volumes/{volume.name}/points/latest/bytes"
    token = site.cluster.home.secret("token")
    request = Request(site.cluster.home.url + where, headers={"Authorization": f"Bearer {token}"})
    image, mount = (volume.path.with_suffix(ending) for ending in (".restored", ".restored-mount"))
    with urlopen(request, timeout=60) as answer:
        image.write_bytes(answer.read())
    mount.mkdir()
    run("mount", "-o", "loop", str(image), str(mount))  # its journal may need it
    try:
        return (mount / "written").read_bytes()
    finally:
        run("umount", str(mount))


def test_volumes_on_two_nodes_have_one_cut(site: RunningSite, tmp_path: Path) -> None:
    volumes = [Volume(f"plain-{number}", tmp_path / f"plain-{number}") for number in range(2)]
    for volume in volumes:
        volume.path.write_bytes(os.urandom(2 * MIB))
    protect(site, "plain", volumes)
    for volume in volumes:
        assert_good(site, "plain", volumes)
        with volume.path.open("r+b") as file:
            file.write(os.urandom(MIB))
    assert_good(site, "plain", volumes)


@pytest.fixture
def frozen(site: RunningSite, tmp_path: Path) -> Iterator[list[Volume]]:
    """A group of two volumes with file systems that are frozen while they are cut."""
    group, volumes = tmp_path.name, []
    with contextlib.ExitStack() as mounts:
        for number in range(2):
            image = tmp_path / f"{group}-{number}"
            mount = mounts.enter_context(mounted(image, tmp_path / f"mount-{number}", size_mib=16))
            volumes.append(Volume(image.name, image, mount))
        protect(site, group, volumes)
        yield volumes


def writes(volume: Volume) -> threading.Thread:
    """Writes to a volume's file system; alive as long as that is frozen."""

    def write() -> None:
        assert volume.mount is not None
        with (volume.mount / "written").open("ab") as file:
            file.write(b"one more")
            file.flush()
            os.fsync(file.fileno())

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def second_agent_killed_at(site: RunningSite, step: str) -> Iterator[None]:
    """The second agent is killed at a step; afterwards it runs again, and stays alive."""
    agent = site.service("agent-2")
    agent.process.stop()
    agent.argv = [sys.executable, "-c", KILL_AT, agent.argv[2], step]
    agent.spawn()
    agent.wait_ready()
    try:
        yield
    finally:
        agent.process.stop()
        site.start("agent-2")


@needs_mounts
@pytest.mark.parametrize("step", [CUT, RELEASE])
def test_an_agent_is_killed_while_both_nodes_hold(
    site: RunningSite, frozen: list[Volume], tmp_path: Path, step: str
) -> None:
    """Scenario 18: what it held is let go at once, and the other node is released."""
    group = tmp_path.name
    with second_agent_killed_at(site, step):
        agent = site.server("agent-2").process
        session = site.begin(group)
        eventually("the agent is killed", lambda: agent.pid is None)
        first, second = (writes(volume) for volume in frozen)
        second.join(RELEASED_SECONDS)
        assert not second.is_alive(), "the dead agent's file system is still frozen"
        if step == CUT:
            assert first.is_alive(), "the other node was released before the barrier failed"
        site.start("agent-2")
        ended = site.end(session)
        first.join(RELEASED_SECONDS)
        assert not first.is_alive(), "the other node was not released"
    assert ended["state"] == "rejected"
    assert ended["code"] == "agent-restarted", ended
    assert site.sql("SELECT FROM snapshot WHERE session = %s", session) == []
    assert_good(site, group, frozen)


@needs_mounts
def test_an_agent_is_killed_between_the_cut_and_its_capture(
    site: RunningSite, frozen: list[Volume], tmp_path: Path
) -> None:
    """Scenario 10: its frozen view died with it, so the common cut is worth nothing."""
    group = tmp_path.name
    with second_agent_killed_at(site, CAPTURE):
        agent = site.server("agent-2").process
        session = site.begin(group)
        eventually("the agent is killed", lambda: agent.pid is None)
        assert site.sql("SELECT cut_at IS NULL FROM session WHERE session = %s", session) == [
            (False,)
        ]
        for thread in map(writes, frozen):
            thread.join(RELEASED_SECONDS)
            assert not thread.is_alive(), "a file system is still frozen"
        site.start("agent-2")
        ended = site.end(session)
    assert ended["state"] == "rejected"
    assert ended["code"] in ("source", "unavailable", "agent-restarted"), ended
    assert site.sql("SELECT FROM snapshot WHERE session = %s", session) == []
    assert_good(site, group, frozen)
