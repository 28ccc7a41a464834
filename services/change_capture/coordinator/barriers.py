"""Drives sessions through their barriers: the shell around the decisions of `session`.

All nodes are ordered at once, step by step. Nothing that decides is kept here: attempts and the cut
that counts are in the catalog, frozen views and holds on the nodes. A coordinator that dies at any
step leaves nodes that end their holds by their own deadline, and a session whose barrier another
coordinator takes over with a newer attempt, or which its deadline rejects.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.barrier import BarrierEvidence, record_cut
from libs.catalogdb.sessions.session import SessionView, reject_session
from libs.errors import BackcastError, ConflictError, NotFoundError, UnavailableError
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.commands import (
    Command,
    CutNode,
    FollowLeads,
    HoldNode,
    Member,
    PrepareNode,
    RecordCut,
    Reject,
    ReleaseNode,
)
from services.change_capture.coordinator.facts import (
    AttemptSuperseded,
    CutRecorded,
    Fact,
    NodeCut,
    NodeFact,
    NodeFollowing,
    NodeHeld,
    NodePrepared,
    NodeRefused,
    NodeReleased,
    Ticked,
)
from services.change_capture.coordinator.session import (
    ENDED,
    Part,
    Phase,
    Session,
    decide,
    evolve,
    outstanding,
    with_barrier,
)
from services.change_capture.coordinator.sharing.members import BarrierMember, members_of
from services.change_capture.rpc import BarrierStatus

log = logging.getLogger(__name__)

NodeOrder = PrepareNode | FollowLeads | HoldNode | CutNode | ReleaseNode

#: Pause before what was not confirmed is ordered again.
_AGAIN_SECONDS = 0.2
#: A release that does not get through is sent so often; then the node's own deadline ends its hold.
_RELEASE_COUNT_MAX = 3


class Barriers:
    """Cuts the volumes of sessions. Thread-safe.

    Args:
        catalog: the catalog, in the coordinator's role.
        agents: the agents' RPC.
        executor: runs the orders of one step side by side.
        hold_seconds: a node ends its hold by itself after so long.
        barrier_seconds: an attempt that takes longer has failed.
        session_deadline_seconds: time that a recorded cut gives a session.
        clock: monotonic seconds.
        sleep: waits.
    """

    def __init__(  # noqa: PLR0913 -- the coordinator's surroundings
        self,
        catalog: Catalog,
        agents: Agents,
        executor: Executor,
        hold_seconds: float,
        barrier_seconds: float,
        session_deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalog = catalog
        self._agents = agents
        self._executor = executor
        self._hold_seconds = hold_seconds
        self.barrier_seconds = barrier_seconds
        self._session_deadline_seconds = session_deadline_seconds
        self._clock = clock
        self._sleep = sleep

    def cut(self, view: SessionView) -> bool:
        """Take a session's attempt through its barrier; whether its cut counts now."""
        until = self._clock() + self.barrier_seconds
        nodes = members_of(view).keys()
        state = with_barrier(
            view.session, view.cut_attempt, frozenset(nodes), parts_of(view), until
        )
        commands = outstanding(state)
        while state.phase not in ENDED:
            facts = self._carry_out(view, commands)
            commands = []
            for fact in facts:
                commands += decide(state, fact)
                state = evolve(state, fact)
            if state.phase > Phase.RELEASED and state.phase not in ENDED:
                return True
            if not commands:
                self._sleep(_AGAIN_SECONDS)
                commands = decide(state, Ticked(self._clock()))
                state = evolve(state, Ticked(self._clock()))
            if state.phase is Phase.RELEASED and self._clock() > until + self.barrier_seconds:
                return False  # the catalog does not answer; a newer attempt will be begun
        self._let_go(view, state, commands)
        return False

    def _let_go(self, view: SessionView, state: Session, commands: Sequence[Command]) -> None:
        """Reject, and release every node, as far as they can be reached."""
        if state.code:
            about = {"session": str(view.session), "detail": f"{state.code}: {state.message}"}
            log.warning("barrier failed", extra=about)
        for count in range(_RELEASE_COUNT_MAX):
            facts = self._carry_out(view, commands)
            reached = {fact.node for fact in facts if isinstance(fact, NodeReleased | NodeRefused)}
            commands = [
                command
                for command in commands
                if isinstance(command, ReleaseNode) and command.node not in reached
            ]
            if not commands:
                return
            if count + 1 < _RELEASE_COUNT_MAX:
                self._sleep(_AGAIN_SECONDS)

    def _carry_out(self, view: SessionView, commands: Sequence[Command]) -> list[Fact]:
        """Carry out commands side by side; those that nobody answered give no fact."""
        futures = [self._executor.submit(self._one, view, command) for command in commands]
        return [fact for future in futures if (fact := future.result()) is not None]

    def _one(self, view: SessionView, command: Command) -> Fact | None:
        match command:
            case PrepareNode() | FollowLeads() | HoldNode() | CutNode() | ReleaseNode():
                return self._order(view, command.node, command)
            case RecordCut(members):
                return self._record(view, members)
            case Reject(code, message):
                self._reject(view, code, message)
        return None

    def _reject(self, view: SessionView, code: str, message: str) -> None:
        try:
            reject_session(self._catalog, "coordinator", view.session, code, message)
        except UnavailableError as err:  # a newer attempt begins, or the deadline rejects it
            about = {"session": str(view.session), "detail": str(err)}
            log.warning("session not rejected", extra=about)

    def _order(
        self,
        view: SessionView,
        node: str,
        command: NodeOrder,
    ) -> NodeFact | AttemptSuperseded | None:
        attempt = view.cut_attempt
        try:
            status = self._call(view, members_of(view)[node], command)
        except ConflictError:  # the node knows a newer attempt
            return AttemptSuperseded(attempt)
        except UnavailableError as err:  # it is asked again until the barrier's time is over
            about = {"session": str(view.session), "node": node, "detail": str(err)}
            log.warning("node does not answer", extra=about)
            return None
        except NotFoundError as err:
            return NodeRefused(node, attempt, "agent-restarted", str(err))
        except BackcastError as err:
            return NodeRefused(node, attempt, err.code, str(err))
        return _fact(node, command, status)

    def _call(
        self,
        view: SessionView,
        member: BarrierMember,
        command: NodeOrder,
    ) -> BarrierStatus:
        address, session, attempt = member.address, view.session, view.cut_attempt
        match command:
            case PrepareNode():
                return self._agents.prepare(
                    address,
                    session,
                    attempt,
                    view.tenant,
                    member.sources,
                    self._hold_seconds,
                    len(view.parts),
                )
            case FollowLeads(leads=leads):
                return self._agents.follow(address, session, attempt, leads)
            case HoldNode():
                return self._agents.hold(address, session, attempt)
            case CutNode():
                return self._agents.cut(address, session, attempt)
            case ReleaseNode(abandoned=abandoned):
                return self._agents.release(address, session, attempt, abandoned=abandoned)

    def _record(
        self, view: SessionView, members: Mapping[str, Member]
    ) -> CutRecorded | AttemptSuperseded | None:
        try:
            recorded = record_cut(
                self._catalog,
                view.session,
                view.cut_attempt,
                [_evidence(node, member) for node, member in sorted(members.items())],
                self._session_deadline_seconds,
            )
        except UnavailableError as err:
            about = {"session": str(view.session), "detail": str(err)}
            log.warning("cut not recorded yet", extra=about)
            return None
        return CutRecorded(view.cut_attempt) if recorded else AttemptSuperseded(view.cut_attempt)


