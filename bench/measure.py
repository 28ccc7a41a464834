"""Measuring one step: wall time, CPU and peak memory of the command and of every server meanwhile.

Reads /proc, so it sees servers that are not children of the benchmark.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.datasets import data_extents

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class StepFailedError(Exception):
    """A command of a step ended with an error; the message has the end of its output."""


@dataclass(frozen=True)
class Usage:
    """What a step cost the one who ran it: the command, or the program that asked."""

    wall_seconds: float
    cpu_seconds: float
    #: Peak resident memory of the largest process of the command.
    rss_bytes: int
    #: What the command printed, and what it reported as JSON where it does.
    output: str = ""
    reported: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerUsage:
    """What a step cost a server: all its processes' CPU, and its largest process's peak memory."""

    cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True)
class Meanwhile:
    """What servers, and the whole machine, used during a step."""

    servers: dict[str, ServerUsage]
    #: Busy CPU seconds of all cores, whoever used them; and those that the hypervisor gave away.
    machine_cpu_seconds: float
    stolen_cpu_seconds: float


def run_command(argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path, log: Path) -> Usage:
    """Runs a command to its end and measures it with all the children that it waited for.

    Its standard output is returned; its standard error is appended to `log`.

    Raises:
        StepFailedError: the command's exit status is not zero.
    """
    with log.open("a") as errors:
        errors.write(f"\n$ {' '.join(map(str, argv))}\n")
        errors.flush()
        start = time.perf_counter()
        process = subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        errors.write(output)
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-20:])
        message = f"{' '.join(map(str, argv))}: exit status {process.returncode}; {log}:\n{tail}"
        raise StepFailedError(message)
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output)


class ServerWatch:
    """CPU and peak memory of servers from construction until `stop`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._machine = _machine_cpu()
        self._cpu = {name: _tree_cpu_seconds(_tree(pid)) for name, pid in pids.items()}
        for pid in pids.values():
            for member in _tree(pid):
                with suppress(OSError):
                    (_PROC / str(member) / "clear_refs").write_text("5")  # resets the peak

    def stop(self) -> "Meanwhile":
        """Returns what was used since construction."""
        servers = {}
        for name, pid in self._pids.items():
            tree = _tree(pid)
            used = max(0.0, _tree_cpu_seconds(tree) - self._cpu[name])
            servers[name] = ServerUsage(used, max(map(peak_rss_bytes, tree), default=0))
        busy, stolen = _machine_cpu()
        return Meanwhile(servers, busy - self._machine[0], stolen - self._machine[1])


def peak_rss_bytes(pid: int) -> int:
    """Returns the process's peak resident memory (VmHWM), 0 if it is gone."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def warm(image: Path) -> None:
    """Reads the image's data into the page cache and lets the machine finish its writes."""
    buffer = bytearray(8 << 20)
    with image.open("rb", buffering=0) as file:
        for start, end in data_extents(image):
            for offset in range(start, end, len(buffer)):
                os.preadv(file.fileno(), [memoryview(buffer)[: end - offset]], offset)
    os.sync()


def _tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    pids, found = [root], []
    while pids:
        pid = pids.pop()
        found.append(pid)
        with suppress(OSError):
            for children in (_PROC / str(pid) / "task").glob("*/children"):
                pids.extend(map(int, children.read_text().split()))
    return found


def _tree_cpu_seconds(tree: Sequence[int]) -> float:
    """CPU seconds of living processes and of those children that they have waited for."""
    ticks = 0
    for pid in tree:
        with suppress(OSError):
            fields = (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS_PER_SECOND


def _machine_cpu() -> tuple[float, float]:
    """Busy and stolen CPU seconds of all cores since boot."""
    fields = (_PROC / "stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, fields)
    busy = user + nice + system + irq + softirq
    return busy / _TICKS_PER_SECOND, stolen / _TICKS_PER_SECOND
