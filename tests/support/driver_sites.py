"""A driver each with one volume that can be written to, for the contract of drivers."""

import random
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from uuid import UUID, uuid4

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import pack_runs, runs_of
from libs.runtime.threads import start_thread
from services.change_capture.drivers.filter.driver import FilterDriver
from services.change_capture.drivers.hints.driver import HintsDriver
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.port import Driver, SourceOrder
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.reflink.driver import ReflinkDriver
from services.change_capture.drivers.scan.driver import ScanDriver
from services.change_capture.filter.process import VolumeFilter
from tests.support.filters import Guest, filter_settings
from tests.support.memory_driver import MemoryDriver, MemoryVolume
from tests.support.qemu import StorageDaemon
from tests.support.roots import EVERYTHING
from tests.unit.change_capture.capturing import Volume

VOLUME = UUID(int=1)
SECRET = b"s" * 32


class Site(ABC):
    """A driver, and one volume that can be written to."""

    driver: Driver
    path: Path
    #: Whether it remembers something of a base by itself.
    remembers = True

    def __init__(self) -> None:
        self.rng = random.Random(5)
        #: Chunks that changed since the base, as the storage below notices it.
        self.changed = set[int]()

    @abstractmethod
    def write_bytes(self, offset: int, content: bytes) -> None:
        """Write."""

    @abstractmethod
    def resize(self, size_bytes: int) -> None:
        """Cut the volume off, or add zeros."""

    @abstractmethod
    def replace(self) -> None:
        """Put another device with the same bytes in its place."""

    def close(self) -> None:  # noqa: B027 -- most start nothing
        """End what was started for it."""

    def sealed(self) -> None:
        """A session was sealed: what changes from now on is since its snapshot."""
        self.changed.clear()

    def write(self, first: int, count: int) -> None:
        self.write_bytes(first * CHUNK_SIZE_BYTES, self.rng.randbytes(count * CHUNK_SIZE_BYTES))

    def zero(self, first: int, count: int) -> None:
        self.write_bytes(first * CHUNK_SIZE_BYTES, bytes(count * CHUNK_SIZE_BYTES))

    def order(self, base: UUID | None, *, is_trusted: bool = True) -> SourceOrder:
        return SourceOrder(
            volume=VOLUME,
            session=uuid4(),
            path=self.path,
            base=base,
            is_trusted=is_trusted,
            secret=SECRET,
        )


class ScanSite(Site):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.path = folder / "volume"
        self.file = Volume(self.path, self.rng)
        self.driver = ScanDriver(folder / "state", EVERYTHING)

    def write_bytes(self, offset: int, content: bytes) -> None:
        self.file.write_bytes(offset, content)

    def zero(self, first: int, count: int) -> None:
        self.file.punch(first, count)

    def resize(self, size_bytes: int) -> None:
        self.file.resize(size_bytes)

    def replace(self) -> None:
        content = self.path.read_bytes()
        (self.folder / "other").write_bytes(content)
        (self.folder / "other").replace(self.path)