def parts_of(view: SessionView) -> dict[UUID, Part]:
    """A session's volumes, as its decisions know them."""
    return {
        part.capture: Part(
            part.volume_name,
            part.node,
            taken=part.boot is not None,
            finished=part.finished,
            volume_id=part.volume,
            followers=frozenset(one.node for one in part.followers),
        )
        for part in view.parts
    }


def _fact(node: str, command: Command, status: BarrierStatus) -> NodeFact | None:
    """What a node's answer says about the step that it was ordered to do."""
    match command:
        case PrepareNode():
            return NodePrepared(node, status.attempt, status.means, status.leads)
        case FollowLeads():
            return NodeFollowing(node, status.attempt)
        case HoldNode() if status.held_at is not None:
            return NodeHeld(node, status.attempt, status.held_at)
        case CutNode() if status.cut_at is not None:
            return NodeCut(node, status.attempt, status.cut_at)
        case ReleaseNode() if status.released_at is not None:
            return NodeReleased(node, status.attempt, status.released_at, unbroken=status.unbroken)
    return None


def _evidence(node: str, member: Member) -> BarrierEvidence:
    assert member.held_at is not None
    assert member.cut_at is not None
    assert member.released_at is not None
    return BarrierEvidence(
        node,
        member.means,
        datetime.fromtimestamp(member.held_at, UTC),
        datetime.fromtimestamp(member.cut_at, UTC),
        datetime.fromtimestamp(member.released_at, UTC),
        member.unbroken,
    )
