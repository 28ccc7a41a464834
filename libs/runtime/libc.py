"""What the C library can do and Python does not offer."""

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

#: mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD.
_MALLOC = ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20))
#: What kernels and file systems say that cannot do what is asked.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

#: statx(2): flags, its answer's size, and where in it the time of birth and the alignments are.
_AT_EMPTY_PATH = 0x1000
_STATX_BTIME, _STATX_DIOALIGN = 0x800, 0x2000
_STATX_SIZE_BYTES, _STATX_BTIME_AT, _STATX_DIOALIGN_AT = 256, 80, 152
#: renameat2(2).
_RENAME_NOREPLACE = 1
#: openat2(2): its number is the same on all machines that Linux 5.6 and newer runs on but Alpha.
_SYS_OPENAT2 = 437
#: Magic links are those of /proc that lead to open files, whatever their text.
RESOLVE_NO_MAGICLINKS = 0x02
#: Nothing leads out of the folder: neither `..` nor a link nor an absolute path.
RESOLVE_BENEATH = 0x08
#: The folder is the top of all paths: absolute links begin there.
RESOLVE_IN_ROOT = 0x10
#: The kernel gives up a path with `..` whenever something is renamed meanwhile.
_RESOLVE_COUNT_MAX = 100

_libc = ctypes.CDLL(None, use_errno=True)


def keep_freed_memory() -> None:
    """Let malloc keep freed megabytes instead of returning them and faulting them in again.

    Services get this from MALLOC_* in their environment; a command has to ask for it itself.
    """
    try:
        mallopt = _libc.mallopt
    except AttributeError:  # another C library: slower, not wrong
        return
    for parameter, value in _MALLOC:
        mallopt(parameter, value)


def allocate(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Allocate room in a file, fallocate(2); what was never written there reads as zeros.

    Not `os.posix_fallocate`: where the file system cannot, that writes a byte to every block.

    Returns:
        Whether it is allocated: not every file system can.

    Raises:
        OSError: there is no room, or the file cannot be written.
    """
    try:
        fallocate = _libc.fallocate
    except AttributeError:
        return False
    while fallocate(descriptor, 0, ctypes.c_long(offset), ctypes.c_long(size_bytes)):
        code = ctypes.get_errno()
        if code in _NOT_SUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def open_resolved(folder: int | Path, path: str, flags: int, resolve: int) -> int:
    """Open a path within a folder, resolved by rules: openat2(2).

    Args:
        folder: a descriptor, or the path of a folder, in which links are followed.
        path: relative to it.
        flags: as of open(2); none that makes a file.
        resolve: RESOLVE_*.

    Raises:
        OSError: as open(2) says; EXDEV or ELOOP if a rule forbids it; ENOSYS or EPERM if the kernel
            or the container has no openat2.
        ValueError: the path has a NUL byte, or characters that no path has.
    """
    if "\0" in path:
        raise ValueError("embedded null byte")
    name = os.fsencode(path)
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    if isinstance(folder, Path):
        opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _open_resolved(opened, name, how)
        finally:
            os.close(opened)
    return _open_resolved(folder, name, how)


def _open_resolved(folder: int, name: bytes, how: bytes) -> int:
    code = 0
    for _ in range(_RESOLVE_COUNT_MAX):
        number, size = ctypes.c_long(_SYS_OPENAT2), ctypes.c_size_t(len(how))
        descriptor: int = _libc.syscall(number, folder, name, how, size)
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))


def rename_without_replacing(folder: int, old: str, new: str) -> None:
    """Rename a file within a folder, unless the new name is taken: renameat2(2).

    Where the file system cannot do that, the file gets the new name besides the old one, which is
    removed then.

    Raises:
        FileExistsError: the new name is taken.
        OSError: it cannot be renamed.
    """
    if not _renamed_without_replacing(folder, old, new):
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(old, dir_fd=folder)


def _renamed_without_replacing(folder: int, old: str, new: str) -> bool:
    """Whether the file is renamed: not every kernel and file system can."""
    try:
        renameat2 = _libc.renameat2
    except AttributeError:
        return False
    names = os.fsencode(old), os.fsencode(new)
    if renameat2(folder, names[0], folder, names[1], _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        if code in _NOT_SUPPORTED:
            return False
        raise OSError(code, os.strerror(code), new)
    return True


@dataclass(frozen=True, slots=True)
class Statx:
    """What statx(2) says beyond stat(2)."""

    #: When the file was made, in nanoseconds; None where the file system does not keep it.
    born_ns: int | None
    #: What O_DIRECT reads must begin and end at; None where the kernel or the file cannot tell.
    direct_alignment_bytes: int | None


def extended_status(descriptor: int) -> Statx:
    """Ask statx(2) about an open file; knows nothing on a kernel or C library that has none."""
    answer = ctypes.create_string_buffer(_STATX_SIZE_BYTES)
    asked = _STATX_BTIME | _STATX_DIOALIGN
    try:
        if _libc.statx(descriptor, b"", _AT_EMPTY_PATH, asked, answer):
            return Statx(None, None)
    except AttributeError:
        return Statx(None, None)
    (mask,) = struct.unpack_from("=I", answer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _STATX_BTIME_AT)
    memory, offset = struct.unpack_from("=II", answer, _STATX_DIOALIGN_AT)
    return Statx(
        born_ns=seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else None,
        direct_alignment_bytes=max(memory, offset) or None if mask & _STATX_DIOALIGN else None,
    )


#: fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 0x01 | 0x02
#: linux/fs.h: _IO(0x12, 119).
_BLKDISCARD = 0x1277


def deallocate(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Make bytes of a file zeros that need no room: fallocate(2) with FALLOC_FL_PUNCH_HOLE.

    Returns:
        Whether they are: not every file system can.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        fallocate = _libc.fallocate
    except AttributeError:
        return False
    while fallocate(descriptor, _PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(size_bytes)):
        code = ctypes.get_errno()
        if code in _NOT_SUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def discard_device(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Tell a block device that nobody needs these bytes: BLKDISCARD.

    Returns:
        Whether it heard: not every device can.

    Raises:
        OSError: the device fails.
    """
    try:
        fcntl.ioctl(descriptor, _BLKDISCARD, struct.pack("=QQ", offset, size_bytes))
    except OSError as err:
        if err.errno in _NOT_SUPPORTED:
            return False
        raise
    return True
