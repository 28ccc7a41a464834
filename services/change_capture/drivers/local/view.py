"""The view of a regular file or block device of this host, read as it is.

Devices, and files that other hosts may write, are read past this host's page cache. Holes are
skipped without reading where the file system can be believed. The frozen view is the file itself:
whether it changed meanwhile is found out afterwards and said (`quiet`, `unvouched` or `fuzzy`),
never hidden.
"""

import errno
import functools
import os
import stat
from collections.abc import Iterator
from typing import Literal

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.local.identity import (
    CONTENT_SIZE_BYTES,
    device_identity,
    file_identity,
)
from services.change_capture.drivers.local.reader import SourceReader
from services.change_capture.drivers.local.roots import OpenSource
from services.change_capture.drivers.port import FrozenView


class LocalView:
    """An open volume. Reading is thread-safe; nothing is ever written.

    What a mounted file system has not written to its device yet is not in the device, for nobody:
    who wants it in a snapshot of the device runs `sync`, or freezes the file system.

    Args:
        source: what is read; the view closes it.
    """

    def __init__(self, source: OpenSource) -> None:
        self.source = source
        self.path = source.path
        self._fd = source.descriptor
        self._before = os.fstat(self._fd)
        #: Bytes of the volume when it was opened; the snapshot has exactly these.
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        self._is_device = stat.S_ISBLK(self._before.st_mode)
        self._file_system = file_system_of(self._fd)
        self._reader = SourceReader(
            self._fd,
            is_device=self._is_device,
            cached=self._shows_every_write,
        )

    @functools.cached_property
    def identity(self) -> str:
        """What tells this volume from another under the same path; fingerprints are tied to it.

        Raises:
            SourceError: the device fails.
        """
        if not self._is_device:
            return file_identity(self._fd)
        with memoryview(large_buffer(CONTENT_SIZE_BYTES)) as content:
            self.read_into(0, content)
            return device_identity(self._fd, self.size_bytes, bytes(content))

    @property
    def device(self) -> int:
        """Number of the file system that the volume lies on (`st_dev`)."""
        return self._before.st_dev

    @property
    def chunk_count(self) -> int:
        """Chunks of the volume; the last one may be padded with zeros."""
        return -(-self.size_bytes // CHUNK_SIZE_BYTES)

    @property
    def data_bytes_estimate(self) -> int:
        """As the port says: what the file system has allocated, or all of a device."""
        if self._is_device or not self._file_system.has_true_holes:
            return self.size_bytes
        return min(self.size_bytes, self._before.st_blocks * 512)

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """Where data may be, as the port says. Holes cost a system call each, not a read.

        Raises:
            SourceError: the file system reports an error.
        """
        at = start
        if self._is_device or not self._file_system.has_true_holes:
            at = self.chunk_count * CHUNK_SIZE_BYTES
            if at > start:
                yield ByteRange(start, at)
        while at < self.size_bytes:
            try:
                data = os.lseek(self._fd, at, os.SEEK_DATA)
                hole = os.lseek(self._fd, data, os.SEEK_HOLE)
            except OSError as err:
                if err.errno == errno.ENXIO:  # no data after `at`
                    return
                if err.errno != errno.EINVAL:
                    raise SourceError(f"volume {self.path}: {err.strerror} at byte {at}") from err
                data, hole = at, self.size_bytes  # this device does not know holes
            begin = max(at, data - data % CHUNK_SIZE_BYTES)
            at = min(-(-hole // CHUNK_SIZE_BYTES), self.chunk_count) * CHUNK_SIZE_BYTES
            if at > begin:
                yield ByteRange(begin, at)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``start``; what lies beyond the volume's end is zeros.

        Raises:
            SourceError: the device fails, or the file became shorter than when it was opened.
        """
        wanted = max(0, min(len(buffer), self.size_bytes - start))
        try:
            done = self._reader.read(start, buffer, wanted)
        except OSError as err:
            end = start + wanted
            raise SourceError(
                f"volume {self.path}: {err.strerror} in bytes {start} to {end}"
            ) from err
        if done < wanted:
            raise self._shrank()
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)

    def consistency(self) -> Literal["quiet", "unvouched", "fuzzy"]:
        """Whether something wrote since the volume was opened; ``unvouched`` if nobody can say.

        A block device has no modification time, and one that is read-only here may be written
        through another node or by another host. A shared file's time is what this host last heard.

        Raises:
            SourceError: the file is shorter than when it was opened.
        """
        after = os.fstat(self._fd)
        if not self._is_device and after.st_size < self.size_bytes:
            raise self._shrank()  # what was cut off may have been taken for a hole
        same = (self._before.st_mtime_ns, self._before.st_size) == (
            after.st_mtime_ns,
            after.st_size,
        )
        if not (same or self._is_device):
            return "fuzzy"
        return "quiet" if self._shows_every_write else "unvouched"

    def close(self) -> None:
        """Close the volume; whoever still reads gets an error."""
        self._fd = -1
        self._reader.close()
        self.source.close()

    @property
    def _shows_every_write(self) -> bool:
        """Whether this host's page cache and the file's time of modification can be believed."""
        return not self._is_device and self._file_system.is_local

    def _shrank(self) -> SourceError:
        return SourceError(
            f"volume {self.path}: it shrank below its {self.size_bytes} bytes while it was read; "
            f"take the snapshot again when nothing truncates it"
        )


_: type[FrozenView] = LocalView
