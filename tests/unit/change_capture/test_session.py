"""The pure core of a session: any order, repetition and loss of facts, against an own oracle."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.change_capture.coordinator.commands import (
    CaptureVolume,
    Command,
    CutNode,
    HoldNode,
    PrepareNode,
    RecordCut,
    Reject,
    ReleaseNode,
)
from services.change_capture.coordinator.facts import (
    AttemptSuperseded,
    CaptureRefused,
    CaptureUnknown,
    CutRecorded,
    Fact,
    NodeCut,
    NodeHeld,
    NodePrepared,
    NodeRefused,
    NodeReleased,
    PartFinished,
    SessionRejected,
    SessionSealed,
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
    without_barrier,
)

SESSION, ATTEMPT, UNTIL = UUID(int=1), 3, 20.0
NODES = ("a", "b")
CAPTURES = (UUID(int=10), UUID(int=11), UUID(int=12))
PARTS = {
    capture: Part(f"volume-{number}", NODES[number % 2]) for number, capture in enumerate(CAPTURES)
}


def requested() -> Session:
    return with_barrier(SESSION, ATTEMPT, frozenset(NODES), PARTS, UNTIL)


def run(state: Session, facts: Sequence[Fact]) -> tuple[Session, list[Command]]:
    commands = []
    for fact in facts:
        commands += decide(state, fact)
        state = evolve(state, fact)
    return state, commands


def steps(nodes: Sequence[str] = NODES, attempt: int = ATTEMPT) -> list[Fact]:
    """Everything as it should be, up to the recorded cut."""
    return [
        *(NodePrepared(node, attempt, "fsfreeze") for node in nodes),
        *(NodeHeld(node, attempt, 1.0) for node in nodes),
        *(NodeCut(node, attempt, 2.0) for node in nodes),
        *(NodeReleased(node, attempt, 3.0, unbroken=True) for node in nodes),
        CutRecorded(attempt),
    ]


nodes = st.sampled_from((*NODES, "stranger"))
attempts = st.sampled_from((ATTEMPT, ATTEMPT, ATTEMPT, ATTEMPT - 1, ATTEMPT + 1))
captures = st.sampled_from((*CAPTURES, UUID(int=99)))
any_fact: st.SearchStrategy[Fact] = st.one_of(
    st.builds(NodePrepared, nodes, attempts, st.just("none")),
    st.builds(NodeHeld, nodes, attempts, st.just(1.0)),
    st.builds(NodeCut, nodes, attempts, st.just(2.0)),
    st.builds(NodeReleased, nodes, attempts, st.just(3.0), unbroken=st.booleans()),
    st.builds(NodeRefused, nodes, attempts, st.just("source"), st.just("no")),
    st.builds(AttemptSuperseded, attempts),
    st.builds(CutRecorded, attempts),
    st.builds(CaptureUnknown, captures),
    st.builds(CaptureRefused, captures, st.just("source"), st.just("gone")),
    st.builds(PartFinished, captures),
    st.just(SessionSealed()),
    st.just(SessionRejected("deadline", "late")),
    st.builds(Ticked, st.sampled_from((0.0, 19.9, 20.0))),
)
#: Mostly what a good run gives, in any order and number, with strangers in between.
_broken = [NodeReleased(node, ATTEMPT, 3.0, unbroken=False) for node in NODES]
_mixed = st.lists(st.one_of(st.sampled_from([*steps(), *_broken]), any_fact), max_size=12)
#: A good run up to some step, then anything, then the rest of the run from some step on: so that
#: what goes wrong goes wrong in every phase.
histories = st.builds(
    lambda end, mixed, begin: [*steps()[:end], *mixed, *steps()[begin:]],
    st.integers(0, len(steps())),
    _mixed,
    st.integers(0, len(steps())),
)


@dataclass
class Oracle:
    """What a session has seen, as plain sets; written without a look at phases."""

    seen: dict[str, set[str]] = field(default_factory=dict)
    broken: bool = False
    recorded: bool = False

    def did(self, step: str) -> bool:
        return self.seen.get(step, set()) >= set(NODES)

    def note(self, fact: Fact) -> None:
        ours = getattr(fact, "attempt", ATTEMPT) == ATTEMPT and getattr(fact, "node", "a") in NODES
        if not ours:
            return
        order = {NodePrepared: "prepare", NodeHeld: "hold", NodeCut: "cut", NodeReleased: "release"}
        step = order.get(type(fact))
        needs = {"prepare": "", "hold": "prepare", "cut": "hold", "release": "cut"}
        if isinstance(fact, NodeReleased):
            early = self.did("prepare") and not self.did("cut")
            bad = early or (self.did("cut") and not self.did("release") and not fact.unbroken)
            self.broken = self.broken or bad
        if step and (not needs[step] or self.did(needs[step])) and not self.broken:
            self.seen.setdefault(step, set()).add(fact.node)  # type: ignore[union-attr]  # these four have a node
        if isinstance(fact, CutRecorded) and self.did("release"):
            self.recorded = True


@given(histories)
def test_each_step_waits_until_every_node_has_done_the_one_before(history: list[Fact]) -> None:
    state, oracle = requested(), Oracle()
    for fact in history:
        commands = decide(state, fact)
        state = evolve(state, fact)
        oracle.note(fact)
        for command in commands:
            match command:
                case HoldNode():
                    assert oracle.did("prepare")
                case CutNode():
                    assert oracle.did("hold")
                case ReleaseNode(abandoned=False):
                    assert oracle.did("cut")
                case RecordCut():
                    assert oracle.did("release")
                    assert not oracle.broken
                case CaptureVolume():
                    assert oracle.recorded
                    assert not oracle.broken


@given(histories)
def test_a_broken_hold_never_becomes_a_cut(history: list[Fact]) -> None:
    oracle = Oracle()
    for fact in history:
        oracle.note(fact)
    state, commands = run(requested(), history)
    recorded = any(isinstance(command, RecordCut) for command in commands)
    if oracle.broken:
        assert not recorded
        assert state.phase in ENDED
    if recorded:
        last = [c for c in commands if isinstance(c, RecordCut)][-1]
        assert all(member.unbroken for member in last.members.values())
        assert set(last.members) == set(NODES)


@given(histories)
def test_whoever_was_told_to_hold_is_told_to_release_in_every_ending(history: list[Fact]) -> None:
    state, commands = run(requested(), history)
    held = {c.node for c in commands if isinstance(c, HoldNode)}
    released = {c.node for c in commands if isinstance(c, ReleaseNode)}
    if state.phase in ENDED or state.phase >= Phase.CUT:
        assert held <= released
    state, more = run(state, [Ticked(UNTIL)])  # nothing else came: the time ends it
    released |= {c.node for c in more if isinstance(c, ReleaseNode)}
    assert held <= released


@given(histories, histories)
def test_after_the_end_there_is_nothing_but_releases(history: list[Fact], late: list[Fact]) -> None:
    ended, _ = run(requested(), [*history, SessionRejected("deadline", "late")])
    state, commands = run(ended, late)
    assert state == ended
    assert all(isinstance(command, ReleaseNode) for command in commands)


@given(histories, any_fact)
def test_a_fact_that_comes_twice_changes_nothing_the_second_time(
    history: list[Fact], fact: Fact
) -> None:
    state, _ = run(requested(), history)
    once = evolve(state, fact)
    if once.phase == state.phase:  # else the next phase may give the repetition another meaning
        assert evolve(once, fact) == once
    if isinstance(fact, NodePrepared | NodeHeld | NodeCut | CutRecorded | PartFinished):
        assert evolve(once, fact) == once
        assert decide(once, fact) == []


@given(histories, st.sampled_from((ATTEMPT - 1, ATTEMPT + 1)))
def test_answers_of_another_attempt_change_nothing(history: list[Fact], attempt: int) -> None:
    state, _ = run(requested(), history)
    again, commands = run(state, steps(attempt=attempt))
    assert again == state
    assert commands == []


@given(st.integers(0, 2**32), st.data())
def test_nodes_that_answer_some_day_reach_the_cut_whatever_is_lost(
    seed: int, data: st.DataObject
) -> None:
    """Orders and answers are lost and repeated; the ticks of a driver bring everything through."""
    state = requested()
    facts: list[Fact] = []
    for round_ in range(200):
        commands = outstanding(state) if round_ == 0 else decide(state, Ticked(1.0))
        for command in commands:
            answer = answer_to(command)
            if data.draw(st.booleans()) or round_ > 20:
                facts += [answer] * data.draw(st.integers(1, 2))
        while facts:
            state = evolve(state, facts.pop(seed % len(facts)))
        if state.phase is Phase.SEALING:
            break
    assert state.phase is Phase.SEALING


def answer_to(command: Command) -> Fact:  # noqa: PLR0911 -- one answer per command
    """What an honest node or catalog answers."""
    match command:
        case PrepareNode(node):
            return NodePrepared(node, ATTEMPT, "fsfreeze")
        case HoldNode(node):
            return NodeHeld(node, ATTEMPT, 1.0)
        case CutNode(node):
            return NodeCut(node, ATTEMPT, 2.0)
        case ReleaseNode(node):
            return NodeReleased(node, ATTEMPT, 3.0, unbroken=True)
        case RecordCut():
            return CutRecorded(ATTEMPT)
        case CaptureVolume(capture):
            return PartFinished(capture)
        case Reject(code, message):
            return SessionRejected(code, message)


def test_the_good_run_commands_each_step_once_and_in_order() -> None:
    state, commands = run(requested(), steps())
    names = [type(command).__name__ for command in commands]
    assert names == [
        *["HoldNode"] * 2,
        *["CutNode"] * 2,
        *["ReleaseNode"] * 2,
        "RecordCut",
        *["CaptureVolume"] * 3,
    ]
    state, commands = run(state, [PartFinished(capture) for capture in CAPTURES])
    assert (state.phase, commands) == (Phase.SEALING, [])
    assert evolve(state, SessionSealed()).phase is Phase.SEALED


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_barrier_that_is_late_names_who_is_missing_and_releases_all(count: int) -> None:
    state, _ = run(requested(), steps()[:count])
    commands = decide(state, Ticked(UNTIL))
    assert isinstance(commands[0], Reject)
    assert commands[0].code == "barrier-late"
    missing = commands[0].message.split("missing: ")[1].split(".")[0]
    assert missing == ("a, b" if count % 2 == 0 else "b")
    assert commands[1:] == [ReleaseNode(node, abandoned=True) for node in NODES]


def test_a_refusal_names_its_node_and_releases_the_others() -> None:
    state, _ = run(requested(), steps()[:3])
    commands = decide(state, NodeRefused("b", ATTEMPT, "source", "it is frozen already"))
    assert commands[0] == Reject("source", "node b: it is frozen already")
    assert commands[1:] == [ReleaseNode(node, abandoned=True) for node in NODES]


def test_a_session_without_a_barrier_begins_with_its_captures() -> None:
    parts = {CAPTURES[0]: Part("one", "a")}
    state = without_barrier(SESSION, 0, parts)
    assert outstanding(state) == [CaptureVolume(CAPTURES[0])]
    assert decide(state, CaptureUnknown(CAPTURES[0])) == [CaptureVolume(CAPTURES[0])]


def test_a_capture_that_its_agent_lost_after_a_chunker_took_it_ends_the_session() -> None:
    parts = {CAPTURES[0]: Part("one", "a", taken=True)}
    commands = decide(without_barrier(SESSION, 0, parts), CaptureUnknown(CAPTURES[0]))
    assert commands == [
        Reject(
            "agent-restarted",
            "volume one: the agent on node a was restarted; take the snapshot again",
        )
    ]


@pytest.mark.parametrize("number", range(len(NODES)))
def test_one_broken_hold_rejects_the_cut_of_all(number: int) -> None:
    """Scenario 18: whichever node says so, and whatever the others say before and after it."""
    releases = [
        NodeReleased(node, ATTEMPT, 3.0, unbroken=at != number) for at, node in enumerate(NODES)
    ]
    state, commands = run(requested(), [*steps()[:6], *releases, CutRecorded(ATTEMPT)])
    assert (state.phase, state.code) == (Phase.REJECTED, "hold-broken")
    assert NODES[number] in state.message
    assert not any(isinstance(command, RecordCut | CaptureVolume) for command in commands)


@pytest.mark.parametrize("count", [2, 4])
def test_a_node_that_releases_without_being_told_has_broken_its_hold(count: int) -> None:
    state, _ = run(requested(), steps()[:count])
    released = NodeReleased("a", ATTEMPT, 3.0, unbroken=True)
    assert evolve(state, released).code == "hold-broken"
