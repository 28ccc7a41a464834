"""Nodes of a shared disk die, leave, join and cannot reach each other; each is a real process."""

import os
import signal
from collections.abc import Iterator
from uuid import UUID

import pytest

from deploy.local.filters import FilterProcess
from deploy.local.services import node_name
from libs.errors import BadInputError, ConflictError
from libs.packs.layout import CHUNK_SIZE_BYTES
from tests.integration.sharing.conftest import NODES, part_of, sealed
from tests.support.relay import Relay
from tests.support.running import TENANT, Answer, RunningSite, eventually
from tests.support.shared_disk import SharedDisk, agent_of

#: More than the window of an agent takes (one span of 32 MiB), and what is read ahead of it.
LARGE = 96 << 20


def kill(filter_: FilterProcess) -> None:
    """SIGKILL a filter, and start it again: its node's clients come back to it."""
    pid = filter_.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually("the filter is gone", lambda: filter_.process.pid is None)
    filter_.spawn()
    filter_.wait_ready()


def change(site: RunningSite, disk: SharedDisk, what: str, body: dict[str, str]) -> Answer:
    """A node joins or leaves."""
    where = f"/v1/tenants/{TENANT}/volumes/{disk.name}/{what}"
    changed: Answer = site.coordinator.post(where, body)
    return changed


@pytest.mark.parametrize("node", [0, 2])
def test_a_filter_that_is_killed_between_snapshots_makes_the_next_one_whole(
    site: RunningSite, disk: SharedDisk, node: int
) -> None:
    disk.protect()
    sealed(site, disk.name, "none")
    disk.write(node, 0, os.urandom(4096))
    kill(disk.filters[node])
    disk.write(1, 5 * CHUNK_SIZE_BYTES, os.urandom(4096))
    sealed(site, disk.name, "lost")
    assert disk.restored() == disk.path.read_bytes()
    disk.write(node, 3 * CHUNK_SIZE_BYTES, os.urandom(4096))
    taken = sealed(site, disk.name, "candidates")
    assert part_of(taken)["changed_bytes"] == CHUNK_SIZE_BYTES
    assert disk.restored() == disk.path.read_bytes()


@pytest.fixture
def slow(site: RunningSite, disk: SharedDisk) -> Iterator[SharedDisk]:
    """A disk that the lead cannot read to its end while no chunker runs."""
    for one in disk.filters:
        one.stop()
    with disk.path.open("r+b") as file:
        file.seek(disk.layout.size_bytes)
        while file.tell() < LARGE:
            file.write(os.urandom(1 << 20))
    for one in disk.filters:
        one.spawn()
        one.wait_ready()
    restart_agent(site, {"BACKCAST_AGENT_WINDOW_SPAN_COUNT_MAX": "1"})
    disk.protect()
    yield disk
    restart_agent(site, {})


def restart_agent(site: RunningSite, more: dict[str, str]) -> None:
    """Start the lead's agent anew, with other settings besides its own."""
    agent = site.service(agent_of(0))
    agent.process.stop()
    agent.environ = {**agent.environ, **more}
    agent.spawn()
    agent.wait_ready()


def begin_reading(site: RunningSite, disk: SharedDisk) -> UUID:
    """Begin a snapshot; the lead reads when this returns, and can come to no end."""
    site.kill("chunker")
    session = site.begin(disk.name)
    query = "SELECT cut_at IS NOT NULL FROM session WHERE session = %s"
    eventually("the cut counts", lambda: site.sql(query, session) == [(True,)])
    return session


def rejected(site: RunningSite, session: UUID) -> Answer:
    """How a session has ended that made no snapshot, once the chunker runs again."""
    site.start("chunker")
    ended = site.end(session)
    assert ended["state"] == "rejected", ended
    return ended


def test_a_follower_that_dies_while_the_lead_reads_breaks_the_snapshot(
    site: RunningSite, slow: SharedDisk
) -> None:
    session = begin_reading(site, slow)
    kill(slow.filters[2])
    slow.write(2, 0, os.urandom(4096))  # asks nobody
    ended = rejected(site, session)
    assert ended["code"] == "source", ended
    assert f"node {node_name(3)}: its filter" in ended["message"]
    restart_agent(site, {})
    sealed(site, slow.name, "none")
    assert slow.restored() == slow.path.read_bytes()


def test_writes_go_on_when_the_lead_dies_and_count_for_the_next_snapshot(
    site: RunningSite, slow: SharedDisk
) -> None:
    restart_agent(site, {})
    sealed(site, slow.name, "none")
    for node in range(NODES):
        slow.write(node, node * CHUNK_SIZE_BYTES, os.urandom(4096))
    session = site.begin(slow.name)
    query = "SELECT cut_at IS NOT NULL FROM session WHERE session = %s"
    eventually("the cut counts", lambda: site.sql(query, session) == [(True,)])
    site.kill(agent_of(0))
    slow.write(1, 4 * CHUNK_SIZE_BYTES, os.urandom(4096))
    restart_agent(site, {})
    ended = site.end(session)
    if ended["state"] == "rejected":  # or the lead had read all of it before
        assert ended["code"] in ("agent-restarted", "source", "unavailable"), ended
    taken = sealed(site, slow.name, "candidates")
    if ended["state"] == "rejected":
        assert part_of(taken)["changed_bytes"] == (NODES + 1) * CHUNK_SIZE_BYTES
    assert slow.restored() == slow.path.read_bytes()


