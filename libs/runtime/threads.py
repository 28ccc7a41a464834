"""Threads that never end alone: what leaves one of them is logged at once and ends the process.

This is the one way to start a thread in a service, and `libs.runtime.loops` is the one way to run
something again and again in it. `run_service` hears of what leaves a thread by
``threading.excepthook``. A thread that died in silence would leave a process that looks well and
does half of its work.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from libs.errors import BackcastError, InvariantViolation

log = logging.getLogger(__name__)


def start_thread(
    name: str, body: Callable[..., object], *arguments: object, daemon: bool = False
) -> threading.Thread:
    """Run ``body`` in a thread of its own; an exception that leaves it ends the process.

    Args:
        name: of the thread, in the log.
        body: what it does.
        arguments: of ``body``.
        daemon: the process does not wait for it when it ends.
    """

    def run() -> None:
        try:
            body(*arguments)
        except SystemExit as err:  # Python lets a thread end with it without a word
            raise InvariantViolation(f"thread {name}: asked for exit status {err.code}") from err

    thread = threading.Thread(target=run, name=name, daemon=daemon)
    thread.start()
    return thread


def end_with(name: str, future: "Future[Any]") -> None:
    """End the process if ``future``, whose result nobody looks at, ends with an exception.

    Args:
        name: what it is, in the log.
        future: a step of an executor, or a task of an event loop in another thread.
    """

    def look(done: "Future[Any]") -> None:
        if done.cancelled() or (error := done.exception()) is None:
            return
        if isinstance(error, CancelledError):
            return
        hook_arguments = (type(error), error, error.__traceback__, threading.Thread(name=name))
        threading.excepthook(threading.ExceptHookArgs(hook_arguments))

    future.add_done_callback(look)


def is_expected(error: BaseException) -> bool:
    """Whether an error belongs to normal operation: a server is away, a disk is full, and so on.

    A broken invariant is ours and still nothing that anybody expected.
    """
    return isinstance(error, BackcastError) and not isinstance(error, InvariantViolation)
