import platform
import threading
import tomllib
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram, generate_latest

from deploy.local.process import wait_until
from libs.errors import UnavailableError
from libs.runtime import health as health_module
from libs.runtime.health import Check, Health
from libs.runtime.metrics import new_registry, peak_resident_bytes
from libs.runtime.signals import Stop
from libs.version import VERSION


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def _named(checks: list[Check], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def test_a_loop_is_alive_until_its_deadline_passes_without_progress() -> None:
    clock = Clock()
    health = Health(clock=clock)
    loop = health.loop("relay", deadline_seconds=30)
    clock.seconds += 30
    assert _named(health.alive(), "relay").ok
    clock.seconds += 0.1
    assert not _named(health.alive(), "relay").ok
    loop.progressed()
    assert _named(health.alive(), "relay").ok


def test_a_process_is_not_ready_before_it_started() -> None:
    health = Health()
    assert not all(check.ok for check in health.ready())
    health.started()
    assert all(check.ok for check in health.ready())


def test_a_process_that_was_asked_to_stop_is_not_ready() -> None:
    stop = Stop()
    health = Health(stop)
    health.started()
    assert all(check.ok for check in health.ready())
    stop.request()
    assert _named(health.ready(), "startup").detail == "is stopping"


def test_a_loop_whose_round_failed_is_not_ready_until_one_works() -> None:
    clock = Clock()
    health = Health(clock=clock)
    loop = health.loop("relay", deadline_seconds=30)
    loop.failed("ValueError: a bug")
    loop.progressed()
    failed = _named(health.ready(), "relay")
    assert (failed.ok, failed.detail) == (False, "ValueError: a bug")
    assert _named(health.alive(), "relay").ok
    clock.seconds += 31
    assert not _named(health.alive(), "relay").ok
    loop.worked()
    assert _named(health.ready(), "relay").ok


def test_a_dependency_that_fails_makes_the_process_unready_but_not_dead() -> None:
    clock, working = Clock(), threading.Event()

    def probe() -> None:
        if not working.is_set():
            raise UnavailableError("postgres: refused")

    health = Health(clock=clock)
    health.depend_on("postgres", probe)
    health.started()
    assert health.alive() == []
    failed = _named(health.ready(), "postgres")
    assert (failed.ok, failed.last_ok_seconds_ago) == (False, None)
    assert failed.detail == "unavailable: postgres: refused"
    assert failed.reason == "does not answer as it should (unavailable); the log says more"
    working.set()
    clock.seconds += 1
    assert _named(health.ready(), "postgres").ok


def test_probes_are_not_repeated_within_a_second() -> None:
    clock, calls = Clock(), []
    health = Health(clock=clock)
    health.depend_on("s3", lambda: calls.append(clock.seconds))
    for _ in range(5):
        health.ready()
    clock.seconds += 1
    health.ready()
    assert calls == [100.0, 101.0]


def test_a_probe_without_an_answer_is_waited_for_so_long_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_module, "READY_SECONDS_MAX", 0.05)
    answers, calls = threading.Event(), []

    def probe() -> None:
        calls.append(1)
        assert answers.wait(20)

    health = Health()
    health.depend_on("postgres", probe)
    silent = _named(health.ready(), "postgres")
    assert (silent.ok, silent.is_needed) == (False, True)
    assert silent.reason.startswith("no answer for ")
    assert not _named(health.ready(), "postgres").ok
    assert len(calls) == 1, "no other probe begins while one is under way"
    answers.set()
    assert wait_until(lambda: _named(health.ready(), "postgres").ok, 20)


def test_all_servers_are_asked_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)
    health = Health()
    health.started()
    health.depend_on("postgres", both.wait)
    health.depend_on("s3", both.wait)
    assert all(check.ok for check in health.ready())


def test_a_server_that_is_not_needed_is_told_of() -> None:
    def refuse() -> None:
        raise UnavailableError("s3 at 10.0.0.7: refused")

    health = Health()
    health.depend_on("s3", refuse, is_needed=False)
    told = _named(health.ready(), "s3")
    assert (told.ok, told.is_needed) == (False, False)


def test_a_probe_that_fails_unexpectedly_leaves_the_process_running() -> None:
    def probe() -> None:
        raise ValueError("a bug")

    health = Health()
    health.depend_on("s3", probe)
    told = _named(health.ready(), "s3")
    assert (told.ok, told.detail) == (False, "ValueError: a bug")
    assert "a bug" not in told.reason


def test_the_peak_of_memory_never_sinks_and_is_exported() -> None:
    block = bytearray(b"x") * (64 << 20)
    held = peak_resident_bytes()
    assert held > len(block)
    del block
    # The kernel adds up counters of each CPU that lag by some pages.
    assert peak_resident_bytes() > held - (2 << 20)
    text = generate_latest(new_registry()).decode()
    assert "process_resident_memory_peak_bytes" in text
    assert "process_cpu_seconds_total" in text


def test_every_process_says_which_build_it_is() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    line = f'backcast_build_info{{python="{platform.python_version()}",version="{VERSION}"}} 1.0'
    assert line in generate_latest(new_registry()).decode().splitlines()


def test_no_series_says_when_a_counter_was_made() -> None:
    registry = new_registry()
    Counter("backcast_some_things", "Things.", registry=registry).inc()
    Histogram("backcast_some_seconds", "Times.", registry=registry).observe(1)
    text = generate_latest(registry).decode()
    assert "backcast_some_things_total 1.0" in text
    assert "_created" not in text
