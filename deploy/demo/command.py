"""The public command as a person would type it, in a BACKCAST_HOME of the demonstration's own."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.process import outer_environ

_SOURCE = Path(__file__).parents[2]


class CommandFailedError(Exception):
    """A command ended with an error, and has said on the terminal which.

    Args:
        exit_code: its exit status.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit status {exit_code}")
        self.exit_code = exit_code


class Command:
    """Runs ``backcast …``; its progress and errors go to the terminal.

    Args:
        home: the BACKCAST_HOME; settings of the caller's shell do not count.
        tell: shown each command line before it runs.
    """

    def __init__(self, home: Path, tell: Callable[[str], None]) -> None:
        self._environ = outer_environ() | {"BACKCAST_HOME": str(home)}
        self._tell = tell

    def __call__(self, *arguments: str | Path) -> list[Any]:
        """Run it with ``--json``; the objects that it printed.

        Raises:
            CommandFailedError: it ended with another status than 0.
        """
        words = [str(argument) for argument in arguments]
        self._tell(shlex.join(["backcast", *words]))
        finished = subprocess.run(
            [sys.executable, "-m", "services.cli.entry", *words, "--json"],
            env=self._environ,
            cwd=_SOURCE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        if finished.returncode:
            raise CommandFailedError(finished.returncode)
        return [json.loads(line) for line in finished.stdout.splitlines()]
