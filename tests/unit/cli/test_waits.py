"""Whoever waits is told for whom: of a server that is silent, and of one that is tried again."""

import threading
from pathlib import Path

import pytest

from libs.errors import NotFoundError, TooManyRequestsError, UnavailableError
from services.cli.waits import TELL_SECONDS, Waits
from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script

SECONDS_MAX = 60.0
RESTORES = ("POST", "/v1/tenants/default/volumes/vm/points/latest/restores")


class Told:
    """Lines that were told, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.any = threading.Event()
        self.waits = Waits(self._tell, lambda: self.now)

    def _tell(self, line: str) -> None:
        self.lines.append(line)
        self.any.set()

    def ask(self, *, fails: str = "", who: str = "A") -> None:
        try:
            with self.waits.asking(who, "GET /v1"):
                if fails:
                    raise UnavailableError(fails)
        except UnavailableError:
            pass


def test_a_request_without_an_answer_is_told_while_it_lasts() -> None:
    told = Told()
    told.waits = Waits(told._tell)
    with told.waits.asking("A", "GET /v1"):
        assert told.any.wait(SECONDS_MAX)
        assert told.lines == ["waiting: A has not answered yet to GET /v1"]
    assert told.lines[1:] == ["A answers again"]


def test_a_server_that_is_tried_again_is_told_once_with_its_reason() -> None:
    told = Told()
    for _ in range(10):
        told.ask(fails="Postgres is away")
        told.now += 0.4
    assert told.lines == ["waiting: Postgres is away"]
    told.ask()
    assert told.lines[1:] == ["A answers again"]
    told.ask(fails="away again")
    told.now += TELL_SECONDS
    told.ask(fails="away again")
    assert told.lines[2:] == ["waiting: away again"]


def test_nothing_is_told_of_servers_that_answer() -> None:
    told = Told()
    for error in (NotFoundError("none"), TooManyRequestsError("too much"), None):
        told.now += 10
        try:
            with told.waits.asking("A", "GET /v1"):
                if error:
                    raise error
        except (NotFoundError, TooManyRequestsError):
            pass
    told.ask(fails="once")
    told.ask(who="B")
    told.now += 10
    told.ask(who="B")
    assert told.lines == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_restore_that_cannot_begin_says_whom_it_waits_for(
    backcast: Backcast, script: Script, tmp_path: Path, as_json: bool
) -> None:
    script[RESTORES] = [*[(503, "unavailable")] * 6, (404, "not-found")]
    options = ["--json"] if as_json else []
    ran = backcast("restore", "vm@latest", str(tmp_path / "out"), *options)
    assert ran.status == 3
    told = [line for line in ran.err.splitlines() if "waiting: unavailable, as scripted" in line]
    assert len(told) == (0 if as_json else 1)
