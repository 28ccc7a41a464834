"""A group of three volumes on two nodes goes through its barrier, whatever fails on the way."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from libs.catalogdb.protected import add_volume
from libs.catalogdb.sessions.barrier import barrier_evidence
from libs.catalogdb.sessions.session import SessionView
from tests.integration.coordinator.nodes import (
    Cluster,
    KilledCoordinator,
    NodeProcess,
    unreachable,
)
from tests.support.catalog import TENANT
from tests.support.file_systems import mounted, needs_mounts
from tests.support.running import eventually

#: A coordinator that is killed here, or that still lets nodes go when a test ends, leaves an error
#: in its thread. In a service such an error ends the process, which is what is meant.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

#: Orders of a barrier of two nodes and the captures of three volumes.
ORDERS = 4 * 2 + 3


def test_all_nodes_are_cut_before_any_is_captured(cluster: Cluster) -> None:
    session = cluster.request(cluster.conductor())
    eventually("all captures are ordered", lambda: len(cluster.ordered()) == 3)
    view = cluster.view(session)
    assert (view.state, view.cut_attempt, view.cut) == ("open", 1, True)
    evidence = barrier_evidence(cluster.site.restore, session)
    assert [(one.node, one.unbroken) for one in evidence] == [("node-a", True), ("node-b", True)]
    held = max(one.held_at for one in evidence)
    assert held <= min(one.released_at for one in evidence)
    for node in cluster.nodes.values():
        assert node.steps[:4] == ["prepare", "hold", "cut", "release"]


def test_asking_again_cuts_nothing_again(cluster: Cluster) -> None:
    conductor = cluster.conductor()
    session = cluster.request(conductor)
    eventually("all captures are ordered", lambda: len(cluster.ordered()) == 3)
    conductor.request("acme", "g", session, full=False)
    cluster.conductor().request("acme", "g", session, full=False)
    assert cluster.view(session).cut_attempt == 1
    assert set(cluster.ordered().values()) == {1}


def rejected(cluster: Cluster, session: UUID) -> SessionView:
    eventually("the session has ended", lambda: cluster.view(session).state != "open")
    view = cluster.view(session)
    assert view.state == "rejected"
    return view


def test_a_lost_node_rejects_the_session_and_the_other_one_is_released(cluster: Cluster) -> None:
    def lose(node: NodeProcess, step: str, when: str) -> None:
        if node.name == "node-b" and step != "prepare":
            unreachable()

    cluster.hook = lose
    view = rejected(cluster, cluster.request(cluster.conductor(barrier_seconds=0.5)))
    assert view.reject_code == "barrier-late"
    assert "missing: node-b" in (view.reject_message or "")
    eventually("node-a is released", lambda: "abandon" in cluster.node("node-a").steps)
    assert cluster.ordered() == {}


def test_a_node_that_was_restarted_within_the_barrier_rejects_it(cluster: Cluster) -> None:
    """Scenario 18: what it held is let go, and it must not answer as if it had held on."""

    def restart(node: NodeProcess, step: str, when: str) -> None:
        if (node.name, step, when) == ("node-b", "cut", "before"):
            node.restart()

    cluster.hook = restart
    view = rejected(cluster, cluster.request(cluster.conductor()))
    assert view.reject_code == "agent-restarted"
    assert cluster.ordered() == {}


def test_a_node_that_was_restarted_after_the_cut_is_not_captured(cluster: Cluster) -> None:
    """Scenario 10: its frozen view is gone."""

    def restart(node: NodeProcess, step: str, when: str) -> None:
        if (node.name, step, when) == ("node-b", "capture", "before"):
            node.restart()

    cluster.hook = restart
    view = rejected(cluster, cluster.request(cluster.conductor()))
    assert view.reject_code == "source"
    assert "frozen view" in (view.reject_message or "")


def test_answers_that_are_lost_are_asked_for_again(cluster: Cluster) -> None:
    """Every answer is lost once: each step is done once all the same."""
    lost: set[tuple[str, str]] = set()
    lock = threading.Lock()

    def lose_once(node: NodeProcess, step: str, when: str) -> None:
        with lock:
            first = when == "after" and step != "capture" and (node.name, step) not in lost
            if first:
                lost.add((node.name, step))
        if first:
            unreachable()

    cluster.hook = lose_once
    session = cluster.request(cluster.conductor())
    eventually("all captures are ordered", lambda: len(cluster.ordered()) == 3)
    assert cluster.view(session).cut_attempt == 1
    for node in cluster.nodes.values():
        assert node.steps.count("hold") == 2


def test_clocks_of_nodes_that_jump_change_nothing_but_what_they_say(cluster: Cluster) -> None:
    """Every look at a node's clock is at another time, years before and after; one is a dead one's.

    What each node said is kept as evidence, and decides nothing.
    """
    told: dict[str, list[float]] = {name: [] for name in ("node-a", "node-b")}

    def jumping(name: str, times: Iterator[float]) -> Callable[[], float]:
        def look() -> float:
            told[name].append(next(times))
            return told[name][-1]

        return look

    cluster.node("node-a").clock = jumping("node-a", iter([4e9, 1.0, 2.5e9]))
    cluster.node("node-b").clock = jumping("node-b", iter([0.0, 9e9, 0.0]))
    session = cluster.request(cluster.conductor())
    eventually("all captures are ordered", lambda: len(cluster.ordered()) == 3)
    assert cluster.view(session).cut
    for one in barrier_evidence(cluster.site.restore, session):
        moments = [one.held_at, one.cut_at, one.released_at]
        assert [moment.timestamp() for moment in moments] == told[one.node]
        assert one.unbroken


def test_a_slow_node_delays_the_others_and_breaks_nothing(cluster: Cluster) -> None:
    waiting, goes_on = threading.Event(), threading.Event()

    def stall(node: NodeProcess, step: str, when: str) -> None:
        if (node.name, step, when) == ("node-b", "hold", "before"):
            waiting.set()
            assert goes_on.wait(30)

    cluster.hook = stall
    session = cluster.request(cluster.conductor())
    assert waiting.wait(30)
    eventually("node-a holds", lambda: cluster.node("node-a").steps[-1] == "hold")
    assert "cut" not in cluster.node("node-a").steps
    goes_on.set()
    eventually("all captures are ordered", lambda: len(cluster.ordered()) == 3)
    assert cluster.view(session).cut


@pytest.mark.parametrize("number", range(ORDERS))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_coordinator_that_is_killed_at_any_order_has_a_successor(
    cluster: Cluster, number: int, when: str
) -> None:
    """The successor begins a newer attempt if the cut is not recorded, and else goes on."""
    counted = 0
    lock = threading.Lock()
    dead = threading.Event()

    def kill(node: NodeProcess, step: str, moment: str) -> None:
        nonlocal counted
        with lock:
            if moment == when and not dead.is_set():
                counted += 1
                if counted > number:
                    dead.set()
        if dead.is_set():
            raise KilledCoordinator

    session = cluster.request(cluster.conductor(kill))
    assert dead.wait(30)
    cluster.leave_barriers()
    successor = cluster.conductor()

    def go_on() -> bool:
        successor.watch(0)
        return len(cluster.ordered()) == 3

    eventually("the successor goes on", go_on)
    view = cluster.view(session)
    assert (view.state, view.cut) == ("open", True)
    assert set(cluster.ordered().values()) == {view.cut_attempt}
    assert view.cut_attempt == (1 if number >= 8 else 2)


def test_the_answers_of_an_older_attempt_come_too_late(cluster: Cluster) -> None:
    """Scenario 18: two coordinators at once; only the newer one's cut counts."""
    stalled, goes_on = threading.Event(), threading.Event()

    def stall(node: NodeProcess, step: str, when: str) -> None:
        if (node.name, step, when) == ("node-b", "release", "after"):
            stalled.set()
            assert goes_on.wait(30)

    session = cluster.request(cluster.conductor(stall))
    assert stalled.wait(30)
    cluster.leave_barriers()
    newer = cluster.conductor()
    newer.watch(0)
    eventually("the newer attempt is captured", lambda: len(cluster.ordered()) == 3)
    goes_on.set()
    eventually("the older one gives up", lambda: cluster.node("node-b").steps[-1] == "abandon")
    view = cluster.view(session)
    assert (view.state, view.cut_attempt, view.cut) == ("open", 2, True)
    assert set(cluster.ordered().values()) == {2}


@needs_mounts
def test_a_hold_that_ends_before_the_others_hold_rejects_the_session(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Scenario 18: node-a holds, its time is over, it writes; node-b reaches the barrier later."""
    image, mount = tmp_path / "image", tmp_path / "mount"

    held = threading.Event()

    def stall(node: NodeProcess, step: str, when: str) -> None:
        if (node.name, step, when) == ("node-a", "hold", "after"):
            held.set()
        if (node.name, step, when) == ("node-b", "hold", "before"):
            assert held.wait(30)
            (mount / "file").write_bytes(b"written as soon as the hold is over")

    with mounted(image, mount):
        for name, node, freeze in (("cause", "node-a", str(mount)), ("effect", "node-b", None)):
            path = image if freeze else tmp_path / name
            path.touch()
            add_volume(cluster.site.coordinator, TENANT, name, "h", node, str(path), freeze)
        cluster.hook = stall
        session = cluster.request(cluster.conductor(hold_seconds=0.3), "h")
        assert rejected(cluster, session).reject_code == "hold-broken"
        eventually("node-b is released", lambda: "abandon" in cluster.node("node-b").steps)
    assert cluster.ordered() == {}
