"""A session with volumes that several nodes write: followers connect before anybody holds."""

import itertools
from uuid import UUID

import pytest

from services.change_capture.coordinator.commands import (
    Command,
    FollowLeads,
    HoldNode,
    PrepareNode,
    Reject,
    ReleaseNode,
)
from services.change_capture.coordinator.facts import (
    Fact,
    NodeFollowing,
    NodePrepared,
    NodeRefused,
    Ticked,
)
from services.change_capture.coordinator.session import (
    Part,
    Phase,
    Session,
    decide,
    evolve,
    outstanding,
    with_barrier,
)

SESSION, ATTEMPT, UNTIL = UUID(int=1), 2, 20.0
#: Each of two nodes leads one volume and follows the other; a third one follows both.
FIRST, SECOND = UUID(int=10), UUID(int=11)
PARTS = {
    UUID(int=20): Part("first", "a", volume_id=FIRST, followers=frozenset("bc")),
    UUID(int=21): Part("second", "b", volume_id=SECOND, followers=frozenset("ac")),
}
PREPARED: list[Fact] = [
    NodePrepared("a", ATTEMPT, "filter", {FIRST: "host-a:1"}),
    NodePrepared("b", ATTEMPT, "filter", {SECOND: "host-b:1"}),
    NodePrepared("c", ATTEMPT, "filter"),
]
FOLLOWING: list[Fact] = [NodeFollowing(node, ATTEMPT) for node in "abc"]


def requested() -> Session:
    return with_barrier(SESSION, ATTEMPT, frozenset("abc"), PARTS, UNTIL)


def run(state: Session, facts: list[Fact]) -> tuple[Session, list[Command]]:
    commands = []
    for fact in facts:
        commands += decide(state, fact)
        state = evolve(state, fact)
    return state, commands


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_nobody_holds_before_every_follower_is_connected(order: tuple[int, ...]) -> None:
    opened, commands = run(requested(), [PREPARED[number] for number in order])
    assert opened.phase is Phase.OPENED
    told = {one.node: one.leads for one in commands if isinstance(one, FollowLeads)}
    assert told == {
        "a": {SECOND: "host-b:1"},
        "b": {FIRST: "host-a:1"},
        "c": {FIRST: "host-a:1", SECOND: "host-b:1"},
    }
    assert not any(isinstance(one, HoldNode) for one in commands)
    facts = [FOLLOWING[number] for number in order]
    most, commands = run(opened, facts[:2])
    assert (most.phase, commands) == (Phase.OPENED, [])
    assert [one.node for one in outstanding(most)] == ["abc"[order[2]]]  # type: ignore[union-attr]  # of this phase
    prepared, commands = run(most, facts[2:])
    assert prepared.phase is Phase.PREPARED
    assert commands == [HoldNode("a"), HoldNode("b"), HoldNode("c")]


def test_a_follower_says_nothing_before_it_is_asked_and_nothing_of_another_attempt() -> None:
    state, commands = run(requested(), FOLLOWING)
    assert (state, commands) == (requested(), [])
    opened, _ = run(state, PREPARED)
    assert run(opened, [NodeFollowing("c", ATTEMPT - 1)]) == (opened, [])


def test_a_lead_that_says_not_where_it_is_rejects_the_session() -> None:
    rejected, commands = run(requested(), [NodePrepared("a", ATTEMPT, "filter"), *PREPARED[1:]])
    assert rejected.phase is Phase.REJECTED
    assert "node a" in rejected.message
    assert [one for one in commands if isinstance(one, Reject)]


def test_a_follower_that_cannot_connect_rejects_the_session_and_all_are_released() -> None:
    opened, _ = run(requested(), PREPARED)
    rejected, commands = run(opened, [NodeRefused("c", ATTEMPT, "source", "no route")])
    assert (rejected.phase, rejected.code) == (Phase.REJECTED, "source")
    assert [one.node for one in commands if isinstance(one, ReleaseNode)] == ["a", "b", "c"]


def test_of_the_late_nodes_those_are_named_that_are_not_connected() -> None:
    opened, _ = run(requested(), [*PREPARED, FOLLOWING[0]])
    late, _ = run(opened, [Ticked(UNTIL)])
    assert late.code == "barrier-late"
    assert "missing: b, c." in late.message


def test_what_was_not_answered_is_ordered_again() -> None:
    assert [type(one) for one in decide(requested(), Ticked(0))] == [PrepareNode] * 3
    opened, _ = run(requested(), PREPARED)
    assert [type(one) for one in decide(opened, Ticked(0))] == [FollowLeads] * 3
