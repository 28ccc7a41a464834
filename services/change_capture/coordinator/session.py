"""One session as decisions: facts in, commands out; no I/O, no clock, no chance.

`evolve` is the only function that changes a session's state, and `decide` says what is to be done
about a fact. Both are total: facts may come twice, late, in any order, or never. Whoever drives a
session tells it the time (`Ticked`); what is outstanding is then ordered again. Every command may
be carried out again, because nodes and catalog know sessions by their id and the attempt.

A session with a barrier goes Requested → Opened → Prepared → Holding → Cut → Released → Capturing →
Sealing → ended. The phase says what *every* node has done. One without a barrier begins at
Capturing. Only where several nodes write a volume is there anything to do between Opened and
Prepared: the others connect to the node that keeps its bytes, before anybody holds.

The cut counts only if each node confirms that its hold was unbroken when the release reached it
(scenario 18). Whatever ends a session early, each node that was told anything is released.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from uuid import UUID

from services.change_capture.coordinator.commands import (
    CaptureVolume,
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
    CaptureFact,
    CaptureRefused,
    CaptureUnknown,
    CutRecorded,
    Fact,
    NodeCut,
    NodeFact,
    NodeFollowing,
    NodeHeld,
    NodePrepared,
    NodeRefused,
    NodeReleased,
    PartFinished,
    SessionRejected,
    SessionSealed,
    Ticked,
)


class Phase(IntEnum):
    """How far a session is: what every one of its nodes, or of its volumes, has done."""

    REQUESTED = 0
    #: Prepared, but for the connections to the leads of volumes that several nodes write.
    OPENED = 1
    PREPARED = 2
    HOLDING = 3
    CUT = 4
    RELEASED = 5
    CAPTURING = 6
    SEALING = 7
    SEALED = 8
    REJECTED = 9
    #: Another coordinator has begun a newer attempt at the barrier, or recorded the cut: this one
    #: only lets go of the nodes.
    SUPERSEDED = 10


#: Phases in which a session commands nothing but releases.
ENDED = frozenset({Phase.SEALED, Phase.REJECTED, Phase.SUPERSEDED})
#: Phases between the order to hold and the last confirmed release.
_HELD = frozenset({Phase.PREPARED, Phase.HOLDING, Phase.CUT})


@dataclass(frozen=True, slots=True)
class Part:
    """One volume of a session, as far as the coordinator must know."""

    volume: str
    node: str
    #: A chunker works on it, so the agent process that captures it is settled.
    taken: bool = False
    finished: bool = False
    #: Its id, if other nodes write it too, and those nodes.
    volume_id: UUID | None = None
    followers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its coordinator knows it. `evolve` alone makes new ones."""

    session: UUID
    attempt: int
    phase: Phase
    members: Mapping[str, Member]
    parts: Mapping[UUID, Part]
    #: Seconds of the driver's monotonic clock after which the barrier has failed.
    barrier_until: float = 0.0
    code: str = ""
    message: str = ""


def with_barrier(
    session: UUID, attempt: int, nodes: frozenset[str], parts: Mapping[UUID, Part], until: float
) -> Session:
    """A session whose nodes are cut at a barrier, at its beginning."""
    members = {node: Member() for node in nodes}
    return Session(session, attempt, Phase.REQUESTED, members, parts, until)


def without_barrier(session: UUID, attempt: int, parts: Mapping[UUID, Part]) -> Session:
    """A session that needs no barrier, or whose cut is recorded already."""
    return Session(session, attempt, _capturing_phase(parts), MappingProxyType({}), parts)


def decide(state: Session, fact: Fact) -> list[Command]:
    """What is to be done, now that ``fact`` is known.

    At each change of phase: what the new phase needs. At a `Ticked`: whatever is outstanding, once
    more, since an order or its answer may be lost.
    """
    after = evolve(state, fact)
    if after.phase != state.phase:
        reject = after.phase is Phase.REJECTED and not isinstance(fact, SessionRejected)
        verdict: list[Command] = [Reject(after.code, after.message)] if reject else []
        return verdict + outstanding(after)
    if isinstance(fact, Ticked):
        return outstanding(after)
    if isinstance(fact, CaptureUnknown) and _is_orderable(after, fact.capture):
        return [CaptureVolume(fact.capture)]
    return []


