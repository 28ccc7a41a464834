"""Graceful stop: the first SIGTERM or SIGINT asks the process to stop, the second one ends it.

The handlers do nothing but wake a thread of their own. Setting a `threading.Event` inside a handler
can deadlock: the handler runs on top of whatever the main thread does, which may be holding the
event's lock. The wake-up is a byte in a pipe that the interpreter writes from C, so it works even
while the main thread is inside a long call.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

from libs.errors import BackcastError
from libs.runtime.threads import start_thread

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A request to stop, made once and never taken back. For threads and for asyncio."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        #: What broke the process, if anything did; the first of several. Then it ends with a
        #: status that says so.
        self.failure: BaseException | None = None
        #: Called once, with the first failure, after the stop was requested.
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self._watched: dict[int, Callable[[], None]] = {}

    @property
    def requested(self) -> bool:
        """Whether the process should come to an end."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask everything that watches this to stop. Further calls change nothing."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            self._event.set()
        for callback in callbacks:
            try:
                callback()
            except Exception:  # the others must still hear of it
                log.critical("not told of the stop", exc_info=True)

    def fail(self, what: str, error: BaseException) -> None:
        """Log at once what broke the process, and ask everything to stop: half of it is no use."""
        if isinstance(error, BackcastError):
            about = {"what": what, "code": error.code, "detail": str(error)}
            log.critical("ended by an error", extra=about)
            log.debug("where it was raised", exc_info=error)
        else:
            log.critical("ended by an unexpected error", exc_info=error, extra={"what": what})
        with self._lock:
            first = self.failure is None
            self.failure = self.failure or error
        self.request()
        if first:
            self.on_failure(error)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Block until a stop is requested or the time is over; whether it is requested.

        ``while not stop.wait(interval_seconds): work()`` is a loop that stops without delay.
        """
        return self._event.wait(timeout_seconds)

    def watch(self, number: signal.Signals, callback: Callable[[], None]) -> None:
        """Run ``callback`` in a thread at each signal of a number that asks for no stop.

        To be called in the main thread. Without it, the signal has its usual effect.
        """
        self._watched[number] = callback
        signal.signal(number, lambda *_: None)

    def signalled(self, number: int) -> None:
        """A signal has come that asks for no stop."""
        callback = self._watched.get(number)
        if callback is None:
            return
        try:
            callback()
        except Exception:  # signals must be heard after it, too
            log.critical("signal not followed", exc_info=True, extra={"signal": number})

    async def wait_async(self) -> None:
        """Return when a stop is requested; other tasks of the loop go on meanwhile."""
        loop, reached = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # The loop may have ended before the stop came.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(reached.set)

        self.call(wake)
        try:
            await reached.wait()
        finally:
            self._forget(wake)

    def call(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once when a stop is requested, or now if it is. It must be quick."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._callbacks.remove(callback)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a request to stop while the context lasts.

    Must be entered in the main thread. A second signal ends the process with 128 + its number,
    without any cleaning up: it is for the operator who no longer wants to wait.
    """
    stop = Stop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Without a handler the signal would end the process; the watching thread does the work.
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    previous_wakeup = signal.set_wakeup_fd(writer)
    watcher = start_thread("signals", _watch, reader, stop, daemon=True)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int, stop: Stop) -> None:
    """Read signal numbers until the other end of the pipe is closed."""
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number not in _SIGNALS:
                stop.signalled(number)
                continue
            if stop.requested:
                os._exit(128 + number)
            log.info("stopping", extra={"signal": signal.Signals(number).name})
            stop.request()