def test_a_filter_of_the_lead_that_dies_breaks_the_snapshot_and_no_write(
    site: RunningSite, slow: SharedDisk
) -> None:
    session = begin_reading(site, slow)
    kill(slow.filters[0])
    for node in range(NODES):
        slow.write(node, node * CHUNK_SIZE_BYTES, os.urandom(4096))
    assert rejected(site, session)["code"] == "source"
    restart_agent(site, {})
    sealed(site, slow.name, "none")
    assert slow.restored() == slow.path.read_bytes()


def test_a_dead_node_is_missed_at_the_barrier_until_it_leaves(
    site: RunningSite, disk: SharedDisk
) -> None:
    disk.protect()
    sealed(site, disk.name, "none")
    disk.write(2, 0, os.urandom(4096))
    site.kill(agent_of(2))
    disk.filters[2].stop()
    ended = site.take(disk.name)
    assert (ended["state"], ended["code"]) == ("rejected", "barrier-late"), ended
    assert node_name(3) in ended["message"]
    left = change(site, disk, "leave", {"node": node_name(3)})
    assert [one["node"] for one in left["nodes"]] == [node_name(1), node_name(2)]
    sealed(site, disk.name, "lost")  # nobody knows what it has written
    assert disk.restored() == disk.path.read_bytes()
    disk.write(1, 0, os.urandom(4096))
    taken = sealed(site, disk.name, "candidates")
    assert part_of(taken)["changed_bytes"] == CHUNK_SIZE_BYTES


def test_when_the_lead_leaves_another_node_leads_and_a_node_that_joins_is_cut_too(
    site: RunningSite, disk: SharedDisk
) -> None:
    disk.protect([0, 1])
    sealed(site, disk.name, "none")
    joined = change(site, disk, "join", disk.place(2))
    assert [one["lead"] for one in joined["nodes"]] == [True, False, False]
    disk.write(2, 0, os.urandom(4096))
    sealed(site, disk.name, "lost")
    assert disk.restored() == disk.path.read_bytes()
    left = change(site, disk, "leave", {"node": node_name(1)})
    assert [(one["node"], one["lead"]) for one in left["nodes"]] == [
        (node_name(2), True),
        (node_name(3), False),
    ]
    sealed(site, disk.name, "lost")
    for node in (1, 2):
        disk.write(node, (3 + node) * CHUNK_SIZE_BYTES, os.urandom(4096))
    taken = sealed(site, disk.name, "candidates")
    assert part_of(taken)["changed_bytes"] == 2 * CHUNK_SIZE_BYTES
    assert disk.restored() == disk.path.read_bytes()


def test_nodes_that_cannot_write_one_volume_are_refused(
    site: RunningSite, disk: SharedDisk
) -> None:
    with pytest.raises(BadInputError, match="2 to 8 different"):
        disk.protect([0, 0])
    disk.protect([0, 1])
    with pytest.raises(ConflictError, match="already, under another path"):
        change(site, disk, "join", {**disk.place(1), "path": str(disk.path) + "/../disk"})
    with pytest.raises(ConflictError, match="cannot move"):
        change(site, disk, "move", {"path": str(disk.path), "node": node_name(3)})


def test_a_network_that_falls_silent_breaks_the_snapshot_and_no_write(
    site: RunningSite, slow: SharedDisk
) -> None:
    lead, follower = slow.filters[0], slow.filters[1]
    port = site.cluster.home.port(f"{lead.name}-peers")
    with Relay(port) as network:
        lead.environ["BACKCAST_FILTER_PEER_LISTEN"] = f"127.0.0.1:{port}"
        lead.environ["BACKCAST_FILTER_PEER_ADVERTISED"] = network.address
        follower.environ["BACKCAST_FILTER_SCRATCH_WAIT_SECONDS"] = "1"
        for one in (lead, follower):
            one.stop()
            one.spawn()
            one.wait_ready()
        session = begin_reading(site, slow)
        network.cut()
        slow.write(1, 0, os.urandom(4096))  # returns, although nobody answers
        slow.write(1, CHUNK_SIZE_BYTES, os.urandom(4096))
        ended = rejected(site, session)
        assert ended["code"] == "source", ended
        network.mend()
        restart_agent(site, {})
        sealed(site, slow.name, "none")
        assert slow.restored() == slow.path.read_bytes()