def outstanding(state: Session) -> list[Command]:  # noqa: PLR0911 -- one answer per phase
    """What has been ordered in this phase, or must be, and is not confirmed yet."""
    nodes = sorted(state.members)
    match state.phase:
        case Phase.REQUESTED:
            return [PrepareNode(node) for node in nodes if not state.members[node].prepared]
        case Phase.OPENED:
            return [
                FollowLeads(node, _leads_of(state, node))
                for node in nodes
                if _leads_of(state, node) and not state.members[node].following
            ]
        case Phase.PREPARED:
            return [HoldNode(node) for node in nodes if state.members[node].held_at is None]
        case Phase.HOLDING:
            return [CutNode(node) for node in nodes if state.members[node].cut_at is None]
        case Phase.CUT:
            return [
                ReleaseNode(node, abandoned=False)
                for node in nodes
                if state.members[node].released_at is None
            ]
        case Phase.RELEASED:
            return [RecordCut(state.members)]
        case Phase.CAPTURING:
            return [
                CaptureVolume(capture)
                for capture, part in state.parts.items()
                if not part.finished and not part.taken
            ]
        case Phase.REJECTED | Phase.SUPERSEDED:
            return [ReleaseNode(node, abandoned=True) for node in nodes]
        case Phase.SEALING | Phase.SEALED:
            return []


def evolve(state: Session, fact: Fact) -> Session:  # noqa: PLR0911 -- one answer per kind
    """The state after ``fact``; the same state if it changes nothing."""
    if state.phase in ENDED:
        return state
    match fact:
        case (
            NodePrepared()
            | NodeFollowing()
            | NodeHeld()
            | NodeCut()
            | NodeReleased()
            | NodeRefused()
        ):
            return _after_node(state, fact)
        case Ticked(now=now):
            return _after_time(state, now)
        case AttemptSuperseded(attempt=attempt):
            return replace(state, phase=Phase.SUPERSEDED) if attempt == state.attempt else state
        case CutRecorded(attempt=attempt):
            recorded = state.phase is Phase.RELEASED and attempt == state.attempt
            return replace(state, phase=_capturing_phase(state.parts)) if recorded else state
        case SessionSealed():  # during our barrier: another coordinator's attempt became it
            ended = Phase.SUPERSEDED if state.phase < Phase.RELEASED else Phase.SEALED
            return replace(state, phase=ended)
        case SessionRejected(code=code, message=message):
            return _rejected(state, code, message)
        case CaptureUnknown() | CaptureRefused() | PartFinished():
            return _after_capture(state, fact)


def _after_node(state: Session, fact: NodeFact) -> Session:
    member = state.members.get(fact.node)
    if member is None or fact.attempt != state.attempt or state.phase > Phase.CUT:
        return state
    match fact:
        case NodePrepared(means=means, leads=leads) if state.phase is Phase.REQUESTED:
            changed = replace(member, prepared=True, means=means, leads=leads)
        case NodeFollowing() if state.phase is Phase.OPENED:
            changed = replace(member, following=True)
        case NodeHeld(at=at) if state.phase is Phase.PREPARED:
            changed = replace(member, held_at=at)
        case NodeCut(at=at) if state.phase is Phase.HOLDING:
            changed = replace(member, cut_at=at)
        case NodeReleased(unbroken=False) if state.phase in _HELD:
            return _hold_broken(state, fact.node)
        case NodeReleased(at=at) if state.phase is Phase.CUT:
            changed = replace(member, released_at=at, unbroken=True)
        case NodeReleased() if state.phase in _HELD:  # nobody has told it to end its hold
            return _hold_broken(state, fact.node)
        case NodeRefused(code=code, message=message) if member.released_at is None:
            return _rejected(state, code, f"node {fact.node}: {message}")
        case _:  # not ordered yet, or done before
            return state
    members = {**state.members, fact.node: changed}
    return _advanced(replace(state, members=members))


