"""The question on a terminal, asked on a real one."""

import os
import pty
import subprocess
import sys
import threading
from uuid import uuid4

import pytest

from tests.unit.cli.scripted_service import Script, ScriptedService

SESSION = str(uuid4())
PATH = f"/v1/tenants/default/snapshots/{SESSION}"


def on_terminal(service: ScriptedService, typed: bytes, *arguments: str) -> tuple[int, bytes]:
    """Run the command on a terminal at which something is typed; its status, and what is shown."""
    keyboard, terminal = pty.openpty()
    environ = os.environ | {"BACKCAST_URL": service.url, "BACKCAST_TOKEN": "t"}
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(keyboard, 4096))
            except OSError:  # the other end is closed
                return

    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", *arguments],
        env=environ,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        reading = threading.Thread(target=read)
        reading.start()
        os.write(keyboard, typed)
        status = process.wait(timeout=30)
        reading.join(30)
    os.close(keyboard)
    return status, bytes(shown)


@pytest.fixture(autouse=True)
def _snapshot(script: Script) -> None:
    named = [{"volume": "vm"}, {"volume": "db"}]
    found = {"session": SESSION, "group": "g", "sequence": 2, "volumes": named}
    script["GET", PATH] = [found]
    script["POST", f"{PATH}/expire"] = [{"session": SESSION, "sequence": 2}]


@pytest.mark.parametrize(
    ("typed", "options", "status"),
    [
        (b"y\n", [], 0),
        (b"YES\n", [], 0),
        (b"n\n", [], 130),
        (b"\n", [], 130),
        (b"\x04", [], 130),
        (b"", ["--yes"], 0),
        (b"", ["--json"], 0),
    ],
)
def test_whoever_sits_at_a_terminal_is_asked_before_anything_is_given_up(
    service: ScriptedService, typed: bytes, options: list[str], status: int
) -> None:
    ended, shown = on_terminal(service, typed, "snapshot", "expire", SESSION, *options)
    assert ended == status, shown
    asked = not options
    assert (b"Go on? [y/N]" in shown) == asked
    if asked:
        assert shown.index(b"given up for good") < shown.index(b"Go on?")
    assert len(service.bodies("POST", f"{PATH}/expire")) == (status == 0)
    assert (b"nothing was done" in shown) == (status == 130)
