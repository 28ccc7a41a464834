"""The lanes: the threads of a chunker that take spans in and store them."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future


class Lanes:
    """Runs steps in the order in which they were submitted. Thread-safe.

    Args:
        executor: its threads; shut down by `close`.
        count: how many they are.
    """

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor = executor
        #: Threads that have nothing to do; below zero, steps that wait.
        self._idle = count
        self._lock = threading.Lock()

    def submit(self, step: Callable[[], None]) -> Future[None]:
        """Run a step as soon as a lane is free."""
        with self._lock:
            self._idle -= 1
        return self._begin(step)

    def submit_if_idle(self, step: Callable[[], None]) -> Future[None] | None:
        """Run a step at once, or not at all: None if every lane has something to do.

        It never waits behind other steps, so a step may wait for one that it has submitted so.
        """
        with self._lock:
            if self._idle <= 0:
                return None
            self._idle -= 1
        return self._begin(step)

    def close(self) -> None:
        """Return when the steps that were begun have ended; the others are left out."""
        self._executor.shutdown(cancel_futures=True)

    def _begin(self, step: Callable[[], None]) -> Future[None]:
        def run() -> None:
            try:
                step()
            finally:  # before the future is done: who waited for it finds the lane idle
                with self._lock:
                    self._idle += 1

        return self._executor.submit(run)
