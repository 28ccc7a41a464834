"""Disks that writers of the witness write: a file or device by direct I/O, an export of NBD."""

import mmap
import os
from pathlib import Path
from typing import Self

from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES


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
