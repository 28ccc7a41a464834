"""The file or block device behind a filter."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from libs.errors import SourceError
from libs.nbd.export import STATE_HOLE, STATE_ZERO
from libs.runtime.buffers import large_buffer
from libs.runtime.libc import deallocate, discard_device
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.local.identity import (
    CONTENT_SIZE_BYTES,
    device_identity,
    file_identity,
)

#: Zeros are written in pieces of it where nothing can be deallocated. It begins at a page.
_ZEROS = memoryview(large_buffer(1 << 20))
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL})
#: Requests of one batch that a disk without a page cache works on at once.
_DIRECT_THREADS = 16
#: Between two looks whether another process has let go of a lock.
_LOCK_LOOK_SECONDS = 0.01
#: What O_DIRECT is aligned to where nothing else is known; no disk asks for more.
DIRECT_BLOCK_SIZE_BYTES = 4096


class Disk:
    """An open file or device of fixed size. Thread-safe; raises OSError as the kernel does.

    Args:
        path: of a regular file or block device.
        is_direct: read and write past this host's page cache, so that other hosts see each write
            and each of theirs is seen.
        is_locked: keep other filters of this host from it; if not, `lock` comes before any write.

    Raises:
        SourceError: it cannot be opened, is neither, or another filter has it; or O_DIRECT does not
            suit it.
    """

    def __init__(self, path: Path, *, is_direct: bool = False, is_locked: bool = True) -> None:
        self.path = path
        self.is_direct = is_direct
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if is_direct else 0)
        try:
            self.descriptor = os.open(path, flags)
            mode = os.fstat(self.descriptor).st_mode
            self.size_bytes = os.lseek(self.descriptor, 0, os.SEEK_END)
        except OSError as err:
            raise SourceError(f"volume {path}: cannot be opened: {err.strerror}") from err
        self._is_device = stat.S_ISBLK(mode)
        try:
            self._check(mode)
            if is_locked:
                self.lock(0.0)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._has_true_holes = not self._is_device and (
            file_system_of(self.descriptor).has_true_holes
        )
        #: Works on several requests of a batch at once; None: the page cache does.
        self.pool = ThreadPoolExecutor(_DIRECT_THREADS, "direct") if is_direct else None
        self._nowait = 0 if is_direct else os.RWF_NOWAIT

    def _check(self, mode: int) -> None:
        """Refuse what is no volume, and what another filter has.

        Raises:
            SourceError: as the class says.
        """
        if not (self._is_device or stat.S_ISREG(mode)):
            raise SourceError(f"volume {self.path}: expected a regular file or a block device")
        if self.is_direct and self.size_bytes % DIRECT_BLOCK_SIZE_BYTES:
            raise SourceError(
                f"volume {self.path}: {self.size_bytes} bytes; past the page cache it must have a "
                f"multiple of {DIRECT_BLOCK_SIZE_BYTES}"
            )

    def lock(self, seconds_max: float) -> None:
        """Keep other filters of this host from the volume, or wait until another one lets go of it.

        Args:
            seconds_max: longest wait.

        Raises:
            SourceError: another process has it.
        """
        deadline = time.monotonic() + seconds_max
        while not self.try_lock():
            if time.monotonic() >= deadline:
                raise SourceError(
                    f"volume {self.path}: another process has locked it; two filters of one node "
                    f"would each miss what the other writes"
                )
            time.sleep(_LOCK_LOOK_SECONDS)

    def try_lock(self) -> bool:
        """As `lock`, without waiting. Returns whether this process has it now."""
        try:
            # Filters of several nodes share it: on a cluster's file system it holds on all of them.
            mode_of_lock = fcntl.LOCK_SH if self.is_direct else fcntl.LOCK_EX
            fcntl.flock(self.descriptor, mode_of_lock | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unlock(self) -> None:
        """Let another filter have the volume; this one writes nothing any more."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    @property
    def identity(self) -> str:
        """What tells this volume from another one under the same path, as agents say it.

        Raises:
            SourceError: the device fails.
        """
        if not self._is_device:
            return file_identity(self.descriptor)
        try:
            content = self.read_bytes(0, min(CONTENT_SIZE_BYTES, self.size_bytes))
        except OSError as err:
            raise SourceError(f"volume {self.path}: {err.strerror}") from err
        return device_identity(self.descriptor, self.size_bytes, content)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` if that needs no waiting for the disk. Returns whether it is filled.

        If not, the kernel begins to read, and `read` will wait for less.
        """
        if self.is_direct:
            return False
        try:
            done = os.preadv(self.descriptor, (buffer,), offset, self._nowait)
        except BlockingIOError:
            done = 0
        except OSError as err:
            if not self._nowait or err.errno not in _NOT_SUPPORTED:
                raise
            self._nowait = 0  # this file system cannot tell
            return self.read_cached(offset, buffer)
        if done == len(buffer):
            return True
        if not self._nowait:
            self.read(offset + done, buffer[done:])
            return True
        os.posix_fadvise(self.descriptor, offset, len(buffer), os.POSIX_FADV_WILLNEED)
        return False

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``.

        Raises:
            OSError: the disk fails, or has become shorter.
        """
        while len(buffer):
            done = os.preadv(self.descriptor, (buffer,), offset)
            if done == 0:
                raise OSError(errno.EIO, f"{self.path} has become shorter")
            offset, buffer = offset + done, buffer[done:]

    def read_bytes(self, offset: int, length: int) -> bytes:
        """Bytes of their own; past the page cache both numbers are multiples of its block size.

        Raises:
            OSError: the disk fails, or has become shorter.
        """
        if not self.is_direct:
            content = os.pread(self.descriptor, length, offset)
            if len(content) == length:
                return content
        with memoryview(large_buffer(length)) as buffer:
            self.read(offset, buffer)
            return bytes(buffer)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data``."""
        done = os.pwrite(self.descriptor, data, offset)
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], offset + done)

    def flush(self) -> None:
        """Return when all that was written is on stable storage."""
        os.fdatasync(self.descriptor)

    def zero(self, offset: int, length: int, *, may_deallocate: bool) -> None:
        """Make bytes zeros, without allocated room if that is allowed and possible."""
        if may_deallocate and not self._is_device and deallocate(self.descriptor, offset, length):
            return
        end = offset + length
        while offset < end:
            self.write(offset, _ZEROS[: end - offset])
            offset += min(len(_ZEROS), end - offset)

    def trim(self, offset: int, length: int) -> None:
        """Say that nobody needs these bytes; a hint, which may change what they are."""
        if self._is_device:
            discard_device(self.descriptor, offset, length)
        else:
            deallocate(self.descriptor, offset, length)

    def hole_end(self, offset: int) -> int:
        """Up to where a hole goes that begins at ``offset``; ``offset`` itself if none is known.

        Raises:
            OSError: the disk fails.
        """
        if not self._has_true_holes:
            return offset
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # no data from here on
                return self.size_bytes
            if err.errno in _NOT_SUPPORTED:
                return offset
            raise

    def data_end(self, offset: int) -> int:
        """Up to where no such hole begins, given that none is at ``offset``.

        Raises:
            OSError: the disk fails.
        """
        if not self._has_true_holes:
            return self.size_bytes
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_HOLE)
        except OSError as err:
            if err.errno in _NOT_SUPPORTED or err.errno == errno.ENXIO:
                return self.size_bytes
            raise

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Lengths and flags of `base:allocation`, lazily."""
        end = offset + length
        while offset < end:
            until, flags = min(self.hole_end(offset), end), STATE_HOLE | STATE_ZERO
            if until <= offset:
                until, flags = min(self.data_end(offset), end), 0
            yield max(until, offset + 1) - offset, flags
            offset = max(until, offset + 1)

    def close(self) -> None:
        """Close it; nobody uses it any more."""
        if self.pool:
            self.pool.shutdown()
        os.close(self.descriptor)
