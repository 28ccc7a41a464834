"""A range of a volume as the target of a restore: cut out of a file, or in order into a stream."""

import os
import time
from collections.abc import Callable, Sequence

from libs.errors import OutputError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange, ChunkRun
from libs.restoring.fetch import FetchTarget
from libs.restoring.target import RestoreTarget

#: Chunks of one piece of a stream: as much as one GET brings. Some pieces are in memory at once.
PIECE_CHUNK_COUNT = 512
_ZEROS = bytes(1 << 20)


class RangeTarget:
    """Writes a range of a volume to a target of its length, which begins where the range does."""

    def __init__(self, target: RestoreTarget, wanted: ByteRange) -> None:
        self._target = target
        self._wanted = wanted

    @property
    def is_device(self) -> bool:
        """Whether what is never written must be zeroed."""
        return self._target.is_device

    def write(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `FetchTarget`."""
        wanted, inside = self._wanted, list[memoryview]()
        at = max(offset, wanted.start) - wanted.start
        for buffer in buffers:
            start, end = max(offset, wanted.start), min(offset + len(buffer), wanted.end)
            if start < end:
                inside.append(buffer[start - offset : end - offset])
            offset += len(buffer)
        if inside:
            self._target.write(at, inside)

    def reserve(self, wanted: ByteRange) -> None:
        """As `RestoreTarget`."""
        if inside := self._inside(wanted):
            self._target.reserve(inside)

    def zero(self, wanted: ByteRange) -> None:
        """As `RestoreTarget`."""
        if inside := self._inside(wanted):
            self._target.zero(inside)

    def _inside(self, some: ByteRange) -> ByteRange | None:
        start, end = max(some.start, self._wanted.start), min(some.end, self._wanted.end)
        origin = self._wanted.start
        return ByteRange(start - origin, end - origin) if start < end else None


class Piece:
    """Some chunks of a volume in memory, filled in any order and by any thread."""

    def __init__(self, chunks: ChunkRun) -> None:
        self.start = chunks.first * CHUNK_SIZE_BYTES
        self.end = chunks.end * CHUNK_SIZE_BYTES
        self._content = memoryview(bytearray(self.end - self.start))

    def write(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `FetchTarget`."""
        at = offset - self.start
        for buffer in buffers:
            self._content[at : at + len(buffer)] = buffer
            at += len(buffer)

    def part(self, wanted: ByteRange) -> memoryview:
        """The bytes of the piece that lie in a range."""
        return self._content[max(wanted.start - self.start, 0) : max(wanted.end - self.start, 0)]


class StreamOutput:
    """A descriptor that takes bytes in order, such as a pipe.

    Args:
        descriptor: open for writing; stays the caller's.
        name: for messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def write(self, view: memoryview) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: nobody reads it any more.
            OutputError: it does not take the bytes.
        """
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            raise
        except OSError as err:
            raise OutputError(f"{self._name}: cannot be written: {err.strerror}") from err

    def zeros(self, count: int, progressed: Callable[[int], None]) -> None:
        """Write so many zeros; errors as `write`. ``progressed`` is told how many, now and then."""
        told = time.monotonic()
        done = 0
        while count > 0:
            piece = memoryview(_ZEROS)[:count]
            self.write(piece)
            count, done = count - len(piece), done + len(piece)
            if time.monotonic() - told > 0.1 or count == 0:
                progressed(done)
                told, done = time.monotonic(), 0


_: type[FetchTarget] = RangeTarget
__: type[FetchTarget] = Piece
