"""Service processes are run for real: signals and exit statuses cannot be shown in-process."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from libs.errors import InvariantViolation
from libs.runtime import service
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.rest.server import create_app, serving
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.threads import end_with, start_thread

service.END_SECONDS_MAX = 1.0
for_ever = threading.Event()

def threads(settings, stop):
    print("up", flush=True)
    while not stop.wait(60): pass

def loop(settings, stop):
    async def main():
        print("up", flush=True)
        await stop.wait_async()
    asyncio.run(main())

def stubborn(settings, stop):
    print("up", flush=True)
    stop.wait()
    print("asked", flush=True)
    threading.Event().wait()

def broken(settings, stop):
    raise InvariantViolation("two heads")

def unforeseen(settings, stop):
    raise KeyError("x")

def half(settings, stop):
    def die(): raise KeyError("gone")
    start_thread("worker", die)
    stop.wait(60)

def leaving(settings, stop):
    start_thread("worker", sys.exit)
    stop.wait(60)

def ours(settings, stop):
    def die(): raise InvariantViolation("two heads")
    start_thread("worker", die)
    stop.wait(60)

def step(settings, stop):
    def die(): raise KeyError("gone")
    end_with("worker", ThreadPoolExecutor().submit(die))
    stop.wait(60)

def deaf(settings, stop):
    def die(): raise KeyError("gone")
    start_thread("worker", die)
    for_ever.wait()

def left(settings, stop):
    start_thread("waits", for_ever.wait)
    raise KeyError("gone")

def coroutine(settings, stop):
    async def main():
        waiting = asyncio.create_task(asyncio.to_thread(for_ever.wait))
        stop.fail("worker", KeyError("gone"))
        await waiting
    asyncio.run(main())

def served(settings, stop):
    app = create_app("try", settings, Health(stop), new_registry())
    def refuse(_): raise KeyError("lifespan")
    app.router.lifespan_context = refuse
    with serving(app, settings):
        for_ever.wait()

sys.exit(run_service("try", ServiceSettings, globals()[sys.argv[1]], sys.argv[2:]))
"""


class Service:
    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def service() -> Iterator[Service]:
    started = Service()
    yield started
    for process in started.processes:
        process.kill()
        process.communicate()


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("main", ["threads", "loop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_threads_and_loops_in_order(
    service: Service, main: str, number: signal.Signals
) -> None:
    process = service.start(main)
    assert _read_line(process) == "up"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert '"message": "stopped"' in errors


def test_a_second_signal_ends_the_process_at_once(service: Service) -> None:
    process = service.start("stubborn")
    assert _read_line(process) == "up"
    process.send_signal(signal.SIGTERM)
    assert _read_line(process) == "asked"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("main", "status", "told"),
    [
        ("broken", 12, "two heads"),
        ("unforeseen", 70, "KeyError"),
        ("half", 70, "worker"),
        ("leaving", 12, "worker"),
        ("ours", 12, "two heads"),
        ("step", 70, "worker"),
        ("deaf", 70, "worker"),
        ("left", 70, "gone"),
        ("coroutine", 70, "worker"),
        ("served", 12, "lifespan"),
    ],
)
def test_an_error_ends_the_process_with_its_status(
    service: Service, main: str, status: int, told: str
) -> None:
    process = service.start(main)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert told in errors


def test_wrong_settings_end_the_process_with_11_and_one_clear_line(service: Service) -> None:
    process = service.start("threads", BACKCAST_TRY_LISTN="x")
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (11, "")
    assert errors == (
        "try: BACKCAST_TRY_LISTN: unknown variable; did you mean BACKCAST_TRY_LISTEN?\n"
    )


def test_print_config_shows_the_effective_settings_and_runs_nothing(service: Service) -> None:
    process = service.start("threads", "--print-config", BACKCAST_TRY_LOG_LEVEL="debug")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "BACKCAST_TRY_LOG_LEVEL=debug\n" in output
    assert "BACKCAST_TRY_REQUEST_THREAD_COUNT_MAX=32\n" in output
    assert "up" not in output
