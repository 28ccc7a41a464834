"""The volume filter against `qemu-nbd` in front of the same file, and against itself.

Random requests of 4 KiB one by one and sixteen at a time, and long ones in a row, by `qemu-img
bench` and `nbdcopy`. The servers take turns, so that what else the machine does hits both. A figure
is the median of the turns' ratios: more than 100 % says that the filter is the faster one.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import StepFailedError
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.filter.messages import CutNow, HoldWrites, ReleaseWrites
from services.change_capture.filter.places import control_path

_SIZE_BYTES = 1 << 30
#: From one random request to the next: odd many blocks, so that no two are close.
_STRIDE_BYTES = 4096 * 7919
_START_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Compared:
    """What a load took by the filter and by another server, in each turn."""

    filter_seconds: list[float]
    other_seconds: list[float]

    @property
    def ratio(self) -> float:
        """How fast the filter is, as a part of how fast the other one is; the turns' median."""
        pairs = zip(self.filter_seconds, self.other_seconds, strict=True)
        return statistics.median(other / own for own, other in pairs)


def measure_filter(repeat: int, request_count: int, folder: Path) -> dict[str, Compared]:
    """All loads, against `qemu-nbd`; and writes while a view is open, against writes without one.

    Args:
        repeat: turns of each server.
        request_count: random requests of a turn.
        folder: for the image of 1 GiB, and the sockets.

    Raises:
        StepFailedError: a program is missing or fails.
    """
    image = folder / "image"
    with image.open("wb") as file:
        for _ in range(_SIZE_BYTES >> 24):
            file.write(os.urandom(1 << 24))
        os.fsync(file.fileno())
    loads = {
        f"{name} of 4 KiB, depth {depth}": _random(request_count, depth, writes=writes)
        for name, writes in (("reads", False), ("writes", True))
        for depth in (1, 16)
    }
    loads["reads in a row"] = ["nbdcopy", "URI", "null:"]
    loads["writes of 1 MiB in a row"] = _bench(512, 4, 1 << 20, 1 << 20, writes=True)
    with _qemu(image, folder) as qemu, _filter(image, folder) as own:
        found = {
            name: _compare(partial(_timed, load, own), partial(_timed, load, qemu), repeat)
            for name, load in loads.items()
        }
        write = _random(request_count, 16, writes=True)
        found["writes of 4 KiB, depth 16, with a view against without"] = _compare(
            lambda: _with_view(image, folder, lambda: _timed(write, own)),
            lambda: _timed(write, own),
            repeat,
        )
    return found


def _compare(own: Callable[[], float], other: Callable[[], float], repeat: int) -> Compared:
    turns = [(own(), other()) for _ in range(repeat)]
    return Compared([one for one, _ in turns], [two for _, two in turns])


def _random(count: int, depth: int, *, writes: bool) -> list[str]:
    return _bench(count, depth, 4096, _STRIDE_BYTES, writes=writes)


def random_writes(count: int, depth: int, uri: str) -> list[str]:
    """The command that writes scattered blocks of 4 KiB."""
    return [uri if part == "URI" else part for part in _random(count, depth, writes=True)]


def _bench(count: int, depth: int, size: int, stride: int, *, writes: bool) -> list[str]:
    load = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(count), "-d", str(depth)]
    return [*load, "-s", str(size), "-S", str(stride), *(["-w"] if writes else []), "URI"]


def _timed(load: list[str], uri: str) -> float:
    begun = time.monotonic()
    _run([uri if part == "URI" else part for part in load])
    return time.monotonic() - begun


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        detail = getattr(err, "stderr", b"") or str(err).encode()
        raise StepFailedError(f"{command[0]}: {detail.decode(errors='replace')}") from err


def _with_view(image: Path, folder: Path, load: Callable[[], float]) -> float:
    """What a load takes while a capture has a view, which nothing was written to before."""
    with image.open("rb") as file:
        agent = FilterClient(control_path(folder / "filters", file.fileno()))
    with contextlib.closing(agent):
        for order in (HoldWrites(10.0), CutNow(), ReleaseWrites()):
            agent.ask(order)
        return load()


@contextlib.contextmanager
def _qemu(image: Path, folder: Path) -> Iterator[str]:
    path = folder / "qemu.sock"
    command = ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "--cache=writeback", "-k", str(path)]
    with _running([*command, str(image)], {}) as uri_of:
        yield uri_of(path)


@contextlib.contextmanager
def _filter(image: Path, folder: Path) -> Iterator[str]:
    path = folder / "filter.sock"
    settings = {
        "BACKCAST_FILTER_VOLUME": str(image),
        "BACKCAST_FILTER_NBD_LISTEN": f"unix:{path}",
        "BACKCAST_FILTER_STATE_FOLDER": str(folder / "state"),
        "BACKCAST_FILTER_CONTROL_FOLDER": str(folder / "filters"),
    }
    command = [sys.executable, "-m", "services.change_capture.filter"]
    with _running(command, settings) as uri_of:
        yield uri_of(path)


@contextlib.contextmanager
def _running(command: list[str], settings: dict[str, str]) -> Iterator[Callable[[Path], str]]:
    try:
        server = subprocess.Popen(
            command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as err:
        raise StepFailedError(f"{command[0]}: {err}; apt-get install qemu-utils") from err

    def uri_of(path: Path) -> str:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not path.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise StepFailedError(f"{command[0]} does not listen at {path}")
            time.sleep(0.02)
        return f"nbd+unix:///?socket={path}"

    try:
        yield uri_of
    finally:
        server.terminate()
        server.wait()
