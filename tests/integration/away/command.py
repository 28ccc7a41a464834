"""The command, as an operator calls it while something is away."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import outer_environ
from tests.support.running import RunningSite

SOURCE = Path(__file__).parents[3]
#: Of a command that answers within seconds: without bounds it took 31 s, and this is for a slow
#: machine.
ANSWER_SECONDS_MAX = 25.0


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


def backcast(site: RunningSite, *arguments: str, seconds_max: float = ANSWER_SECONDS_MAX) -> Ran:
    """What it says; fails the test if that takes too long."""
    environ = outer_environ() | {"BACKCAST_HOME": str(site.cluster.home.folder)}
    argv = [sys.executable, "-m", "services.cli", *arguments]
    finished = subprocess.run(
        argv,
        env=environ,
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    return Ran(finished.returncode, finished.stdout, finished.stderr)
