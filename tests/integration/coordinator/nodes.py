"""Nodes that a coordinator cuts: real barriers behind an RPC that fails as a network does."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, add_volume
from libs.catalogdb.sessions.session import PartView, SessionView, read_session
from libs.errors import NotFoundError, UnavailableError
from libs.ids import uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.rest.client import Json
from libs.store.memory import MemoryStore
from services.change_capture.agent.routes import members_of
from services.change_capture.barrier.barrier import Barriers
from services.change_capture.coordinator.agents import AgentAddress, Agents
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.coordinator.tenants import ensure_tenant
from services.change_capture.rpc import BarrierStatus, CaptureStatus
from tests.support.catalog import TENANT, CatalogSite
from tests.support.conducting import conductor_of, node_barriers, prepare_request

T = TypeVar("T")


class KilledCoordinator(BaseException):
    """The coordinator is dead: nothing of it goes on."""


class NodeProcess:
    """An agent process on one node: its barriers, and what was ordered from it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.boot = uuid4()
        #: Seconds since 1970, as this node believes.
        self.clock: Callable[[], float] = time.time
        self.barriers = self._new_barriers()
        #: Captures that were ordered, each with the attempt whose view it reads.
        self.captures: dict[UUID, int] = {}
        #: Names of the steps that reached it, in order.
        self.steps: list[str] = []

    def restart(self) -> None:
        """Nothing of it survives."""
        self.barriers.close()
        self.boot, self.barriers = uuid4(), self._new_barriers()
        self.captures.clear()

    def _new_barriers(self) -> Barriers:
        return node_barriers(self.folder, clock=self._now)

    def _now(self) -> float:
        return self.clock()  # the one that is set at that moment


#: Called before and after each order: (node, step, "before" or "after").
Hook = Callable[[NodeProcess, str, str], None]


class NodeAgents(Agents):
    """The RPC of some nodes, as one coordinator has it.

    Args:
        nodes: by URL.
        hook: may raise what a network or a death does.
    """

    def __init__(self, nodes: dict[str, NodeProcess], hook: Hook) -> None:
        self._nodes = nodes
        self._hook = hook
        self._one_step_at_a_time = threading.Lock()

    def prepare(
        self,
        address: AgentAddress,
        session: UUID,
        attempt: int,
        tenant: str,
        sources: Sequence[Json],
        hold_seconds: float,
        volume_count: int = 0,
    ) -> BarrierStatus:
        request = prepare_request(attempt, tenant, sources, hold_seconds, volume_count)

        def prepare(node: NodeProcess) -> BarrierStatus:
            members = members_of(request, node.name)
            return node.barriers.prepare(session, attempt, tenant, members, hold_seconds)

        return self._call(address, "prepare", prepare)

    def hold(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        return self._call(address, "hold", lambda node: node.barriers.hold(session, attempt))

    def cut(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        return self._call(address, "cut", lambda node: node.barriers.cut(session, attempt))

    def release(
        self, address: AgentAddress, session: UUID, attempt: int, *, abandoned: bool
    ) -> BarrierStatus:
        return self._call(
            address,
            "abandon" if abandoned else "release",
            lambda node: node.barriers.release(session, attempt, abandoned=abandoned),
        )

    def begin(
        self, session: SessionView, part: PartView, id_key: bytes, hints: bytes | None
    ) -> CaptureStatus:
        def begin(node: NodeProcess) -> CaptureStatus:
            if part.capture not in node.captures:
                view = node.barriers.take_view(session.session, session.cut_attempt, part.volume)
                view.close()
                node.captures[part.capture] = session.cut_attempt
            return self._status(node, session.session, part.capture)

        return self._call(AgentAddress.of(part), "capture", begin)

    def status(self, address: AgentAddress, capture: UUID) -> CaptureStatus:
        def status(node: NodeProcess) -> CaptureStatus:
            if capture not in node.captures:
                raise NotFoundError(f"capture {capture}: not known")
            return self._status(node, UUID(int=0), capture)

        return self._call(address, "status", status)

    def settle(self, part: PartView, *, sealed: bool, distrusted: bool) -> None:
        """The outcome is of no interest here."""

    def _status(self, node: NodeProcess, session: UUID, capture: UUID) -> CaptureStatus:
        return CaptureStatus(
            session=session, capture=capture, boot=node.boot, state="reading", read_bytes=0
        )

    def _call(self, address: AgentAddress, step: str, act: Callable[[NodeProcess], T]) -> T:
        node = self._nodes[address.rpc_url]
        self._hook(node, step, "before")
        node.steps.append(step)
        result = act(node)
        self._hook(node, step, "after")
        return result


class Cluster:
    """A group of three volumes on two nodes, and coordinators that cut it.

    Args:
        site: the catalog.
        threads: of coordinators.
        folder: for volumes and the nodes' state.
    """

    def __init__(self, site: CatalogSite, threads: Executor, folder: Path) -> None:
        self.site = site
        self._threads = threads
        self.store = MemoryStore()
        self.vault = KeyVault(self.store, KeyEncryptionKey.generate())
        self.nodes: dict[str, NodeProcess] = {}
        self.hook: Hook = lambda *_: None
        ensure_tenant(site.coordinator, self.vault, TENANT)
        for name in ("node-a", "node-b"):
            url = f"http://{name}:1"
            node = self.nodes[url] = NodeProcess(name, folder / name)
            announce_node(site.coordinator, Node(name, url, f"{name}:2", node.boot))
        for number, node in enumerate([*self.nodes.values(), *self.nodes.values()][:3]):
            path = node.folder / f"volume-{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x" * 4096)
            add_volume(site.coordinator, TENANT, path.name, "g", node.name, str(path))

    def node(self, name: str) -> NodeProcess:
        """A node by its name."""
        return self.nodes[f"http://{name}:1"]

    def conductor(
        self,
        hook: Hook | None = None,
        *,
        barrier_seconds: float = 30,
        hold_seconds: float = 10,
    ) -> Conductor:
        """A coordinator; its orders pass ``hook``, or else the cluster's."""
        agents = NodeAgents(self.nodes, hook or self._pass_on)
        return conductor_of(
            self.site.coordinator,
            self.vault,
            agents,
            self._threads,
            barrier_seconds=barrier_seconds,
            hold_seconds=hold_seconds,
        )

    def _pass_on(self, node: NodeProcess, step: str, when: str) -> None:
        self.hook(node, step, when)  # the one that is set at that moment

    def request(self, conductor: Conductor, group: str = "g") -> UUID:
        """Ask for a snapshot; its session."""
        view = conductor.request(TENANT, group, uuid7(), full=False)
        assert isinstance(view, SessionView)
        return view.session

    def view(self, session: UUID) -> SessionView:
        """The session as it is."""
        return read_session(self.site.coordinator, session)

    def ordered(self) -> dict[UUID, int]:
        """Captures that were ordered, and the attempt whose view each reads."""
        return {
            capture: attempt
            for node in self.nodes.values()
            for capture, attempt in node.captures.items()
        }

    def leave_barriers(self) -> None:
        """Whoever works at a barrier has had its time."""
        self.site.sql("UPDATE session SET cut_until = now() - interval '1 s' WHERE state = 'o'")

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            node.barriers.close()


def unreachable(*_: object) -> None:
    """What a network does that leads nowhere."""
    raise UnavailableError("agent: does not answer")
