"""What the fault harness counted: printed at the end, written to `build/faults/<scale>.json`.

The hooks are those of the root conftest: under pytest-xdist the process that prints collects no
test and never sees another conftest.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_RESULTS = pytest.StashKey[dict[str, dict[str, float | str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = {}


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`tally("kills", tried=100, acknowledged=412, lost=0)`: counts of one kind of fault."""

    def add(kind: str, **counts: float | str) -> None:
        request.config.stash[_RESULTS].setdefault(kind, {}).update(counts)

    return add


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist sends its counts to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = session.config.stash[_RESULTS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist has counted; a crashed one has sent nothing."""
    sent = getattr(node, "workeroutput", {}).get("tally", {})
    for kind, counts in sent.items():
        node.config.stash[_RESULTS].setdefault(kind, {}).update(counts)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[_RESULTS]
    if not results:
        return
    scale = config.getoption("--scale")
    terminalreporter.section(f"faults, scale {scale}")
    for kind, counts in results.items():
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
        terminalreporter.write_line(f"{kind}: {words}")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    path = Path(f"build/faults/{scale}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text()) if path.exists() else {}
    kinds = {**earlier.get("kinds", {}), **results} if earlier.get("commit") == commit else results
    path.write_text(json.dumps({"commit": commit, "kinds": kinds}, indent=2) + "\n")