def _advanced(state: Session) -> Session:
    """On to the next phase if every node has done what this one asks for."""
    members = state.members.values()
    match state.phase:
        case Phase.REQUESTED if all(one.prepared for one in members):
            return _opened(state)
        case Phase.OPENED if not outstanding(state):
            return replace(state, phase=Phase.PREPARED)
        case Phase.PREPARED if all(one.held_at is not None for one in members):
            return replace(state, phase=Phase.HOLDING)
        case Phase.HOLDING if all(one.cut_at is not None for one in members):
            return replace(state, phase=Phase.CUT)
        case Phase.CUT if all(one.unbroken for one in members):
            return replace(state, phase=Phase.RELEASED)
        case _:
            return state


def _opened(state: Session) -> Session:
    """On to where followers connect, or past it if there are none."""
    for part in state.parts.values():
        if part.followers and part.volume_id not in state.members[part.node].leads:
            return _rejected(
                state,
                "source",
                f"volume {part.volume}: the agent of node {part.node} does not say where the "
                f"filter is that leads it; is it of this release?",
            )
    is_shared = any(part.followers for part in state.parts.values())
    return replace(state, phase=Phase.OPENED if is_shared else Phase.PREPARED)


def _leads_of(state: Session, node: str) -> dict[UUID, str]:
    """Where the leads are of the volumes that a node writes and does not lead."""
    return {
        part.volume_id: state.members[part.node].leads[part.volume_id]
        for part in state.parts.values()
        if part.volume_id is not None and node in part.followers
    }


def _after_time(state: Session, now: float) -> Session:
    if state.phase >= Phase.RELEASED or now < state.barrier_until:
        return state
    late = [
        node
        for node in sorted(state.members)
        if _is_late(state.phase, state.members[node])
        and (state.phase is not Phase.OPENED or _leads_of(state, node))
    ]
    return _rejected(
        state,
        "barrier-late",
        f"not every node reached the barrier in time; missing: {', '.join(late)}. Is the agent "
        f"there running? Take the snapshot again",
    )


def _is_late(phase: Phase, member: Member) -> bool:
    done = (
        member.prepared,
        member.following,
        member.held_at is not None,
        member.cut_at is not None,
        member.released_at is not None,
    )
    return not done[phase]


def _after_capture(state: Session, fact: CaptureFact) -> Session:
    part = state.parts.get(fact.capture)
    if part is None or part.finished or state.phase is not Phase.CAPTURING:
        return state
    match fact:
        case PartFinished():
            parts = {**state.parts, fact.capture: replace(part, finished=True)}
            return replace(state, parts=parts, phase=_capturing_phase(parts))
        case CaptureRefused(code=code, message=message):
            return _rejected(state, code, f"volume {part.volume} on node {part.node}: {message}")
        case CaptureUnknown() if part.taken:
            return _rejected(
                state,
                "agent-restarted",
                f"volume {part.volume}: the agent on node {part.node} was restarted; "
                f"take the snapshot again",
            )
        case CaptureUnknown():
            return state


def _is_orderable(state: Session, capture: UUID) -> bool:
    part = state.parts.get(capture)
    return state.phase is Phase.CAPTURING and part is not None and not part.finished


def _capturing_phase(parts: Mapping[UUID, Part]) -> Phase:
    finished = all(part.finished for part in parts.values())
    return Phase.SEALING if finished else Phase.CAPTURING


def _hold_broken(state: Session, node: str) -> Session:
    return _rejected(
        state,
        "hold-broken",
        f"node {node}: its hold ended before the release reached it, so that writes on it may be "
        f"later than the cut; take the snapshot again",
    )


def _rejected(state: Session, code: str, message: str) -> Session:
    return replace(state, phase=Phase.REJECTED, code=code, message=message)
