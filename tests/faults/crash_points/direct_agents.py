"""The coordinator's RPC without HTTP."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import UnavailableError
from libs.rest.client import Json
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.routes import members_of
from services.change_capture.coordinator.agents import AgentAddress, Agents
from services.change_capture.rpc import BarrierStatus, CaptureStatus
from tests.faults.crash_points.effects import Killed
from tests.support.conducting import prepare_request

if TYPE_CHECKING:
    from tests.faults.crash_points.process import AgentProcess
    from tests.faults.crash_points.world import World

T = TypeVar("T")


class DirectAgents(Agents):
    """The coordinator's RPC without HTTP; an agent that dies in a call does not answer."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def begin(
        self, session: SessionView, part: PartView, id_key: bytes, hints: bytes | None
    ) -> CaptureStatus:
        order = CaptureOrder(
            session=session.session,
            capture=part.capture,
            tenant=session.tenant,
            group=session.group_id,
            volume=part.volume,
            path=Path(part.path),
            base=session.base,
            token=part.token,
            id_key=id_key,
            cut_attempt=session.cut_attempt,
            is_trusted=session.is_trusted,
            driver=part.driver if hints is None else "hints",
            hints=hints,
        )
        return self._call(lambda agent: agent.begin(order))

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
        members = members_of(request, address.node.name)
        return self._call(
            lambda agent: agent.barriers.prepare(session, attempt, tenant, members, hold_seconds)
        )

    def hold(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        return self._call(lambda agent: agent.barriers.hold(session, attempt))

    def cut(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        return self._call(lambda agent: agent.barriers.cut(session, attempt))

    def release(
        self, address: AgentAddress, session: UUID, attempt: int, *, abandoned: bool
    ) -> BarrierStatus:
        return self._call(
            lambda agent: agent.barriers.release(session, attempt, abandoned=abandoned)
        )

    def status(self, address: AgentAddress, capture: UUID) -> CaptureStatus:
        return self._call(lambda agent: agent.status(capture))

    def settle(self, part: PartView, *, sealed: bool, distrusted: bool) -> None:
        def settle(agent: "AgentProcess") -> None:
            agent.settle(part.capture, sealed=sealed, distrusted=distrusted)

        self._call(settle)

    def _call(self, call: "Callable[[AgentProcess], T]") -> T:
        agent = self._world.agent
        try:
            if agent.life.asleep:
                raise UnavailableError("agent: does not answer")
            return call(agent)
        except Killed as killed:
            if killed.life is not agent.life:
                raise
            self._world.replace(agent)
            raise UnavailableError("agent: connection lost") from killed
