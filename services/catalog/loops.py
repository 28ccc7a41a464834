"""Threads of the catalog service: each runs one loop, and health watches that it makes progress."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from libs.runtime.health import Health
from libs.runtime.signals import Stop

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


def start_loops(loops: list[Loop], health: Health, stop: Stop) -> list[threading.Thread]:
    """Start each in a thread of its own."""
    threads = []
    for loop in loops:
        watched = health.loop(loop.name, loop.interval_seconds + loop.patience_seconds)
        thread = threading.Thread(
            target=loop.body,
            args=(stop, loop.interval_seconds, watched.progressed),
            name=loop.name,
        )
        thread.start()
        threads.append(thread)
    return threads
