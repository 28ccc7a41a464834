import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import ServerWatch, StepFailedError, peak_rss_bytes, run_command

MIB = 1 << 20
#: Burns 0.3 CPU seconds in a child process and touches 64 MiB there.
BUSY = """
import os, sys, time
if os.fork() == 0:
    block = bytearray(b"x") * (64 << 20)
    while time.process_time() < 0.3:
        pass
    os._exit(0)
os.wait()
print("done", flush=True)
sys.stdin.read()
"""


def test_a_command_is_measured_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    usage = run_command((sys.executable, "-c", BUSY), os.environ, tmp_path, log)
    assert usage.output == "done\n"
    assert usage.cpu_seconds >= 0.3
    assert usage.wall_seconds >= 0.3
    assert usage.rss_bytes >= 64 * MIB


def test_a_command_that_fails_says_so_with_the_end_of_its_output(tmp_path: Path) -> None:
    argv = ("sh", "-c", "echo out of paper >&2; exit 3")
    with pytest.raises(StepFailedError, match=r"(?s)exit status 3.*out of paper"):
        run_command(argv, os.environ, tmp_path, tmp_path / "log")


def test_a_servers_cpu_counts_the_children_that_it_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", BUSY), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        watch = ServerWatch({"busy": server.pid})
        assert server.stdout.readline() == b"done\n"
        meanwhile = watch.stop()
        idle = ServerWatch({"busy": server.pid}).stop()
        server.communicate()
    assert meanwhile.servers["busy"].cpu_seconds >= 0.25
    assert meanwhile.machine_cpu_seconds >= 0.25
    assert idle.servers["busy"].cpu_seconds <= 0.05


def test_peak_memory_starts_anew_with_each_watch() -> None:
    block = bytearray(b"x") * (64 * MIB)
    before = peak_rss_bytes(os.getpid())
    del block
    ServerWatch({"this": os.getpid()})
    assert peak_rss_bytes(os.getpid()) <= before - 32 * MIB


def test_a_server_that_is_gone_costs_nothing() -> None:
    with subprocess.Popen(("true",)) as gone:
        gone.wait()
    usage = ServerWatch({"gone": gone.pid}).stop().servers["gone"]
    assert (usage.cpu_seconds, usage.rss_bytes) == (0.0, 0)
