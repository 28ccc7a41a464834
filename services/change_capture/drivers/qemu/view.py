"""The frozen view of a disk that QEMU serves: bytes of the moment of the cut, read over NBD."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from libs.errors import BackcastError, SourceError
from libs.nbd.export import BASE_ALLOCATION, STATE_ZERO
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.port import FrozenView
from services.change_capture.drivers.qemu.graph import Node
from services.change_capture.drivers.qemu.names import ViewNames
from services.change_capture.drivers.qemu.place import DiskPlace
from services.change_capture.drivers.qemu.process import DiskProcess

log = logging.getLogger(__name__)

#: Where data are is asked for in stretches that grow: who wants the first extent alone, as the
#: sample does, pays little, and a large hole is soon behind. Measured: eight such look-ups in a
#: fragmented file took 16 ms, and 60 ms in stretches of 1 GiB.
_FIRST_ASKED_SIZE_BYTES = 64 << 20
_ASKED_FACTOR = 4


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk that was cut."""

    #: Of what was made for it.
    names: ViewNames
    #: That serves the disk.
    process: DiskProcess
    #: The disk in it.
    place: DiskPlace
    #: The disk's own node, which has the bitmaps.
    node: Node
    #: Whether all that was cut with it is of the same moment.
    is_frozen: bool


class QemuView:
    """A cut disk. Reading is thread-safe. The disk is let go when the view is closed.

    Args:
        facts: what was cut.
        identity: of the device.
        let_go: removes what was made for it.

    Raises:
        BackcastError: the export cannot be read. Nothing is let go.
    """

    def __init__(
        self, facts: DiskFacts, identity: str, let_go: Callable[[DiskProcess, ViewNames, str], None]
    ) -> None:
        self.names, self.process, self.place = facts.names, facts.process, facts.place
        #: Name of the disk's own node.
        self.node = facts.node.name
        self._facts = facts
        self._identity = identity
        self._let_go = let_go
        self._nbd = self.process.read_export(self.names.export, [BASE_ALLOCATION])
        self._size_bytes = self._nbd.export.size_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk when it was cut."""
        return self._size_bytes

    @property
    def data_bytes_estimate(self) -> int:
        """What the disk takes where it is stored, at most its size."""
        return min(self._facts.node.allocated_bytes, self._size_bytes)

    @property
    def identity(self) -> str:
        """VM, disk, format, file and size."""
        return self._identity

    def data(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        """Where data may be from byte ``start`` on, as the port says; up to a chunk's end ``end``.

        Raises:
            SourceError: the view broke.
        """
        done, until = start, self._size_bytes if end is None else min(end, self._size_bytes)
        at, asked_bytes = start, _FIRST_ASKED_SIZE_BYTES
        while at < until:
            within = ByteRange(at, min(until, at + asked_bytes))
            for extent in self._data_within(within):
                begin = max(done, extent.start - extent.start % CHUNK_SIZE_BYTES)
                done = -(-extent.end // CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES
                if done > begin:
                    yield ByteRange(begin, done)
            at, asked_bytes = within.end, asked_bytes * _ASKED_FACTOR

    def _data_within(self, within: ByteRange) -> Iterator[ByteRange]:
        try:
            for extent in self._nbd.extents(BASE_ALLOCATION, within):
                if not extent.flags & STATE_ZERO:
                    yield ByteRange(extent.offset, extent.end)
        except BackcastError as err:
            raise self._broken(err) from err

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the disk's bytes of the cut; beyond its end are zeros.

        Raises:
            SourceError: the view broke. The buffer is undefined.
        """
        wanted = max(0, min(len(buffer), self._size_bytes - start))
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)
        if not wanted:
            return
        try:
            self._nbd.read_into(start, buffer[:wanted])
        except BackcastError as err:
            raise self._broken(err) from err

    def consistency(self) -> Literal["frozen", "unvouched"]:
        """``frozen``: what the guest overwrites is copied before, or reading fails.

        ``unvouched`` at a barrier that cut something else at another moment.
        """
        return "frozen" if self._facts.is_frozen else "unvouched"

    def hang_up(self) -> None:
        """End the reading, and let go of nothing."""
        self._nbd.close()

    def close(self) -> None:
        """Let go of the disk; what cannot be removed now is removed later."""
        self.hang_up()
        try:
            self._let_go(self.process, self.names, self.node)
        except BackcastError as err:
            about = {"path": str(self.place.socket), "detail": str(err)}
            log.warning("disk of a VM not let go; the next capture of it does", extra=about)

    def _broken(self, err: BackcastError) -> SourceError:
        return SourceError(
            f"disk {self.place.disk} of {self.place.socket}: its frozen view broke: {err}; did the "
            f"guest overwrite more than the agent's state folder has room for, or did the VM end? "
            f"Take the snapshot again"
        )


_: type[FrozenView] = QemuView
