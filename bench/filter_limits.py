"""What the volume filter costs at its limits: memory of a large volume, and holds under load."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.filter import random_writes
from bench.measure import StepFailedError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.filter.messages import (
    CloseView,
    CutNow,
    HoldWrites,
    ReleaseWrites,
)
from services.change_capture.filter.places import control_path
from services.change_capture.filter.process import VolumeFilter
from services.change_capture.filter.settings import Settings

#: A file system that has files of 64 TiB without blocks; those of ext4 end at 16 TiB.
_SPARSE_FOLDER = Path("/dev/shm")
_SECONDS_MAX = 120.0


@dataclass(frozen=True)
class Memory:
    """Resident memory of a filter's process in bytes."""

    started: int
    #: Every chunk is marked.
    dense: int
    #: The highest ever, with a cut that is taken back.
    peak: int


def measure_memory(size_bytes: int, folder: Path) -> Memory:
    """A volume of which every chunk is marked, then cut, then saved.

    Args:
        size_bytes: of the volume, which is a hole all over.
        folder: for the state.

    Raises:
        StepFailedError: the filter fails.
    """
    image = _SPARSE_FOLDER / f"backcast-bench-{os.getpid()}"
    try:
        with image.open("wb") as file:
            file.truncate(size_bytes)
        with _running(image, folder) as (process, address, control):
            started = _memory_of(process, "VmRSS")
            with NbdConnection(address, "") as guest:
                guest.write_zeroes(0, size_bytes)
            dense = _memory_of(process, "VmRSS")
            with contextlib.closing(FilterClient(control)) as agent:
                for order in (HoldWrites(60.0), CutNow(), ReleaseWrites(), CloseView()):
                    agent.ask(order)
            return Memory(started, dense, _memory_of(process, "VmHWM"))
    finally:
        image.unlink(missing_ok=True)


def measure_holds(count: int, folder: Path) -> list[float]:
    """For how long writes wait at a cut, in seconds, ascending, while a guest writes 4 KiB blocks.

    Args:
        count: cuts.
        folder: for an image of 1 GiB, and the state.

    Raises:
        StepFailedError: `qemu-img` fails.
    """
    image, listen, held = folder / "image", folder / "filter.sock", list[float]()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    settings = Settings(
        volume=image,
        nbd_listen=f"unix:{listen}",
        state_folder=folder / "state",
        control_folder=folder / "filters",
    )
    one = VolumeFilter(settings)
    try:
        one.volume.valve.on_hold_end = lambda seconds, _is_broken: held.append(seconds)
        with _writing(f"nbd+unix:///?socket={listen}"):
            for _ in range(count):
                owner = object()
                one.cuts.hold(owner, 10.0)
                one.cuts.cut(owner)
                one.cuts.release(owner)
                one.cuts.end(owner)
    finally:
        one.stop()
    return sorted(held)


@contextlib.contextmanager
def _writing(uri: str) -> Iterator[None]:
    """Somebody writes all the time."""
    load = random_writes(1 << 30, 16, uri)
    guest = subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        if guest.poll() is not None:
            raise StepFailedError("qemu-img ended while it should write")
    finally:
        guest.kill()
        guest.wait()


@contextlib.contextmanager
def _running(
    image: Path, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], NbdAddress, Path]]:
    address = f"unix:{folder / 'filter.sock'}"
    settings = {
        "BACKCAST_FILTER_VOLUME": str(image),
        "BACKCAST_FILTER_NBD_LISTEN": address,
        "BACKCAST_FILTER_STATE_FOLDER": str(folder / "state"),
        "BACKCAST_FILTER_CONTROL_FOLDER": str(folder / "filters"),
    }
    with image.open("rb") as file:
        control = control_path(folder / "filters", file.fileno())
    process = subprocess.Popen(
        [sys.executable, "-m", "services.change_capture.filter"],
        env=os.environ | settings,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _SECONDS_MAX
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StepFailedError("the filter does not start")
            time.sleep(0.02)
        yield process, NbdAddress(address, patience_seconds=_SECONDS_MAX), control
    finally:
        process.terminate()
        process.wait()


def _memory_of(process: subprocess.Popen[bytes], what: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise StepFailedError("the filter has ended")
