import pytest

from libs.errors import (
    BackcastError,
    BadInputError,
    OutOfSpaceError,
    TooManyRequestsError,
    UnavailableError,
)
from libs.runtime.retries import retried, tried_again
from tests.support.clock import SleepingClock


def failing(count: int, error: BackcastError, clock: SleepingClock, seconds: float = 0.0) -> object:
    """A call that fails ``count`` times, takes so long each time, and then returns its tries."""
    tries = 0

    def call() -> int:
        nonlocal tries
        tries += 1
        clock.now += seconds
        if tries <= count:
            raise error
        return tries

    return call


def run(call: object, clock: SleepingClock, total_seconds_max: float = 60.0) -> int:
    found: int = retried(
        call,  # type: ignore[arg-type]  # a function
        total_seconds_max,
        clock=lambda: clock.now,
        sleep=clock.sleep,
    )
    return found


def test_a_retriable_error_is_tried_again_after_growing_waits() -> None:
    clock = SleepingClock()
    assert run(failing(5, UnavailableError("down"), clock), clock) == 6
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(clock.sleeps, bounds, strict=True))


@pytest.mark.parametrize("error", [BadInputError("no"), OutOfSpaceError("full")])
def test_an_error_that_would_come_again_is_raised_at_once(error: BackcastError) -> None:
    clock = SleepingClock()
    with pytest.raises(type(error)):
        run(failing(1, error, clock), clock)
    assert not clock.sleeps


def test_who_is_told_when_to_come_again_waits_for_so_long() -> None:
    clock, error = SleepingClock(), TooManyRequestsError("too much")
    error.retry_after_seconds = 7.0
    assert run(failing(2, error, clock), clock) == 3
    assert [7 <= wait <= 7.2 for wait in clock.sleeps] == [True, True]
    error.retry_after_seconds = 100.0
    with pytest.raises(TooManyRequestsError):
        run(failing(1, error, clock), clock)
    assert len(clock.sleeps) == 2


def test_it_gives_up_with_the_last_error_when_the_time_is_over() -> None:
    clock = SleepingClock()
    with pytest.raises(UnavailableError, match="down"):
        run(failing(10**6, UnavailableError("down"), clock), clock)
    assert 1_050 < clock.now <= 1_060
    assert max(clock.sleeps) <= 5


def test_a_call_that_itself_takes_the_time_is_not_repeated() -> None:
    clock = SleepingClock()
    with pytest.raises(UnavailableError):
        run(failing(1, UnavailableError("down"), clock, seconds=61), clock)
    assert not clock.sleeps


def test_what_is_declared_repeatable_is_tried_again_with_its_arguments() -> None:
    asked: list[tuple[str, int]] = []

    @tried_again(10)
    def ask(path: str, *, number: int) -> int:
        asked.append((path, number))
        if len(asked) < 2:
            raise UnavailableError("down")
        return number

    assert ask("/v1", number=7) == 7
    assert asked == [("/v1", 7)] * 2


def test_what_is_declared_repeatable_gives_up_when_its_time_is_over() -> None:
    tries = []

    @tried_again(0)
    def ask() -> None:
        tries.append(1)
        raise UnavailableError("down")

    with pytest.raises(UnavailableError):
        ask()
    assert len(tries) == 1
