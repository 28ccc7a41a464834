"""The volume behind a filter: what its writes do, and in which order.

A write: it passes the valve → its chunks are marked → bytes from before the cut are kept, if a
frozen view is open → it is written → it is acknowledged. A crash of this process after any step
loses all marks, which the next process says (`tracking`); the volume has the write or not, as after
a crash of any disk. A mark without a write costs one chunk that is read for nothing.
"""

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.keeping import Keeper
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.valve import Valve

_SHIFT = CHUNK_SIZE_BYTES.bit_length() - 1


class FilteredVolume:
    """A disk whose writes are marked, and whose bytes of a cut can be kept. Thread-safe.

    Whoever writes is inside the valve.

    Args:
        disk: where the bytes are.
        marks: what was written since the last cut.
    """

    def __init__(self, disk: Disk, marks: ChunkBitmap) -> None:
        self.disk = disk
        self.valve = Valve()
        self._marks = marks
        #: Of each view that is open.
        self._frozen: tuple[Keeper, ...] = ()

    @property
    def chunk_count(self) -> int:
        """Chunks of the volume; the last one may be shorter than a chunk."""
        return chunk_count_of(self.disk.size_bytes)

    def cut(self, marks: ChunkBitmap, frozen: Keeper) -> ChunkBitmap:
        """Begin a frozen view, and tracking anew. Nobody is inside the valve.

        Args:
            marks: an empty bitmap for what is written from now on.
            frozen: keeps the bytes of this moment.

        Returns:
            The bitmap until now.
        """
        before, self._marks = self._marks, marks
        self._frozen = (*self._frozen, frozen)
        return before

    def thaw(self, frozen: Keeper) -> None:
        """A frozen view has ended: nothing is kept for it any more. One caller at a time."""
        self._frozen = tuple(one for one in self._frozen if one is not frozen)

    def add_marks(self, more: ChunkBitmap) -> None:
        """Take back what was marked before a cut that came to nothing."""
        self._marks.add(more)

    @property
    def marks(self) -> ChunkBitmap:
        """What was written since the last cut."""
        return self._marks

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """What a write asks first: one for each cut that is in force."""
        return self._frozen

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data``.

        Raises:
            OSError: the disk fails.
        """
        self._touch(offset, len(data))
        self.disk.write(offset, data)

    def zero(self, offset: int, length: int, *, may_deallocate: bool) -> None:
        """Make bytes zeros.

        Raises:
            OSError: the disk fails.
        """
        self._touch(offset, length)
        self.disk.zero(offset, length, may_deallocate=may_deallocate)

    def trim(self, offset: int, length: int) -> None:
        """Let go of bytes. It is a hint, and while a frozen view is open it is not taken.

        A guest may trim gigabytes at once, all of which would have to be kept first.

        Raises:
            OSError: the disk fails.
        """
        if not self._frozen:
            self._touch(offset, length)
            self.disk.trim(offset, length)

    def _touch(self, offset: int, length: int) -> None:
        first, last = offset >> _SHIFT, (offset + length - 1) >> _SHIFT
        self._marks.mark(first, last)
        for frozen in self._frozen:
            frozen.keep(first, last)


def chunk_count_of(size_bytes: int) -> int:
    """Chunks of a volume of this size; the last one may be shorter."""
    return -(-size_bytes // CHUNK_SIZE_BYTES)
