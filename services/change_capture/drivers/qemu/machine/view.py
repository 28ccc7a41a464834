"""The frozen view of a VM's definition: an archive in memory."""

from collections.abc import Iterator

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.local.cloned import Consistency
from services.change_capture.drivers.port import FrozenView


class MachineView:
    """An archive. Reading is thread-safe.

    Args:
        packed: its bytes.
        identity: of the VM.
        consistency: whether it is of the moment of its disks.
    """

    def __init__(self, packed: bytes, identity: str, consistency: Consistency) -> None:
        self._packed = packed
        self._identity = identity
        self._consistency = consistency

    @property
    def size_bytes(self) -> int:
        """Bytes of the archive."""
        return len(self._packed)

    @property
    def data_bytes_estimate(self) -> int:
        """All of it."""
        return len(self._packed)

    @property
    def identity(self) -> str:
        """The VM's socket: its definition may become any other."""
        return self._identity

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """All of it, as the port says."""
        end = -(-len(self._packed) // CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES
        if start < end:
            yield ByteRange(start, end)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """As the port says."""
        found = self._packed[start : start + len(buffer)]
        buffer[: len(found)] = found
        buffer[len(found) :] = bytes(len(buffer) - len(found))

    def consistency(self) -> Consistency:
        """As it was found at the cut."""
        return self._consistency

    def close(self) -> None:
        """There is nothing to let go of."""


_: type[FrozenView] = MachineView
