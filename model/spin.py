"""One run of Spin: generate the verifier, compile it, search, read what it says.

The search is exhaustive and exact: no bitstate hashing, no hash compaction, no partial order that
was not proven. A run that is cut off by memory or depth counts as an error, never as success.
"""

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

#: Deeper than any path so far (some 200 steps). Spin says when it is reached; the run is void then.
_DEPTH_MAX = 100_000
#: MiB of one search; two run at once, within 4 GiB.
_MEMORY_MAX_MIB = 1900
#: Seconds of one search; the largest needs twenty on an idle core.
_TIMEOUT_SECONDS = 600

Defines: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found."""

    states: int
    seconds: float
    #: The assertion that some path violates; None if all states are as they must be.
    violated: str | None


class SpinError(Exception):
    """Spin, the compiler or the search itself went wrong: nothing was shown."""


def search(model: Path, defines: Defines, folder: Path) -> Search:
    """Search all states of a configuration; stops at the first violation.

    Args:
        model: its text.
        defines: what the model is configured with.
        folder: an existing empty folder; the trail of a violation stays in it.

    Raises:
        SpinError: the search was not completed.
    """
    begun = time.monotonic()
    _run(["spin", *_flags(defines), "-a", str(model)], folder)
    # A variant is found out within seconds: compiling it without optimisation is faster in all.
    optimisation = "-O1" if "WEAK" in defines or "PROBE" in defines else "-O2"
    options = ["-DSAFETY", "-DVECTORSZ=1024", f"-DMEMLIM={_MEMORY_MAX_MIB}"]
    _run(["gcc", optimisation, "-w", *options, "-o", "pan", "pan.c"], folder)
    # -E: a worker that waits for ever has crashed, no error. -w22: 2^22 slots of the hash table.
    said = _run(["./pan", f"-m{_DEPTH_MAX}", "-w22", "-E"], folder)
    states = re.search(r"^\s*(\d+) states, stored", said, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", said)
    violated = re.search(r"^pan:1: (assertion violated .*) \(at depth \d+\)", said, re.MULTILINE)
    if states is None or errors is None or (errors[1] != "0" and violated is None):
        raise SpinError(f"{_flags(defines)}: no result:\n{said[-1000:]}")
    if violated is None and re.search(r"Search not completed|max search depth too small", said):
        raise SpinError(f"{_flags(defines)}: not exhaustive:\n{said[-1000:]}")
    return Search(int(states[1]), time.monotonic() - begun, violated[1] if violated else None)


def trail(model: Path, defines: Defines, folder: Path) -> list[str]:
    """The steps to the violation that `search` found in this folder, one sentence each."""
    command = ["spin", *_flags(defines), "-T", "-t", "-k", f"{model.name}.trail", str(model)]
    lines = _run(command, folder).splitlines()
    end = next((n for n, line in enumerate(lines) if line.startswith("spin:")), len(lines))
    return [line for line in lines[:end] if line.strip()]


def _flags(defines: Defines) -> list[str]:
    return [f"-D{name}={value}" for name, value in defines.items()]


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as err:
        raise SpinError(f"{' '.join(command)}: still running after {err.timeout:.0f} s") from err
    # `pan` ends with 0 also after a violation; `spin -t` ends with the number of the trail's steps.
    if done.returncode and (command[0] == "gcc" or "-a" in command):
        raise SpinError(f"{' '.join(command)}: exit status {done.returncode}:\n{done.stdout}")
    return done.stdout
