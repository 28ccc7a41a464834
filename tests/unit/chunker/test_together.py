"""When the parts of a session at one chunker are finished."""

from uuid import UUID

import pytest

from libs.catalogdb.sessions.session import SessionView
from services.chunker.parts.together import SessionParts

U, V, W = (UUID(int=number) for number in (1, 2, 3))
#: A part that is through waits so many rounds for others.
ROUNDS = 5


@pytest.fixture
def parts() -> SessionParts[str]:
    view: SessionView = None  # type: ignore[assignment]  # nothing of it is asked
    made: SessionParts[str] = SessionParts(view)
    made.begin(U)
    made.begin(V)
    return made


def test_all_are_due_when_the_last_one_is_through(parts: SessionParts[str]) -> None:
    assert parts.through(U, "u") == []
    assert parts.through(V, "v") == ["u", "v"]
    assert parts.is_empty


def test_what_is_due_is_told_once(parts: SessionParts[str]) -> None:
    parts.through(U, "u")
    parts.through(V, "v")
    assert parts.leave(U) == parts.leave(V) == []
    assert parts.waited() == []


def test_the_others_are_due_when_one_leaves(parts: SessionParts[str]) -> None:
    parts.through(U, "u")
    assert parts.leave(V) == ["u"]


def test_one_that_left_is_not_due(parts: SessionParts[str]) -> None:
    parts.through(U, "u")
    parts.leave(U)
    assert parts.through(V, "v") == ["v"]


def test_a_part_that_was_dropped_is_not_through(parts: SessionParts[str]) -> None:
    parts.leave(U)
    assert parts.through(U, "u") == []
    assert parts.through(V, "v") == ["v"]


def test_an_expected_capture_is_waited_for(parts: SessionParts[str]) -> None:
    parts.reserve({W: UUID(int=9)})
    assert parts.reserved() == {W: UUID(int=9)}
    parts.through(U, "u")
    assert parts.through(V, "v") == []
    parts.begin(W)
    assert parts.reserved() == {}
    assert parts.through(W, "w") == ["u", "v", "w"]


def test_nobody_waits_longer_than_some_rounds(parts: SessionParts[str]) -> None:
    assert [parts.waited() for _ in range(2 * ROUNDS)] == [[]] * 2 * ROUNDS  # nobody is through
    parts.through(U, "u")
    assert [parts.waited() for _ in range(ROUNDS)] == [[]] * (ROUNDS - 1) + [["u"]]
    assert parts.waited() == []
    assert parts.through(V, "v") == ["v"]