class HintsSite(ScanSite):
    """Notes what it writes, as the storage below would, and says it in the order."""

    remembers = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.driver = HintsDriver(EVERYTHING)

    def write_bytes(self, offset: int, content: bytes) -> None:
        super().write_bytes(offset, content)
        self._note(offset, offset + len(content))

    def zero(self, first: int, count: int) -> None:
        super().zero(first, count)
        self._note(first * CHUNK_SIZE_BYTES, (first + count) * CHUNK_SIZE_BYTES)

    def resize(self, size_bytes: int) -> None:
        """Storage lists writes, and cutting off is none."""
        super().resize(size_bytes)
        self.changed = {i for i in self.changed if i < -(-size_bytes // CHUNK_SIZE_BYTES)}

    def order(self, base: UUID | None, *, is_trusted: bool = True) -> SourceOrder:
        made = super().order(base, is_trusted=is_trusted)
        return SourceOrder(
            volume=made.volume,
            session=made.session,
            path=made.path,
            base=base,
            is_trusted=is_trusted,
            secret=made.secret,
            hints=pack_runs(runs_of(sorted(self.changed))),
        )

    def _note(self, start: int, end: int) -> None:
        self.changed |= {*range(start // CHUNK_SIZE_BYTES, -(-end // CHUNK_SIZE_BYTES))}


class ReflinkSite(ScanSite):
    """An image in a folder of XFS or btrfs.

    Args:
        folder: of the file system.
        state: the agent's state folder.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        super().__init__(folder)
        self.state = state
        #: Name of its file system in the kernel.
        with self.path.open("rb") as file:
            self.kind = file_system_of(file.fileno()).kind
        self.driver = ReflinkDriver(state, EVERYTHING)


class QemuSite(Site):
    """A disk of qemu-storage-daemon, written to over NBD as a guest does.

    Args:
        folder: gets the image, the sockets and the agent's state folder.
        kind: format of the image.
    """

    def __init__(self, folder: Path, kind: str = "qcow2") -> None:
        super().__init__()
        self.state = folder / "state"
        self.daemon = StorageDaemon(folder, kind)
        self.path = self.daemon.volume
        self.driver = QemuDriver(self.state, EVERYTHING)

    def close(self) -> None:
        self.daemon.close()

    def write_bytes(self, offset: int, content: bytes) -> None:
        if self.daemon.size_bytes < offset + len(content):
            self.resize(offset + len(content))
        self.daemon.guest.write(offset, content)

    def zero(self, first: int, count: int) -> None:
        self.daemon.guest.write_zeroes(first * CHUNK_SIZE_BYTES, count * CHUNK_SIZE_BYTES)

    def resize(self, size_bytes: int) -> None:
        self.daemon.resize(size_bytes)

    def replace(self) -> None:
        self.daemon.quit()
        image = self.daemon.image
        copy = image.with_name("other")
        copy.write_bytes(image.read_bytes())
        copy.replace(image)
        self.daemon.start()


class FilterSite(ScanSite):
    """A filter in front of an image; all writes go through it, but for resizing.

    Whoever takes a site out of use closes it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path.touch()
        self.driver = FilterDriver(folder / "filters", EVERYTHING)
        self.waiting: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        self.filter = VolumeFilter(filter_settings(self.folder, self.path))
        self.guest = Guest(self.filter.volume)

    def write_bytes(self, offset: int, content: bytes) -> None:
        """Write; while writes are held, somebody else waits for the release in our place."""
        self._join()
        if self.filter.volume.valve.is_closed:
            self.waiting = start_thread("guest", self.guest.write, offset, content)
            return
        if offset + len(content) > self.path.stat().st_size:
            self.resize(offset + len(content))
        self.guest.write(offset, content)

    def _join(self) -> None:
        if self.waiting:
            self.waiting.join(60)
            assert not self.waiting.is_alive()
        self.waiting = None

    def zero(self, first: int, count: int) -> None:
        self.guest.zero(first * CHUNK_SIZE_BYTES, count * CHUNK_SIZE_BYTES)

    def resize(self, size_bytes: int) -> None:
        """A filter serves a volume of one size."""
        self.filter.stop()
        super().resize(size_bytes)
        self.start()

    def replace(self) -> None:
        self.filter.stop()
        super().replace()
        self.start()

    def close(self) -> None:
        self._join()
        self.filter.stop()


class MemorySite(Site):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path("/memory")
        self.driver = MemoryDriver()
        self.driver.volumes[self.path] = MemoryVolume()

    @property
    def volume(self) -> MemoryVolume:
        assert isinstance(self.driver, MemoryDriver)
        return self.driver.volumes[self.path]

    def write_bytes(self, offset: int, content: bytes) -> None:
        if len(self.volume.content) < offset + len(content):
            self.volume.resize(offset + len(content))
        self.volume.write(offset, content)

    def resize(self, size_bytes: int) -> None:
        self.volume.resize(size_bytes)

    def replace(self) -> None:
        assert isinstance(self.driver, MemoryDriver)
        self.driver.volumes[self.path] = MemoryVolume(bytearray(self.volume.content))
