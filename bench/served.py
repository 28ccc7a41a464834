"""Images of which a driver knows what changed, written as their guests write them."""

import json
import random
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.measure import StepFailedError
from deploy.local.filters import FilterProcess
from deploy.local.home import BackcastHome
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES

_START_SECONDS_MAX = 10.0
#: Of the file system that images of `reflink` lie on, sparse.
_DISK_SIZE_BYTES = 64 << 30
#: Of the folder in which `bench.backcast` has its home.
_HOME = "home"


class Served(ABC):
    """An image, and a guest that writes it.

    Args:
        image: that exists.
    """

    #: Name of the driver.
    driver: str

    def __init__(self, image: Path) -> None:
        self.image = image
        #: What `backcast volume add` is told.
        self.path = image

    @abstractmethod
    def write(self, offset: int, content: bytes) -> None:
        """Write, as a guest does."""

    def close(self) -> None:  # noqa: B027 -- a file needs no end
        """End what serves it."""


class ReflinkImage(Served):
    """A file on a file system that clones."""

    driver = "reflink"

    def write(self, offset: int, content: bytes) -> None:
        with self.image.open("r+b") as file:
            file.seek(offset)
            file.write(content)


class QemuDisk(Served):
    """A disk of `qemu-storage-daemon`."""

    driver = "qemu"

    def __init__(self, image: Path) -> None:
        super().__init__(image)
        #: Sockets have short names.
        self._folder = tempfile.TemporaryDirectory(prefix="qemu")
        socket = Path(self._folder.name) / "qmp"
        self.path = socket / "top"
        self._process = subprocess.Popen(_daemon(image, socket))
        try:
            nbd = Path(f"{socket}.nbd")
            _await(nbd.exists, lambda: self._process.poll() is None, "qemu-storage-daemon")
            self._guest = NbdConnection(NbdAddress(f"unix:{nbd}"), "top")
        except BaseException:
            self.close()
            raise

    def write(self, offset: int, content: bytes) -> None:
        self._guest.write(offset, content)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


class FilteredImage(Served):
    """An image behind a volume filter of the home that `bench.backcast` has beside it."""

    driver = "filter"

    def __init__(self, image: Path, home: Path) -> None:
        super().__init__(image)
        self._filter = FilterProcess(BackcastHome(home), f"filter-{image.name}", "agent", image)
        self._filter.spawn()
        self._filter.wait_ready()
        self._guest = NbdConnection(NbdAddress(self._filter.nbd_address), "")

    def write(self, offset: int, content: bytes) -> None:
        self._guest.write(offset, content)

    def close(self) -> None:
        self._guest.close()
        self._filter.stop()


DRIVERS = ("qemu", "filter", "reflink")


def serve(driver: str, image: Path, folder: Path) -> Served:
    """Serve an image so that a driver knows what changes.

    Args:
        driver: one of `DRIVERS`.
        image: that exists; of `reflink`, on a file system that clones.
        folder: of the `Backcast` that captures it.

    Raises:
        StepFailedError: qemu-storage-daemon does not start.
    """
    if driver == "qemu":
        return QemuDisk(image)
    if driver == "filter":
        return FilteredImage(image, folder / _HOME)
    return ReflinkImage(image)


@contextmanager
def place_for(driver: str, folder: Path) -> Iterator[Path]:
    """Where images of a driver lie.

    Raises:
        StepFailedError: there can be no XFS: that needs root, loop devices and xfsprogs.
    """
    if driver != "reflink":
        yield folder
        return
    image, mount = folder / "xfs.image", folder / "xfs"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(_DISK_SIZE_BYTES)
    _run("mkfs.xfs", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(mount))
    try:
        yield mount
    finally:
        _run("umount", str(mount))


def make_image(path: Path, size_bytes: int, data: Sequence[int], rng: random.Random) -> None:
    """Make a sparse image with random bytes in some chunks."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for index in data:
            file.seek(index * CHUNK_SIZE_BYTES)
            file.write(rng.randbytes(CHUNK_SIZE_BYTES))


def _await(is_there: Callable[[], bool], runs: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while not is_there():
        if not runs() or time.monotonic() > deadline:
            raise StepFailedError(f"{what} does not start")
        time.sleep(0.05)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as err:
        raise StepFailedError(f"{' '.join(command)}: {err}; needs root and xfsprogs") from err


def _daemon(image: Path, socket: Path) -> list[str]:
    disk = {
        "driver": "raw",
        "node-name": "disk",
        "file": {"driver": "file", "filename": str(image)},
    }
    top = {"driver": "raw", "node-name": "top", "file": "disk"}
    return [
        "qemu-storage-daemon",
        "--blockdev", json.dumps(disk),
        "--blockdev", json.dumps(top),
        "--chardev", f"socket,id=qmp,path={socket},server=on,wait=off",
        "--monitor", "chardev=qmp",
        "--nbd-server", f"addr.type=unix,addr.path={socket}.nbd",
        "--export", "type=nbd,id=guest,node-name=top,writable=on",
    ]  # fmt: skip
