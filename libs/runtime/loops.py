"""Loops of a service: each runs its rounds in a thread of its own, and none of them ends alone.

A round that raises is never the last one. Its reason is logged at once, then the next round begins
from what is durable:

* An expected error (a server is away, a disk is full) puts the round off until the next one is due.
  The loop counts as working, because a restart of the process would not bring that server back.
  `/readyz` tells of it.
* Any other exception is logged with its trace, and the next round comes after a pause that grows
  from 1 to 30 s, or to the interval where that is longer. The process is not ready until a round
  works. It is no longer alive once the loop's patience is over, so that a supervisor restarts it.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import BackcastError
from libs.runtime.health import Health, LoopHealth
from libs.runtime.signals import Stop
from libs.runtime.threads import is_expected, start_thread

log = logging.getLogger(__name__)

#: So much nicer than the rest of the process: a tenth of its share where processors are short.
_BACKGROUND_NICENESS_MORE = 10
#: As nice as Linux lets a thread be.
_NICENESS_MAX = 19
#: Pauses after exceptions that nobody foresaw: a passing cause costs a second, and a lasting one
#: fills no log.
_PAUSE_SECONDS_FIRST = 1.0
_PAUSE_SECONDS_MAX = 30.0

#: One round. It gets the stop, which it must heed, and a function to call while it makes progress.
Round = Callable[[Stop, Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class Loop:
    """Something that a service does again and again until it is asked to stop."""

    name: str
    round: Round
    #: Pause between two rounds.
    interval_seconds: float
    #: Pause after a round that was put off, where that is not the interval.
    again_seconds: float | None = None
    #: Longest time between two signs of progress besides the pause.
    patience_seconds: float = 300.0
    #: It can wait: whatever else wants a processor goes first.
    background: bool = False
    #: A round lasts until the stop: then each sign of progress says that it works.
    lasting: bool = False
    #: Set by whoever wants a round before it is due; the round clears it.
    wake: threading.Event | None = None


def start_loops(loops: list[Loop], health: Health, stop: Stop) -> list[threading.Thread]:
    """Start each in a thread of its own, which ends once the stop is requested."""
    threads = []
    for loop in loops:
        if loop.wake:
            stop.call(loop.wake.set)
        watched = health.loop(loop.name, loop.interval_seconds + loop.patience_seconds)
        threads.append(start_thread(loop.name, _run, loop, watched, stop))
    return threads


def _run(loop: Loop, watched: LoopHealth, stop: Stop) -> None:
    if loop.background:  # under Linux each thread has a priority of its own
        with contextlib.suppress(OSError):  # a sandbox that forbids it: then it competes
            mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            niceness = min(mine + _BACKGROUND_NICENESS_MORE, _NICENESS_MAX)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    failures = 0

    def recovered() -> None:
        nonlocal failures
        if failures:
            log.info("loop works again", extra={"loop": loop.name})
        failures = 0

    def worked() -> None:
        recovered()
        watched.worked()

    while not stop.requested:
        pause_seconds = loop.interval_seconds
        try:
            loop.round(stop, worked if loop.lasting else watched.progressed)
        except Exception as err:
            if isinstance(err, BackcastError) and is_expected(err):
                log.warning("round put off", extra={"loop": loop.name, "detail": str(err)})
                if loop.again_seconds is not None:
                    pause_seconds = loop.again_seconds
                recovered()
                watched.put_off(err)
            else:
                pause_seconds = _pause_seconds(failures, loop.interval_seconds)
                failures += 1
                kind = type(err).__name__
                reason = (
                    f"its last round ended with an unexpected error ({kind}); the log says more"
                )
                watched.failed(reason, f"{kind}: {err}")
                about = {"loop": loop.name, "pause_seconds": pause_seconds}
                log.critical("round failed", exc_info=err, extra=about)
        else:
            worked()
        _pause(loop, stop, pause_seconds)


def _pause_seconds(failures: int, interval_seconds: float) -> float:
    longest = max(_PAUSE_SECONDS_MAX, interval_seconds)
    grown: float = _PAUSE_SECONDS_FIRST * 2 ** min(failures, 20)
    return min(grown, longest)


def _pause(loop: Loop, stop: Stop, seconds: float) -> None:
    if loop.wake and not stop.requested:  # a stop from here on sets it
        loop.wake.wait(seconds)
    else:
        stop.wait(seconds)
