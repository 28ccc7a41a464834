"""Block devices over files, as real as the kernel's: they need root and its loop driver."""

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from deploy.local.fixtures import start_or_skip
from deploy.local.process import wait_until
from libs.errors import UnavailableError

SECTOR_SIZE_BYTES = 512
#: ioctls of /dev/loop-control.
_LOOP_CTL_ADD, _LOOP_CTL_REMOVE = 0x4C80, 0x4C81


class LoopDevice:
    """A loop device with a number that nobody else takes; one file after another may be behind it.

    The fixture `loop` gives one.
    """

    def __init__(self, number: int) -> None:
        self.path = Path(f"/dev/loop{number}")
        self._sysfs = Path(f"/sys/block/loop{number}")

    def attach(self, file: Path, *options: str) -> None:
        """Put a file behind it; options are those of losetup(8)."""
        _run("losetup", *options, str(self.path), str(file))

    def detach(self) -> None:
        """Take the file away; whoever has the device open must have closed it."""
        _run("losetup", "-d", str(self.path))
        gone = wait_until(lambda: not (self._sysfs / "loop").exists(), 10)
        assert gone, f"{self.path}: somebody has it open"

    def add_partition(self, start_bytes: int, size_bytes: int) -> Path:
        """Make its first partition, as a partition table would."""
        sectors = [str(n // SECTOR_SIZE_BYTES) for n in (start_bytes, size_bytes)]
        _run("addpart", str(self.path), "1", *sectors)
        return self.partition

    @property
    def has_partition(self) -> bool:
        """Whether it has a first partition."""
        return (self._sysfs / f"{self.path.name}p1").exists()

    @property
    def partition(self) -> Path:
        """Its first partition, which must be there."""
        path = Path(f"{self.path}p1")
        _make_node(path, self._sysfs / path.name)
        return path

    def remove_partition(self) -> None:
        """Forget its first partition."""
        _run("delpart", str(self.path), "1")


@pytest.fixture
def loop() -> Iterator[LoopDevice]:
    """A loop device; where there can be none, a failure in continuous integration, else a skip."""
    with ExitStack() as stack:
        devices = list[LoopDevice]()
        start_or_skip(lambda: devices.append(stack.enter_context(_loop_device())))
        yield devices[0]


@contextmanager
def _loop_device() -> Iterator[LoopDevice]:
    """A loop device, while the context lasts.

    Raises:
        UnavailableError: not on this machine, or not for this user; with the reason.
    """
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        number = _new_number(control)
    except OSError as err:
        raise UnavailableError(f"no loop device: {err}; block devices need root") from err
    device = LoopDevice(number)
    try:
        _make_node(device.path, Path(f"/sys/block/loop{number}"))
        yield device
    finally:
        with suppress(subprocess.CalledProcessError):
            device.detach()
        fcntl.ioctl(control, _LOOP_CTL_REMOVE, number)
        os.close(control)


def _new_number(control: int) -> int:
    """A number that no tool takes by itself: those look for the first free one, from 0 on."""
    for number in range(1000, 2000):
        try:
            return fcntl.ioctl(control, _LOOP_CTL_ADD, number)
        except FileExistsError:
            continue
    raise OSError(errno.EEXIST, "1000 loop devices are there already")


def _make_node(path: Path, sysfs: Path) -> None:
    """A container's /dev does not follow the kernel's."""
    if not path.exists():
        major, minor = (sysfs / "dev").read_text().split(":")
        os.mknod(path, 0o600 | 0o060000, os.makedev(int(major), int(minor)))


def _run(*argv: str) -> None:
    # losetup is where users do not look.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(argv, check=True, capture_output=True, env=os.environ | {"PATH": path})
