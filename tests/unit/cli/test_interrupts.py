"""Ctrl-C ends the command quietly, with the documented status, whenever it comes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.entry import INTERRUPTED_EXIT_CODE
from tests.unit.cli.scripted_service import Script, ScriptedService

ROTATE = ("keys", "rotate-kek")
DONE = {
    "fingerprint": "0123456789abcdef",
    "running": False,
    "step": "done",
    "keys": 1,
    "wrapped": 1,
    "keys_deleted": 1,
    "checkpoints_deleted": 0,
    "left": 0,
    "error": "",
}
SECONDS_MAX = 60
#: About so many of a command's imports are tried, but none of the last tenth: another run may have
#: some fewer.
TRIED_COUNT = 24


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Whoever runs the tests in the background has SIGINT ignored, and what they start with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(service: ScriptedService, home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BACKCAST_")},
        "BACKCAST_URL": service.url,
        "BACKCAST_TOKEN": "token",
        "BACKCAST_HOME": str(home),
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def interrupted(
    service: ScriptedService, home: Path, number: int, how: str, *arguments: str
) -> tuple[int, str, str]:
    script = str(Path(__file__).with_name("interrupted_entry.py"))
    with started(service, home, script, str(number), how, *arguments) as process:
        out, err = process.communicate(timeout=SECONDS_MAX)
    return process.returncode, out, err


@pytest.mark.parametrize("how", ["plain", "finalizer"])
def test_an_interrupt_between_any_two_imports_ends_the_command_quietly(
    service: ScriptedService, script: Script, tmp_path: Path, how: str
) -> None:
    script["POST", "/v1/keys/kek"] = [DONE]
    status, out, _ = interrupted(service, tmp_path, -1, how, *ROTATE)
    assert status == 0
    count = int(out.splitlines()[-1].removeprefix("imports "))
    assert count > 2 * TRIED_COUNT
    for number in sorted({1, 2, 3, *range(1, count * 9 // 10, count // TRIED_COUNT)}):
        ended = interrupted(service, tmp_path, number, how, *ROTATE)
        assert (ended[0], ended[2]) == (INTERRUPTED_EXIT_CODE, ""), f"at import {number}: {ended}"


def test_an_interrupt_while_the_interpreter_ends_is_quiet(
    service: ScriptedService, script: Script, tmp_path: Path
) -> None:
    script["POST", "/v1/keys/kek"] = [DONE]
    status, out, err = interrupted(service, tmp_path, 0, "plain", *ROTATE)
    assert status == INTERRUPTED_EXIT_CODE
    assert out.startswith("1 data keys are wrapped")
    assert "Traceback" not in err


def test_an_interrupted_change_of_keys_says_that_it_goes_on_and_is_followed_again(
    service: ScriptedService, script: Script, tmp_path: Path
) -> None:
    path = "/v1/keys/kek"
    script["POST", path] = script["GET", path] = [{**DONE, "running": True}]
    command = ("-m", "services.cli.entry", *ROTATE)
    with started(service, tmp_path, *command) as process:
        deadline = time.monotonic() + SECONDS_MAX
        while not service.queries(path)[1:]:  # asked for, and looked at once more
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == INTERRUPTED_EXIT_CODE
    assert said.startswith("the catalog service goes on with the change")
    assert "Traceback" not in said
    script["GET", path] = [DONE]
    with started(service, tmp_path, *command) as process:
        out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0
    assert out.startswith("1 data keys are wrapped")
