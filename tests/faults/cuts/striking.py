"""Runs a service that is struck at a step of a barrier: it is killed, stopped, or answers late.

`python -m tests.faults.cuts.striking MODULE` runs a service. Before and after each step that is
named here, its process looks for a file, which says at which step it is to be struck, and how. It
removes that file first, so that it is struck once.

    kill   the process is killed (kill -9)
    stop   all its threads stand still until somebody lets it go on (SIGSTOP)
    late   this step alone goes on after some seconds, so that its answer comes late
"""

import functools
import importlib
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: Names the file that a process looks for.
VARIABLE = "STRIKE_FILE"

How = Literal["kill", "stop", "late"]
When = Literal["before", "after"]

_AGENTS = "services.change_capture.coordinator.agents:Agents"
_BARRIERS = "services.change_capture.barrier.barrier:Barriers"
_CUTS = "services.change_capture.filter.cuts:FilterCuts"
#: By kind of process: name of a step, and the function that does it.
STEPS = {
    "coordinator": {
        **{step: f"{_AGENTS}.{step}" for step in ("prepare", "hold", "cut", "release", "begin")},
        "record": "services.change_capture.coordinator.barriers:record_cut",
    },
    "agent": {
        f"{step}": f"{_BARRIERS}.{step}"
        for step in ("prepare", "hold", "cut", "release", "take_view")
    },
    "filter": {f"{step}": f"{_CUTS}.{step}" for step in ("hold", "cut", "release", "claim")},
}


@dataclass(frozen=True, slots=True)
class Strike:
    """At which step a process is to be struck, and how.

    Attributes:
        step: one of the process's kind.
        when: before the step is done, or after it, when nobody has been told yet.
        how: what happens.
        seconds: how long a late step waits.
    """

    step: str
    when: When
    how: How
    seconds: float = 0.0

    def write(self, file: Path) -> None:
        """Tell the process that looks for this file."""
        part = file.with_suffix(".part")
        part.write_text(f"{self.step} {self.when} {self.how} {self.seconds:g}")
        part.rename(file)


def _strike(file: Path, step: str, when: When) -> None:
    try:
        wanted_step, wanted_when, how, seconds = file.read_text().split()
        if (wanted_step, wanted_when) != (step, when):
            return
        file.unlink()
    except FileNotFoundError:  # nobody is to be struck, or another thread is
        return
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "late":
            time.sleep(float(seconds))


def _struck(file: Path, step: str, do: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(do)
    def done(*arguments: object, **named: object) -> object:
        _strike(file, step, "before")
        result = do(*arguments, **named)
        _strike(file, step, "after")
        return result

    return done


def _plant(file: Path, kind: str) -> None:
    for step, place in STEPS[kind].items():
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner: object = importlib.import_module(module)
        for one in owners:
            owner = getattr(owner, one)
        setattr(owner, name, _struck(file, step, getattr(owner, name)))


def main() -> None:
    """Plant the steps, and become the service."""
    module = sys.argv.pop(1)
    _plant(Path(os.environ.pop(VARIABLE)), module.rpartition(".")[2])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
