"""Threads of the catalog service: each runs one loop, and health watches that it makes progress."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from libs.runtime.health import Health
from libs.runtime.signals import Stop

#: A tenth of the share that others get where processors are short.
_BACKGROUND_NICENESS = 10

#: Body of a thread: runs until asked to stop, pauses so long, and tells that it makes progress.
Body = Callable[[Stop, float, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of the service."""

    name: str
    body: Body
    interval_seconds: float
    #: Longest time between two signs of progress besides the pause.
    patience_seconds: float = 300.0
    #: It can wait: whatever else wants a processor goes first.
    background: bool = False


def start_loops(loops: list[Loop], health: Health, stop: Stop) -> list[threading.Thread]:
    """Start each in a thread of its own."""
    threads = []
    for loop in loops:
        watched = health.loop(loop.name, loop.interval_seconds + loop.patience_seconds)
        thread = threading.Thread(
            target=_run, args=(loop, stop, watched.progressed), name=loop.name
        )
        thread.start()
        threads.append(thread)
    return threads


def _run(loop: Loop, stop: Stop, progressed: Callable[[], None]) -> None:
    if loop.background:  # under Linux each thread has a priority of its own
        with contextlib.suppress(OSError):  # a sandbox that forbids it: then it competes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICENESS)
    loop.body(stop, loop.interval_seconds, progressed)
