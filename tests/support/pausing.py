"""Processes that stand still, as on a machine that is suspended or swaps."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from deploy.local.process import wait_until

SECONDS_MAX = 30.0


def pause(pid: int) -> None:
    """Stop a process, and return when none of its threads runs any more.

    The signal stops one thread, which then stops the others. On a busy machine that takes a while,
    in which the process still answers.
    """
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: _stands_still(pid), SECONDS_MAX), f"process {pid} goes on"


def resume(pid: int) -> None:
    """Let it go on."""
    os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process that stands still meanwhile."""
    pause(pid)
    try:
        yield
    finally:
        resume(pid)


def _stands_still(pid: int) -> bool:
    # The state follows the name, which may have blanks and brackets of its own (proc(5)).
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread ended meanwhile
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
