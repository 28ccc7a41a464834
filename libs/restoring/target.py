"""What a restore writes to: a new file, or with force an existing file or block device."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from libs.errors import BadInputError, ConflictError
from libs.packs.layout import FRAME_PLAIN_SIZE_BYTES_MAX
from libs.ranges import ByteRange
from libs.restoring.new_file import new_file, opened_folder, target_errors
from libs.runtime.buffers import large_buffer
from libs.runtime.libc import allocate

#: What file systems and devices say that cannot write so.
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTBLK)
#: ioctl of Linux that zeroes a range of a block device, by the device itself where it can.
_BLKZEROOUT = 0x127F
#: ioctl of Linux that reads a disk's partition table again.
_BLKRRPART = 0x125F
_ZEROS = bytes(1 << 20)
#: What goes straight to the medium begins and ends at multiples of this.
_DIRECT_ALIGNMENT_BYTES = 4096
#: Less than this goes through the page cache, where the kernel joins and sorts it.
_DIRECT_SIZE_BYTES_MIN = 256 << 10
#: A larger write gets larger pages of the kernel's, whose memory is cold: 2.4 GB took 1.0-1.5 CPU
#: seconds by 1 MiB, 0.6 by 256 KiB, 0.5-1.1 by 64 KiB.
_WRITE_SIZE_BYTES = 256 << 10


class RestoreTarget:
    """An open target. Thread-safe: every write names its offset.

    What is never written reads as zeros in a file; in a device it must be zeroed. Neighbouring
    chunks bypass the page cache where the file system can do that (docs/adr/0008).

    Args:
        path: for messages.
        descriptor: open for writing; `open_target` closes it.
        direct: the same file open with O_DIRECT, or None where that cannot be.
        size_bytes: what is written beyond it is cut off.
        is_device: whether it is a block device.
    """

    def __init__(
        self, path: Path, descriptor: int, direct: int | None, size_bytes: int, *, is_device: bool
    ) -> None:
        self.is_device = is_device
        self._path = path
        self._descriptor = descriptor
        self._direct = direct
        self._size_bytes = size_bytes
        self._allocates = not is_device
        self._aligned = _AlignedBuffer()
        # The kernel writes to a file one by one anyway, and who waits for it spins: three threads
        # took 1.1-2.2 CPU seconds for 2.4 GB where one takes 0.5.
        self._lock = threading.Lock()

    def write(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write buffers, each of a frame at most, one after another from ``offset`` on.

        Raises:
            OutOfSpaceError: the disk is full.
            TargetError: the disk does not take it: it fails, or may not be written.
        """
        with target_errors(self._path):
            for piece in _pieces(buffers):
                done = 0
                if self._direct is not None and offset % _DIRECT_ALIGNMENT_BYTES == 0:
                    done = self._write_directly(self._direct, offset, piece)
                for buffer in piece:
                    skipped = min(done, len(buffer))
                    self._write_cached(buffer[skipped:], offset + skipped)
                    offset, done = offset + len(buffer), done - skipped

    def _write_directly(self, direct: int, offset: int, buffers: Sequence[memoryview]) -> int:
        """Write as much as may bypass the page cache; how many bytes that was."""
        size = min(sum(map(len, buffers)), max(0, self._size_bytes - offset))
        size -= size % _DIRECT_ALIGNMENT_BYTES
        if size < _DIRECT_SIZE_BYTES_MIN:
            return 0
        view = self._aligned.joined(buffers)[:size]
        done = 0
        try:
            while done < size:
                done += os.pwrite(direct, view[done:], offset + done)
        except OSError as err:
            if err.errno not in _NOT_DIRECT:
                raise
            self._direct = None  # it wants another alignment, or cannot do it after all
        return done - done % _DIRECT_ALIGNMENT_BYTES

    def _write_cached(self, buffer: memoryview, offset: int) -> None:
        end = min(len(buffer), max(0, self._size_bytes - offset))
        for at in range(0, end, _WRITE_SIZE_BYTES):
            view = buffer[at : min(at + _WRITE_SIZE_BYTES, end)]
            where = offset + at
            while view:
                with self._lock:
                    written = os.pwrite(self._descriptor, view, where)
                view, where = view[written:], where + written

    def reserve(self, wanted: ByteRange) -> None:
        """Make room for what will be written; errors as `write`.

        Where a file has none yet the kernel lets only one thread write at a time, and it finds
        larger pieces of the disk for what is asked for at once.
        """
        size = min(wanted.end, self._size_bytes) - wanted.start
        if self._allocates and size > 0:
            with target_errors(self._path):
                self._allocates = allocate(self._descriptor, wanted.start, size)

    def zero(self, wanted: ByteRange) -> None:
        """Make a range of a device zero; a file reads so already. Errors as `write`."""
        if not self.is_device:
            return
        end = min(wanted.end, self._size_bytes)
        with contextlib.suppress(OSError):
            span = struct.pack("QQ", wanted.start, end - wanted.start)
            fcntl.ioctl(self._descriptor, _BLKZEROOUT, span)
            return
        for at in range(wanted.start, end, len(_ZEROS)):
            self.write(at, [memoryview(_ZEROS)[: end - at]])

    def sync(self) -> None:
        """Wait until everything is on the medium; errors as `write`.

        A disk then has the partitions that were restored. The kernel forgets the old ones, and
        their page caches, which have not seen what was written to the whole disk.
        """
        with target_errors(self._path):
            os.fdatasync(self._descriptor)
        if self.is_device:
            with contextlib.suppress(OSError):  # a partition, or a disk that cannot have any
                fcntl.ioctl(self._descriptor, _BLKRRPART)


