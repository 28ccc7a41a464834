"""Disks that writers of the witness write: a file or device by direct I/O, an export of NBD."""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES


class Disk(Protocol):
    """A disk as one node sees it: past every cache, and a write that returned is acknowledged."""

    def read(self, offset: int, length: int) -> bytes:
        """These bytes."""
        ...

    def write(self, offset: int, content: bytes) -> None:
        """Put these bytes there."""
        ...


class DirectFile:
    """A file or device, past the page cache: what returned is where other nodes read it.

    Offsets and lengths must be multiples of 4 KiB. Not thread-safe.

    Raises:
        OSError: it cannot be opened by direct I/O.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
        # Direct I/O wants an aligned buffer, which a mapping is.
        self._buffer = mmap.mmap(-1, CHUNK_SIZE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._buffer.close()

    def read(self, offset: int, length: int) -> bytes:
        """These bytes. Raises SourceError if the file ends before."""
        pieces = []
        for begin in range(0, length, CHUNK_SIZE_BYTES):
            size = min(CHUNK_SIZE_BYTES, length - begin)
            with memoryview(self._buffer)[:size] as view:
                if os.preadv(self._descriptor, [view], offset + begin) != size:
                    raise SourceError(f"{self._path}: it ends before byte {offset + begin + size}")
                pieces.append(bytes(view))
        return b"".join(pieces)

    def write(self, offset: int, content: bytes) -> None:
        """Put these bytes there. Raises OSError, or SourceError if they do not fit."""
        for begin in range(0, len(content), CHUNK_SIZE_BYTES):
            piece = content[begin : begin + CHUNK_SIZE_BYTES]
            self._buffer[: len(piece)] = piece
            with memoryview(self._buffer)[: len(piece)] as view:
                if os.pwritev(self._descriptor, [view], offset + begin) != len(piece):
                    raise SourceError(f"{self._path}: it takes no more at byte {offset + begin}")


class NbdDisk:
    """An export of an NBD server, such as a volume filter. Raises as `NbdConnection` does."""

    def __init__(self, where: NbdAddress, export: str) -> None:
        self._connection = NbdConnection(where, export)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self, offset: int, length: int) -> bytes:
        """These bytes."""
        content = bytearray(length)
        self._connection.read_into(offset, memoryview(content))
        return bytes(content)

    def write(self, offset: int, content: bytes) -> None:
        """Put these bytes there."""
        self._connection.write(offset, content)


class StripedDisk:
    """Several disks as one: its chunks lie on them in turn. Raises as they do.

    So a record and its causes lie on different disks, and so do two records of one writer. Disks
    that are not cut together contradict each other at once.

    Args:
        disks: at least one, which the caller closes.
    """

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = disks

    def read(self, offset: int, length: int) -> bytes:
        """These bytes."""
        return b"".join(
            disk.read(at, end - start) for disk, at, start, end in self._pieces(offset, length)
        )

    def write(self, offset: int, content: bytes) -> None:
        """Put these bytes there."""
        for disk, at, start, end in self._pieces(offset, len(content)):
            disk.write(at, content[start - offset : end - offset])

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Disk, int, int, int]]:
        """Disk, offset there, and the bytes of this disk that lie there."""
        start, over = offset, offset + length
        while start < over:
            chunk, within = divmod(start, CHUNK_SIZE_BYTES)
            end = min(over, (chunk + 1) * CHUNK_SIZE_BYTES)
            row, column = divmod(chunk, len(self._disks))
            yield self._disks[column], row * CHUNK_SIZE_BYTES + within, start, end
            start = end


def stripe_size_bytes(size_bytes: int, count: int) -> int:
    """How large each of ``count`` disks must be that are one of this size together."""
    chunks = -(-size_bytes // CHUNK_SIZE_BYTES)
    return -(-chunks // count) * CHUNK_SIZE_BYTES
