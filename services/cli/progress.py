"""Progress bars on a terminal: one line per job, on standard error, only for jobs that last."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported late below: it takes as long as a short command
    import rich.progress

#: Told the name of a job, its bytes done and its bytes in total; any thread may call it.
ShowBar = Callable[[str, int, int], None]

_QUIET_SECONDS = 0.5


@contextmanager
def progress_bars() -> Iterator[ShowBar]:
    """Bars that appear once half a second has passed; none where there is no terminal."""
    if not sys.stderr.isatty():
        yield _show_nothing
        return
    bars = _Bars()
    try:
        yield bars.show
    finally:
        bars.stop()


def _show_nothing(_job: str, _done_bytes: int, _total_bytes: int) -> None:
    return


class _Bars:
    def __init__(self) -> None:
        self._appear_at = time.monotonic() + _QUIET_SECONDS
        self._lock = threading.Lock()
        self._progress: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def show(self, job: str, done_bytes: int, total_bytes: int) -> None:
        with self._lock:
            if time.monotonic() < self._appear_at:
                return
            if self._progress is None:
                self._progress = _started_progress()
            if job not in self._tasks:
                self._tasks[job] = self._progress.add_task(job, total=None)
            self._progress.update(self._tasks[job], completed=done_bytes, total=total_bytes or None)

    def stop(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.stop()


def _started_progress() -> "rich.progress.Progress":
    import rich.console  # noqa: PLC0415 -- see above
    import rich.progress as parts  # noqa: PLC0415 -- see above

    progress = parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.DownloadColumn(binary_units=True),
        parts.TransferSpeedColumn(),
        parts.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    )
    progress.start()
    return progress
