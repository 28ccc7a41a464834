"""No loop ends alone: whatever its round raises is logged at once, and the next round comes."""

import logging
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from deploy.local.process import wait_until
from libs.errors import InvariantViolation, UnavailableError
from libs.runtime import loops
from libs.runtime.health import Check, Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.signals import Stop

SECONDS_MAX = 20


class Rounds:
    """A loop's rounds, which end as the test says."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None
        self.health, self.stop = Health(), Stop()
        self.health.started()

    def round(self, _stop: Stop, progressed: Callable[[], None]) -> None:
        self.count += 1
        progressed()
        if self.failure:
            raise self.failure

    def go_round(self) -> None:
        """Return after another whole round."""
        begun = self.count
        assert wait_until(lambda: self.count > begun + 1, SECONDS_MAX), "no round came"

    def check(self) -> Check:
        (found,) = (check for check in self.health.ready() if check.name == "one")
        return found


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rounds]:
    monkeypatch.setattr(loops, "_PAUSE_SECONDS_FIRST", 0.001)
    monkeypatch.setattr(loops, "_PAUSE_SECONDS_MAX", 0.01)
    rounds = Rounds()
    threads = start_loops([Loop("one", rounds.round, 0.001)], rounds.health, rounds.stop)
    yield rounds
    rounds.stop.request()
    for thread in threads:
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()


@pytest.mark.parametrize("failure", [ValueError("a bug"), InvariantViolation("two heads")])
def test_an_error_that_nobody_foresaw_is_logged_at_once_and_the_loop_goes_on(
    rounds: Rounds, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    rounds.go_round()
    assert rounds.check().ok
    rounds.failure = failure
    rounds.go_round()
    told = [record for record in caplog.records if record.message == "round failed"]
    assert told[0].levelno == logging.CRITICAL
    assert told[0].exc_info
    assert told[0].exc_info[1] is failure
    check = rounds.check()
    assert (check.ok, check.is_needed) == (False, True)
    assert str(failure) in check.detail
    assert str(failure) not in check.reason
    assert type(failure).__name__ in check.reason
    rounds.failure = None
    rounds.go_round()
    assert rounds.check().ok


def test_a_round_that_is_put_off_is_told_and_leaves_the_process_ready(
    rounds: Rounds, caplog: pytest.LogCaptureFixture
) -> None:
    rounds.failure = UnavailableError("no Kafka")
    rounds.go_round()
    told = rounds.check()
    assert (told.ok, told.is_needed) == (False, False)
    assert told.reason == "its last round was put off (unavailable); the log says why"
    assert told.detail == "no Kafka"
    assert all(check.ok for check in rounds.health.alive())
    assert "round put off" in caplog.messages
    assert "round failed" not in caplog.messages
    rounds.failure = None
    rounds.go_round()
    assert rounds.check().ok


def test_a_round_that_lasts_works_as_soon_as_it_makes_progress() -> None:
    health, stop, failures = Health(), Stop(), iter([ValueError("a bug")])
    health.started()

    def last(stop: Stop, progressed: Callable[[], None]) -> None:
        for failure in failures:
            raise failure
        progressed()
        stop.wait(SECONDS_MAX)

    (thread,) = start_loops([Loop("one", last, 0.001, lasting=True)], health, stop)
    assert wait_until(lambda: not all(check.ok for check in health.ready()), SECONDS_MAX)
    assert wait_until(lambda: all(check.ok for check in health.ready()), SECONDS_MAX)
    stop.request()
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()


def test_pauses_after_failures_grow_up_to_the_interval_or_half_a_minute() -> None:
    pauses = [loops._pause_seconds(failures, 1) for failures in range(7)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert loops._pause_seconds(10_000, 21_600) == 21_600


def test_a_loop_is_woken_before_its_round_is_due_and_by_a_stop() -> None:
    rounds, wake = Rounds(), threading.Event()
    loop = Loop("one", rounds.round, 3600, wake=wake)
    (thread,) = start_loops([loop], rounds.health, rounds.stop)
    assert wait_until(lambda: rounds.count == 1, SECONDS_MAX)
    wake.set()
    assert wait_until(lambda: rounds.count > 1, SECONDS_MAX)
    wake.clear()
    rounds.stop.request()
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()


@pytest.mark.parametrize("background", [False, True])
def test_only_a_loop_in_the_background_gives_way(background: bool) -> None:
    seen: list[int] = []

    def look(stop: Stop, _progressed: Callable[[], None]) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        stop.request()

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    (thread,) = start_loops([Loop("one", look, 1, background=background)], Health(), Stop())
    thread.join(20)
    assert seen[0] == (min(mine + 10, 19) if background else mine)
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


@pytest.mark.parametrize(("mine", "expected"), [(12, 19), (5, 15)])
def test_a_loop_in_the_background_is_nicer_than_a_process_that_is_nice(
    mine: int, expected: int
) -> None:
    """As when a supervisor or `nice` starts the process: an absolute number would speed it up."""
    seen: list[int] = []

    def look(stop: Stop, _progressed: Callable[[], None]) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        stop.request()

    def start() -> None:
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, max(mine, os.getpriority(os.PRIO_PROCESS, own)))
        (loop,) = start_loops([Loop("one", look, 1, background=True)], Health(), Stop())
        loop.join(SECONDS_MAX)

    starting = threading.Thread(target=start)
    starting.start()
    starting.join(SECONDS_MAX)
    at_start = max(mine, os.getpriority(os.PRIO_PROCESS, 0))
    assert seen == [max(expected, min(at_start + 10, 19))]
