"""Captures that are expected are looked up by the session that their event names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from services.chunker.parts.attempts import Attempts
from services.chunker.parts.together import Reserved, SessionParts

SESSION_COUNT = 1000


@dataclass(frozen=True)
class View:
    """As much of a session as is asked for."""

    session: UUID


@pytest.fixture
def attempts() -> Attempts:
    """Each of many sessions expects the capture with its number; no attempt is in work."""
    nothing: Any = None  # what works on parts
    made = Attempts(nothing, nothing, nothing, nothing, 1)
    for number in range(SESSION_COUNT):
        made.reserve(view(number), {capture(number): attempt(number)})
    return made


def view(number: int) -> Any:
    return View(UUID(int=1 << 64 | number))


def capture(number: int) -> UUID:
    return UUID(int=2 << 64 | number)


def attempt(number: int) -> UUID:
    return UUID(int=3 << 64 | number)


def test_an_expected_capture_is_found_in_its_session_alone(attempts: Attempts) -> None:
    assert attempts.reserved(view(7).session, capture(7)) == Reserved(attempt(7), view(7))
    assert attempts.reserved(view(8).session, capture(7)) is None
    assert attempts.reserved(view(SESSION_COUNT).session, capture(7)) is None


def test_no_other_session_is_looked_at(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[UUID] = []
    look = SessionParts.reserved

    def noting(parts: SessionParts[Any]) -> Mapping[UUID, UUID]:
        looked_at.append(parts.view.session)
        return look(parts)

    monkeypatch.setattr(SessionParts, "reserved", noting)
    attempts.reserved(view(900).session, capture(900))
    assert looked_at == [view(900).session]
