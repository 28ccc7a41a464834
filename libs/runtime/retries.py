"""Trying again: for calls that are safe to repeat and fail with an error that says it may help."""

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from libs.errors import BackcastError, OutOfSpaceError, UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

_WAIT_SECONDS_FIRST = 0.1
_WAIT_SECONDS_MAX = 5.0


def retried(
    call: Callable[[], T],
    total_seconds_max: float = 60.0,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call until it succeeds, fails for good, or the time is over; waits grow and are jittered.

    Who is told when to ask again (`UnavailableError.retry_after_seconds`) waits for so long first.

    `OutOfSpaceError` passes at once, here as in `libs.store.retrying`: space does not come back
    within seconds, and whoever waits shall read why, not that a deadline has passed meanwhile.

    Args:
        call: may be made again, whatever became of earlier tries.
        total_seconds_max: no try begins later than this.
        clock: monotonic seconds.
        sleep: waits.

    Raises:
        BackcastError: the last error, if it is not retriable or the time is over.
    """
    begun, wait = clock(), _WAIT_SECONDS_FIRST
    while True:
        try:
            return call()
        except BackcastError as err:
            final = not err.retriable or isinstance(err, OutOfSpaceError)
            told = err.retry_after_seconds if isinstance(err, UnavailableError) else None
            pause = wait + (told or 0.0)
            if final or clock() - begun + pause > total_seconds_max:
                raise
        sleep(random.uniform(pause - wait / 2, pause))  # noqa: S311 -- spreads load, keeps no secret
        wait = min(2 * wait, _WAIT_SECONDS_MAX)


def tried_again(total_seconds_max: float = 60.0) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Declare that a function may be called again, whatever became of earlier tries.

    Each call of it is `retried` for so long.
    """

    def declare(call: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(call)
        def patient(*args: P.args, **kwargs: P.kwargs) -> T:
            return retried(lambda: call(*args, **kwargs), total_seconds_max)

        return patient

    return declare
