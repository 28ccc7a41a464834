"""Parsers of bytes from outside: millions of inputs, no crash, no hang, no memory beyond its bound.

Guided by coverage (libFuzzer through atheris), so that what looks like the start of something valid
is followed. What was found before lies in tests/golden/fuzz and is tried by tests/unit/fuzz.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import Scale
from tests.faults.fuzz.targets import TARGETS

SEED = 20261122
#: One for each core of the smallest machine that the tests run on.
PROCESS_COUNT = 2
_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)


def fuzz(folder: Path, runs: int, names: Sequence[str], seed: int = SEED) -> dict[str, int]:
    """Executions of each target; fails with what libFuzzer says of a finding."""
    command = [sys.executable, "-m", "tests.faults.fuzz.fuzzer", str(folder), str(runs), str(seed)]

    def start(share: Sequence[str]) -> None:
        subprocess.run([*command, *share], check=True, capture_output=True)

    shares = [names[number::PROCESS_COUNT] for number in range(PROCESS_COUNT)]
    with ThreadPoolExecutor(PROCESS_COUNT) as threads:
        list(threads.map(start, shares))
    counts = {}
    for name in names:
        log = (folder / name / "log").read_text(errors="replace")
        found = [path for path in (folder / name).iterdir() if "-" in path.name]
        executed = _EXECUTED.search(log)
        assert executed, f"target {name}, seed {seed}\n{log[-3000:]}"
        assert not found, f"target {name}, seed {seed}: {found}\n{log[-3000:]}"
        counts[name] = int(executed[1])
    return counts


@pytest.fixture(autouse=True)
def atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        assert "CI" not in os.environ, "atheris is missing: its wheel is for Linux on x86-64"
        pytest.skip("atheris is missing: its wheel is for Linux on x86-64")


def test_parsers_only_ever_refuse(tmp_path: Path, scale: Scale, tally: Callable[..., None]) -> None:
    runs = scale.pick(2_000, 100_000, 5_000_000)
    begun = time.monotonic()
    counts = fuzz(tmp_path, runs, list(TARGETS))
    assert all(counts[name] >= runs // TARGETS[name].cost for name in TARGETS), counts
    executions = sum(counts.values())
    tally(
        "fuzzing of parsers",
        targets=len(counts),
        executions=executions,
        findings=0,
        seconds=round(time.monotonic() - begun),
    )
    assert executions >= scale.pick(50_000, 2_500_000, 100_000_000)
