"""`python -m tests.support.ending_filter STEP`: a filter that is killed at one step of a hand-over.

The process sends SIGKILL to itself before or after the step, which is a call of one of its own
functions. Nothing else of it is different.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from libs.runtime.service import run_service
from services.change_capture.filter import process
from services.change_capture.filter.__main__ import main
from services.change_capture.filter.cuts import FilterCuts
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.handover import giving
from services.change_capture.filter.handover.giving import Giving
from services.change_capture.filter.handover.taking import Inheritance
from services.change_capture.filter.marks.tracking import Tracking
from services.change_capture.filter.serving import Serving
from services.change_capture.filter.settings import Settings

#: Steps of a predecessor and of a successor in their order: names, and what is called.
PREDECESSOR: dict[str, tuple[object, str]] = {
    "retire": (FilterCuts, "retire"),
    "pause": (Serving, "pause"),
    "save": (Tracking, "stop"),
    "send": (Giving, "_send"),
    "unlock": (Disk, "unlock"),
    "say done": (giving, "send"),
    "hear taken": (giving, "receive_order"),
    "let go": (Serving, "retire"),
}
SUCCESSOR: dict[str, tuple[object, str]] = {
    "inherit": (process, "inherit"),
    "lock": (Disk, "lock"),
    "commit": (Tracking, "__init__"),
    "control": (process, "ControlServer"),
    "serve": (Serving, "start"),
    "confirm": (Inheritance, "confirm"),
}


def _plant(owner: object, name: str, *, is_after: bool) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def killed(*arguments: Any, **named: Any) -> Any:
        if is_after:
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killed)


if __name__ == "__main__":
    step, _, when = sys.argv[1].partition(":")
    _plant(*{**PREDECESSOR, **SUCCESSOR}[step], is_after=when == "after")
    sys.exit(run_service("filter", Settings, main, []))
