"""When the parts of a session at one chunker are finished."""

from uuid import UUID

import pytest

from libs.catalogdb.sessions.session import SessionView
from services.chunker.parts.together import SessionParts

U, V, W = (UUID(int=number) for number in (1, 2, 3))
#: Attempts at these parts, and a later one at the first.
A, B, C, LATER = (UUID(int=number) for number in (11, 12, 13, 14))
#: A part that is through waits so many rounds for others.
ROUNDS = 5


@pytest.fixture
def parts() -> SessionParts[str]:
    view: SessionView = None  # type: ignore[assignment]  # nothing of it is asked
    made: SessionParts[str] = SessionParts(view)
    made.begin(U, A)
    made.begin(V, B)
    return made


def test_all_are_due_when_the_last_one_is_through(parts: SessionParts[str]) -> None:
    assert parts.through(A, "u") == []
    assert parts.through(B, "v") == ["u", "v"]
    assert parts.is_empty


def test_what_is_due_is_told_once(parts: SessionParts[str]) -> None:
    parts.through(A, "u")
    parts.through(B, "v")
    assert parts.leave(A) == parts.leave(B) == []
    assert parts.waited() == []


def test_the_others_are_due_when_one_leaves(parts: SessionParts[str]) -> None:
    parts.through(A, "u")
    assert parts.leave(B) == ["u"]


def test_one_that_left_is_not_due(parts: SessionParts[str]) -> None:
    parts.through(A, "u")
    parts.leave(A)
    assert parts.through(B, "v") == ["v"]


def test_a_part_that_was_dropped_is_not_through(parts: SessionParts[str]) -> None:
    parts.leave(A)
    assert parts.through(A, "u") == []
    assert parts.through(B, "v") == ["v"]


def test_an_expected_capture_is_waited_for(parts: SessionParts[str]) -> None:
    parts.reserve({W: C})
    assert parts.reserved() == {W: C}
    parts.through(A, "u")
    assert parts.through(B, "v") == []
    parts.begin(W, C)
    assert parts.reserved() == {}
    assert parts.through(C, "w") == ["u", "v", "w"]


def test_nobody_waits_longer_than_some_rounds(parts: SessionParts[str]) -> None:
    assert [parts.waited() for _ in range(2 * ROUNDS)] == [[]] * 2 * ROUNDS  # nobody is through
    parts.through(A, "u")
    assert [parts.waited() for _ in range(ROUNDS)] == [[]] * (ROUNDS - 1) + [["u"]]
    assert parts.waited() == []
    assert parts.through(B, "v") == ["v"]


def test_an_attempt_that_is_over_takes_nothing_from_a_later_one(parts: SessionParts[str]) -> None:
    parts.begin(U, LATER)
    parts.leave(A)
    assert parts.through(A, "old") == []
    assert parts.through(B, "v") == []
    assert parts.leave(A) == []
    assert parts.through(LATER, "u") == ["v", "u"]


def test_a_capture_that_is_expected_anew_is_not_forgotten_with_an_earlier_attempt(
    parts: SessionParts[str],
) -> None:
    parts.reserve({W: C})
    parts.reserve({W: LATER})
    parts.leave(C)
    assert parts.reserved() == {W: LATER}
