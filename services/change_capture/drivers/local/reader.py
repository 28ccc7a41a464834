"""Reads a volume's bytes: through the page cache where that shows every write, else past it.

A disk and each of its partitions have page caches of their own, and so has every host. What is
written through another one never reaches this one, so devices and files on shared file systems are
read from the medium, with O_DIRECT (docs/adr/0009).
"""

import ctypes
import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

from libs.runtime.buffers import large_buffer
from libs.runtime.libc import extended_status

log = logging.getLogger(__name__)

#: What file systems and devices say that cannot read so.
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTBLK)
#: ioctl of Linux that gives a block device's logical block size: the unit of what O_DIRECT reads.
_BLKSSZGET = 0x1268
#: For a file whose file system does not say what it needs: what all of them take.
_FILE_ALIGNMENT_BYTES = 4096


class SourceReader:
    """Reads from an open file. Thread-safe.

    Where O_DIRECT is refused, cached pages are dropped before each read. That leaves pages that
    somebody has mapped, so it is second best.

    Args:
        descriptor: open for reading; stays the caller's.
        is_device: whether it is a block device.
        cached: whether the page cache shows every write.
    """

    def __init__(self, descriptor: int, *, is_device: bool, cached: bool) -> None:
        self._descriptor = descriptor
        self._cached = cached
        self._direct = self._opened = -1
        self._alignment = _FILE_ALIGNMENT_BYTES
        if cached:
            return
        try:
            if is_device:
                self._alignment = _logical_block_size(descriptor)
            else:
                told = extended_status(descriptor).direct_alignment_bytes
                self._alignment = max(_FILE_ALIGNMENT_BYTES, told or 0)
            again = f"/proc/self/fd/{descriptor}"
            self._direct = self._opened = os.open(again, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as err:
            self._go_on_without(err)
        # Read ahead, pages would be dropped again before they are asked for.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, start: int, buffer: memoryview, wanted: int) -> int:
        """Fill ``wanted`` bytes of ``buffer`` from byte ``start``; those behind are undefined.

        A buffer that begins at a page and is as long as a multiple of it is read into without
        copying.

        Returns:
            Bytes that there were: fewer only where the file ends.

        Raises:
            OSError: the device or the file system fails.
        """
        direct = self._direct  # another thread may find that it is refused
        if direct >= 0 and start % self._alignment == 0 and wanted:
            try:
                return self._read_directly(direct, start, buffer, wanted)
            except OSError as err:
                if err.errno not in _NOT_DIRECT:
                    raise
                self._go_on_without(err)
        if not self._cached:
            os.posix_fadvise(self._descriptor, start, wanted, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < wanted:
            got = os.preadv(self._descriptor, [buffer[done:wanted]], start + done)
            if got == 0:
                break
            done += got
        return done

    def close(self) -> None:
        """Close what it opened itself."""
        if self._opened >= 0:
            os.close(self._opened)
        self._direct = self._opened = -1

    def _read_directly(self, direct: int, start: int, buffer: memoryview, wanted: int) -> int:
        """As `read`, in whole blocks."""
        end = -(-wanted // self._alignment) * self._alignment
        if end > len(buffer) or _address(buffer) % self._alignment:
            with large_buffer(end) as memory, memoryview(memory) as own:
                done = self._read_directly(direct, start, own, wanted)
                buffer[:done] = own[:done]
            return done
        done = 0
        while done < wanted:
            got = os.preadv(direct, [buffer[done:end]], start + done)
            whole = (done + got) // self._alignment * self._alignment
            if done + got >= wanted or whole == done:  # all of it, or the end of the file
                return min(done + got, wanted)
            done = whole
        return done

    def _go_on_without(self, err: OSError) -> None:
        self._direct = -1
        path = Path(f"/proc/self/fd/{self._descriptor}").readlink()
        log.warning(
            "not readable past the page cache; cached pages are dropped before each read instead",
            extra={"path": str(path), "detail": err.strerror},
        )


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _logical_block_size(descriptor: int) -> int:
    (size,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))
    return int(size)
