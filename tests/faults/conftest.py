"""The harness of faults: how much of it runs, and what it counted.

`--scale sample` is part of `make test`, `--scale full` is `make test-faults`, `--scale soak` is
`make soak`. Each test asserts its own floor of counts, so a silent skip is a failure, and hands the
counts to `tally`, which prints them at the end and writes them to `build/faults/<scale>.json`.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import pytest

from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from tests.faults.site import FaultSite, ProxiedCluster

_RESULTS = pytest.StashKey[dict[str, dict[str, float | str]]]()


class Scale(Enum):
    """How much of the harness runs."""

    SAMPLE = "sample"
    FULL = "full"
    SOAK = "soak"

    def pick(self, sample: int, full: int, soak: int) -> int:
        """The count of this scale."""
        return {Scale.SAMPLE: sample, Scale.FULL: full, Scale.SOAK: soak}[self]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = {}


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    return Scale(request.config.getoption("--scale"))


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`tally("kills", tried=100, acknowledged=412, lost=0)`: counts of one kind of fault."""

    def add(kind: str, **counts: float | str) -> None:
        request.config.stash[_RESULTS].setdefault(kind, {}).update(counts)

    return add


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    """One cluster behind proxies, whose processes are started again when they end."""
    cluster = ProxiedCluster(BackcastHome(tmp_path_factory.mktemp("proxied"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO))
    site = FaultSite(cluster, tmp_path_factory.mktemp("volumes"))
    try:
        with site.supervised():
            yield site
    finally:
        cluster.down(print)
        cluster.close_proxies()
        shutil.rmtree(cluster.home.folder / "data")


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
