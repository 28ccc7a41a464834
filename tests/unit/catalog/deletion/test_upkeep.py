"""The loop of upkeep: who asks for a pass gets one that begins afterwards, and learns its end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from libs.errors import InvariantViolation, UnavailableError
from libs.ids import uuid7
from libs.runtime.health import Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.signals import Stop
from services.catalog.deletion.rewriter import Rewriter, RewriteTally
from services.catalog.deletion.sweeper import Sweeper, SweepTally
from services.catalog.deletion.upkeep import Upkeep

SECONDS_MAX = 20
#: The first pass, which nobody asks for, is over long before.
INTERVAL_SECONDS = 3600


class Work:
    """Stands for a sweeper or a rewriter; each run waits until it may go on."""

    def __init__(self) -> None:
        self.runs = 0
        self.failure: Exception | None = None
        self.began, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, stopping: Callable[[], bool], _: Callable[[], None], tally: Any) -> Any:
        self.runs += 1
        self.began.release()
        assert self.may_go_on.acquire(timeout=SECONDS_MAX)
        if self.failure:
            raise self.failure
        if isinstance(tally, SweepTally):
            tally.packs += 1
        if isinstance(tally, RewriteTally):
            tally.rewritten += 1
        return tally


class Running:
    """A loop in a thread, whose sweep waits for the test."""

    def __init__(self) -> None:
        self.sweeping, self.rewriting = Work(), Work()
        self.upkeep = Upkeep(cast("Sweeper", self.sweeping), cast("Rewriter", self.rewriting))
        self.stop = Stop()

    def start(self) -> None:
        loop = Loop("upkeep", self.upkeep.round, INTERVAL_SECONDS, wake=self.upkeep.wake)
        (self.thread,) = start_loops([loop], Health(), self.stop)

    def sweep_begins(self) -> None:
        assert self.sweeping.began.acquire(timeout=SECONDS_MAX)

    def goes_on(self) -> None:
        self.rewriting.may_go_on.release()
        self.sweeping.may_go_on.release()


@contextmanager
def running() -> Iterator[Running]:
    """The loop, in the middle of the first pass."""
    loop = Running()
    loop.start()
    loop.sweep_begins()
    yield loop
    loop.stop.request()
    for _ in range(5):
        loop.goes_on()
    loop.thread.join(SECONDS_MAX)
    assert not loop.thread.is_alive()


def test_who_asks_gets_a_pass_that_begins_afterwards_without_waiting_for_the_interval() -> None:
    with running() as loop:
        asked = loop.upkeep.ask(uuid7())
        assert asked.state == "waiting"
        loop.goes_on()
        loop.sweep_begins()
        assert (asked.state, asked.swept.packs) == ("sweeping", 0)
        loop.goes_on()
        assert asked.ended.wait(SECONDS_MAX)
        assert (asked.state, asked.swept.packs, asked.rewritten.rewritten) == ("done", 1, 1)
        assert loop.sweeping.runs == 2


def test_a_loop_at_rest_is_woken() -> None:
    with running() as loop:
        loop.goes_on()
        assert loop.rewriting.began.acquire(timeout=SECONDS_MAX)
        asked = loop.upkeep.ask(uuid7())
        loop.goes_on()
        assert asked.ended.wait(SECONDS_MAX)


def test_all_who_ask_before_a_pass_begins_share_it() -> None:
    with running() as loop:
        first, second = loop.upkeep.ask(uuid7()), loop.upkeep.ask(uuid7())
        assert first is second
        loop.goes_on()
        loop.sweep_begins()
        assert loop.upkeep.ask(uuid7()) is not first


def test_the_same_id_is_the_same_pass_also_when_it_is_over() -> None:
    with running() as loop:
        id_ = uuid7()
        asked = loop.upkeep.ask(id_)
        loop.goes_on()
        loop.goes_on()
        assert asked.ended.wait(SECONDS_MAX)
        assert loop.upkeep.ask(id_) is asked


def test_packs_are_rewritten_although_the_sweep_was_put_off() -> None:
    with running() as loop:
        asked = loop.upkeep.ask(uuid7())
        loop.goes_on()
        loop.sweep_begins()
        loop.sweeping.failure = UnavailableError("no store")
        loop.goes_on()
        assert asked.ended.wait(SECONDS_MAX)
        assert (asked.state, asked.rewritten.rewritten) == ("failed", 1)
        assert asked.failure is loop.sweeping.failure


def test_who_asked_is_told_also_of_an_error_that_nobody_foresaw() -> None:
    with running() as loop:
        asked = loop.upkeep.ask(uuid7())
        loop.goes_on()
        loop.sweep_begins()
        loop.sweeping.failure = ValueError("a bug")
        loop.goes_on()
        assert asked.ended.wait(SECONDS_MAX)
        assert asked.state == "failed"
        assert isinstance(asked.failure, InvariantViolation)
        assert "ValueError" in str(asked.failure)
        loop.sweeping.failure = None
        again = loop.upkeep.ask(uuid7())
        loop.sweep_begins()
        loop.goes_on()
        assert again.ended.wait(SECONDS_MAX)
        assert again.state == "done"


def test_a_pass_that_a_stop_cuts_short_has_no_end() -> None:
    """Whoever waits for it asks the next process, which begins another."""
    with running() as loop:
        asked = loop.upkeep.ask(uuid7())
        loop.goes_on()
        loop.sweep_begins()
    assert not asked.ended.is_set()
