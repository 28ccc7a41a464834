"""The command in this process, against a scripted service."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.cli.__main__ import main
from tests.unit.cli.scripted_service import Script, ScriptedService, serving


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Backcast = Callable[..., Ran]


@pytest.fixture
def script() -> Script:
    """What the service answers; tests fill it in."""
    return {}


@pytest.fixture
def service(script: Script) -> Iterator[ScriptedService]:
    with serving(script) as running:
        yield running


@pytest.fixture
def backcast(
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Backcast:
    """Runs the command; the services that the environment names are the scripted one."""
    monkeypatch.setenv("BACKCAST_URL", service.url)
    monkeypatch.setenv("BACKCAST_TOKEN", "token")
    monkeypatch.setenv("BACKCAST_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BACKCAST_TENANT", raising=False)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as end:  # how argparse refuses arguments
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run
