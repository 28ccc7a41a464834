"""Several questions at once, of which one has no answer."""

import threading

import pytest

from libs.errors import NotFoundError, UnavailableError
from services.cli.commands.health.asking import ask_at_once


def test_questions_are_asked_side_by_side() -> None:
    both = threading.Barrier(2, timeout=60)
    found = ask_at_once({"one": both.wait, "two": both.wait}, 60)
    assert set(found.values()) == {0, 1}


def test_what_has_no_answer_in_time_is_left_alone() -> None:
    never = threading.Event()
    found = ask_at_once({"never": never.wait}, 0.05)
    never.set()
    assert isinstance(found["never"], UnavailableError)
    assert str(found["never"]) == "no answer within 0.05 s"


def test_a_refusal_is_an_answer_and_a_bug_is_none() -> None:
    def refuse() -> None:
        raise NotFoundError("no such tenant")

    def break_down() -> None:
        raise ValueError("a bug")

    assert isinstance(ask_at_once({"it": refuse}, 60)["it"], NotFoundError)
    with pytest.raises(ValueError, match="a bug"):
        ask_at_once({"it": break_down}, 60)
