"""Extent maps: in which blocks of its file system a file has its bytes (FIEMAP).

Source: the kernel's Documentation/filesystems/fiemap.rst, and what XFS and btrfs answer.
"""

import fcntl
import struct
from collections.abc import Iterator
from typing import NamedTuple

#: linux/fs.h: _IOWR('f', 11, struct fiemap), and what the answer is made of: start, length, flags,
#: mapped extents, room for so many, reserved; then of each extent its logical and its physical
#: start, its length, and its flags.
_FS_IOC_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQIIII")
EXTENT_LAYOUT = struct.Struct("=QQQ16xI12x")
#: What is dirty is written first, so that nothing is without a place.
_FIEMAP_FLAG_SYNC = 1
#: Flags of extents, of linux/fiemap.h.
LAST, UNKNOWN, DELALLOC, ENCODED = 0x1, 0x2, 0x4, 0x8
NOT_ALIGNED, INLINE, UNWRITTEN, MERGED, SHARED = 0x100, 0x200, 0x800, 0x1000, 0x2000
#: These say nothing about where bytes are.
_HARMLESS = LAST | MERGED | SHARED
#: btrfs compresses at most so much into one extent.
_ENCODED_SIZE_BYTES_MAX = 128 << 10

#: Where the bytes of a stretch are. None: it reads as zeros. `ELSEWHERE`: nobody can tell.
Place = tuple[str, int] | None


class Elsewhere:
    """Equals nothing, not even itself."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


ELSEWHERE = Elsewhere()


class Extent(NamedTuple):
    """A stretch of a file, in one stretch of its file system's blocks."""

    start: int
    physical: int
    length: int
    flags: int

    @property
    def end(self) -> int:
        """The byte after its last one."""
        return self.start + self.length

    def place_at(self, at: int, *, is_btrfs: bool) -> Place | Elsewhere:
        """Where the file's byte ``at``, which is within it, is.

        Two files of one file system that have a byte at the same place at the same time read the
        same byte there. Of a **compressed** extent of btrfs the map gives the start of its blocks,
        and not which part of what they unpack to is meant. Only of one that has the largest size
        there is, it must be all of it.
        """
        if self.flags == UNWRITTEN | (self.flags & _HARMLESS):
            return None
        if not self.flags & ~_HARMLESS:
            return ("plain", self.physical + at - self.start)
        whole = self.length == _ENCODED_SIZE_BYTES_MAX
        if is_btrfs and whole and self.flags == ENCODED | (self.flags & _HARMLESS):
            return (f"packed from {self.start}", self.physical)
        return ELSEWHERE


class Window(NamedTuple):
    """The map of one stretch of a file, as the kernel gave it."""

    start: int
    #: The byte after the last one that it tells of.
    end: int
    #: The kernel's answer, `EXTENT_LAYOUT` for each.
    answer: bytes

    def extents(self) -> Iterator[Extent]:
        """What lies in it, ascending; the rest are holes."""
        return (Extent(*fields) for fields in EXTENT_LAYOUT.iter_unpack(self.answer))

    @property
    def is_plain(self) -> bool:
        """Whether all of it are holes, and bytes that are where they are said to be."""
        flags = memoryview(self.answer).cast("I")[10::14]
        return not any(flag & ~_HARMLESS for flag in set(flags))


def window_of(descriptor: int, start: int, end: int, extent_count_max: int) -> Window:
    """The map of the bytes from ``start`` on, to ``end`` or as far as the extents suffice.

    Args:
        descriptor: an open file, which nobody writes to.
        start: first byte.
        end: the byte after the last one, more than ``start``.
        extent_count_max: bounds the answer, 56 bytes each; at least 1.

    Raises:
        OSError: the file system has no such maps, or fails.
    """
    buffer = bytearray(_HEADER.size + EXTENT_LAYOUT.size * extent_count_max)
    asked = (start, end - start, _FIEMAP_FLAG_SYNC, 0, extent_count_max, 0)
    _HEADER.pack_into(buffer, 0, *asked)
    fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, buffer, True)
    count = _HEADER.unpack_from(buffer)[3]
    answer = bytes(memoryview(buffer)[_HEADER.size : _HEADER.size + count * EXTENT_LAYOUT.size])
    told = end
    if count == extent_count_max:
        last = Extent(*EXTENT_LAYOUT.unpack_from(answer, len(answer) - EXTENT_LAYOUT.size))
        if not last.flags & LAST:
            told = min(end, last.end)
    return Window(start, told, answer)