class _AlignedBuffer(threading.local):
    """Each thread's memory for direct writes, a frame's worth, which must begin at a page."""

    def __init__(self) -> None:
        self._memory = large_buffer(FRAME_PLAIN_SIZE_BYTES_MAX)

    def joined(self, buffers: Sequence[memoryview]) -> memoryview:
        """The buffers one after another."""
        view, fill = memoryview(self._memory), 0
        for buffer in buffers:
            view[fill : fill + len(buffer)] = buffer
            fill += len(buffer)
        return view[:fill]


def _pieces(buffers: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """As many of them as are a frame's worth; a chunk that a volume repeats makes endless runs."""
    piece, size = list[memoryview](), 0
    for buffer in buffers:
        if piece and size + len(buffer) > FRAME_PLAIN_SIZE_BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(buffer)
        size += len(buffer)
    yield piece


@contextlib.contextmanager
def open_target(path: Path, size_bytes: int, *, force: bool) -> Iterator[RestoreTarget]:
    """Open what a volume of ``size_bytes`` is restored to, while the context lasts.

    A file gets its name when the context ends without an error (`libs.restoring.new_file`). With
    ``force`` it then takes the place of the file that has the name, and is a new file with mode
    0600 all the same; it takes the place of a link to nothing too. A device is written to in
    place, and keeps what lies beyond the volume's size. A link is followed only to a device, and
    only if this user or root has made it.

    Raises:
        ConflictError: it exists and ``force`` is not given, it was made meanwhile, or a device is
            in use.
        NotFoundError: its folder does not exist.
        BadInputError: it is neither a file nor a block device, cannot be opened, or is too small.
        OutOfSpaceError: the file system has no room for a file of this size.
        TargetError: the file cannot get its name.
    """
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(opened_folder(path))
        device = opened.enter_context(_device_at(folder, path, force=force))
        if device is None:
            descriptor = opened.enter_context(new_file(folder, path, replaces=force))
            with target_errors(path):
                os.ftruncate(descriptor, size_bytes)
        else:
            descriptor = opened.enter_context(_opened_device(path, device, size_bytes))
        direct = opened.enter_context(_opened_directly(descriptor))
        yield RestoreTarget(path, descriptor, direct, size_bytes, is_device=device is not None)


def check_target(path: Path, *, force: bool) -> bool:
    """Refuse what `open_target` would refuse now; nothing is touched.

    Returns:
        Whether it is a block device.
    """
    with opened_folder(path) as folder, _device_at(folder, path, force=force) as device:
        return device is not None


@contextlib.contextmanager
def _device_at(folder: int, path: Path, *, force: bool) -> Iterator[int | None]:
    """The block device that a path names, located but not opened; None if a file is to be made."""
    with contextlib.ExitStack() as opened:
        found = opened.enter_context(_located(path, path.name or ".", folder, os.O_NOFOLLOW))
        if found is not None and stat.S_ISLNK(os.fstat(found).st_mode):
            found = opened.enter_context(_device_behind(found, folder, path, force=force))
        if found is None:
            yield None
            return
        mode = os.fstat(found).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise BadInputError(f"{path}: is neither a file nor a block device")
        if not force:
            raise ConflictError(
                f"{path}: exists; choose another name, or overwrite it with --force"
            )
        yield found if stat.S_ISBLK(mode) else None


@contextlib.contextmanager
def _device_behind(link: int, folder: int, path: Path, *, force: bool) -> Iterator[int | None]:
    """The device that a link leads to, if this user or root has made the link.

    None if it leads nowhere and ``force`` lets a file take its place.
    """
    leads_to = os.readlink("", dir_fd=link)
    with _located(path, leads_to, folder) as found:
        if found is None and force:
            yield None
            return
        is_device = found is not None and stat.S_ISBLK(os.fstat(found).st_mode)
        is_trusted = os.fstat(link).st_uid in (0, os.geteuid())
        if found is None or not is_device or not is_trusted:
            raise BadInputError(
                f"{path}: is a symbolic link, which is not followed; it leads to {leads_to}; "
                f"name the file or device itself, or remove the link"
            )
        yield found


@contextlib.contextmanager
def _located(path: Path, name: str, folder: int, flags: int = 0) -> Iterator[int | None]:
    """Where a name leads, open as a place (O_PATH), which touches nothing; None if nowhere."""
    try:
        found = os.open(name, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=folder)
    except FileNotFoundError:
        yield None
        return
    except OSError as err:
        raise BadInputError(f"{path}: {err.strerror}") from err
    try:
        yield found
    finally:
        os.close(found)


@contextlib.contextmanager
def _opened_device(path: Path, located: int, size_bytes: int) -> Iterator[int]:
    """A device that was located, open for writing."""
    try:
        # On a block device O_EXCL refuses one that is mounted or otherwise in use.
        flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(f"/proc/self/fd/{located}", flags)
    except OSError as err:
        if err.errno == errno.EBUSY:
            raise ConflictError(f"{path}: is in use: {err.strerror}") from err
        raise BadInputError(f"{path}: cannot be opened for writing: {err.strerror}") from err
    try:
        with target_errors(path):
            has_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        if has_bytes < size_bytes:
            raise BadInputError(f"{path}: has {has_bytes} bytes, the volume needs {size_bytes}")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_directly(descriptor: int) -> Iterator[int | None]:
    """The same file once more, for writing past the page cache; None where that cannot be."""
    try:
        direct = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield direct
    finally:
        os.close(direct)
