import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.home import BackcastHome
from deploy.local.process import LocalProcess, wait_until
from libs.errors import UnavailableError

_SLEEP = ("sleep", "1000")


@pytest.fixture
def home(tmp_path: Path) -> BackcastHome:
    return BackcastHome(tmp_path / "home", tied=True)


@pytest.fixture
def process(home: BackcastHome) -> Iterator[LocalProcess]:
    process = LocalProcess(home, "server")
    yield process
    process.stop(signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_process_is_found_again_by_another_command(
    home: BackcastHome, process: LocalProcess
) -> None:
    process.start(_SLEEP)
    found = LocalProcess(home, "server").pid
    assert found == process.pid
    assert found is not None
    assert wait_until(lambda: Path(f"/proc/{found}/cmdline").read_text() == "sleep\x001000\x00", 10)


def test_stop_from_another_command_ends_it(home: BackcastHome, process: LocalProcess) -> None:
    process.start(_SLEEP)
    pid = process.pid
    LocalProcess(home, "server").stop()
    assert pid is not None
    assert not lives(pid)
    assert process.pid is None


def test_stop_forces_what_ignores_the_signal(process: LocalProcess) -> None:
    process.start(["sh", "-c", "trap '' TERM INT; echo deaf; while :; do sleep 1; done"])
    assert wait_until(lambda: "deaf" in process.log_file.read_text(), 10)
    pid = process.pid
    process.stop(grace_seconds=0.2)
    assert pid is not None
    assert not lives(pid)


def test_stop_ends_children_that_outlive_the_process(process: LocalProcess, tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    process.start(["sh", "-c", f"sleep 1000 & echo $! >{child_file}; wait"])
    assert wait_until(lambda: child_file.exists() and child_file.read_text().endswith("\n"), 10)
    process.stop()
    assert wait_until(lambda: not lives(int(child_file.read_text())), 10)


def test_id_that_belongs_to_another_process_now_is_left_alone(
    home: BackcastHome, process: LocalProcess
) -> None:
    process.start(_SLEEP)
    run_file = home.run_file("server")
    with subprocess.Popen(_SLEEP) as stranger:
        recycled = run_file.read_text().replace(str(process.pid), str(stranger.pid), 1)
        process.stop()
        run_file.write_text(recycled)
        assert LocalProcess(home, "server").pid is None
        LocalProcess(home, "server").stop()
        assert stranger.poll() is None
        stranger.kill()


def test_process_of_an_earlier_boot_does_not_run(home: BackcastHome, process: LocalProcess) -> None:
    process.start(_SLEEP)
    run_file = home.run_file("server")
    registered = run_file.read_text()
    run_file.write_text(registered.splitlines()[0] + "\n00000000-0000-0000-0000-000000000000\n")
    assert LocalProcess(home, "server").pid is None
    run_file.write_text(registered)


def test_process_that_ends_while_starting_is_told_with_its_log(process: LocalProcess) -> None:
    process.start(["sh", "-c", "echo no such disk; exit 3"])
    with pytest.raises(UnavailableError, match=r"(?s)server ended while starting.*no such disk"):
        process.wait_ready(lambda: False, seconds=10)


def test_process_that_is_never_ready_is_told(process: LocalProcess) -> None:
    process.start(_SLEEP)
    with pytest.raises(UnavailableError, match=r"server not ready after 0\.1 s"):
        process.wait_ready(lambda: False, seconds=0.1)


def test_settings_of_the_callers_shell_do_not_reach_servers(
    process: LocalProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKCAST_CHUNKER_LISTEN", "elsewhere")
    process.start(["printenv"], {"BACKCAST_CHUNKER_S3_BUCKET": "ours"})
    assert wait_until(lambda: process.pid is None, 10)
    printed = process.log_file.read_text()
    assert "BACKCAST_CHUNKER_S3_BUCKET=ours" in printed
    assert "elsewhere" not in printed


def test_tied_process_dies_with_a_killed_starter(home: BackcastHome, process: LocalProcess) -> None:
    script = (
        "import sys, pathlib, signal\n"
        "from deploy.local.home import BackcastHome\n"
        "from deploy.local.process import LocalProcess\n"
        "home = BackcastHome(pathlib.Path(sys.argv[1]), tied=True)\n"
        "LocalProcess(home, 'server').start(['sh', '-c', 'echo runs; sleep 1000'])\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(home.folder)]) as starter:
        log = process.log_file
        assert wait_until(lambda: log.exists() and "runs" in log.read_text(), 30)
        pid = process.pid
        assert pid is not None
        os.kill(starter.pid, signal.SIGKILL)
        assert wait_until(lambda: not lives(pid), 10)
