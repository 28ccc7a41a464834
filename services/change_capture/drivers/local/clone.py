"""Clones of files that share their blocks (FICLONE), on file systems that can: XFS, btrfs.

A clone is an unnamed file (O_TMPFILE) beside its source. It has no name, so the kernel frees its
blocks when the last descriptor is closed, also if the process is killed or the machine loses power.
The driver `reflink` gives a clone a name when its capture is complete, and marks it first: what is
marked is the agent's own, and no volume (`roots`).
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct

from libs.errors import SourceError
from services.change_capture.drivers.local.roots import OpenSource

#: linux/fs.h: _IOW(0x94, 9, int); _IOR('f', 1, long) and _IOW('f', 2, long), which have an int.
_FICLONE = 0x40049409
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_NOCOW_FL = 0x00800000
_FLAGS = struct.Struct("=i")
#: A file system, or this file on it, cannot clone.
_CANNOT = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.EINVAL,
        errno.ENOTTY,
        errno.EXDEV,
        errno.EISDIR,
        errno.EPERM,
        errno.EACCES,
        errno.EROFS,
    }
)


def clone(source: OpenSource) -> OpenSource | None:
    """Clone a regular file; None if it is none, or its file system cannot.

    The kernel takes the file's locks and flushes what is dirty, so that no write is half in it.
    Nothing can change the clone.

    Raises:
        SourceError: there is no room for what a clone needs.
    """
    if source.folder is None or not stat.S_ISREG(os.fstat(source.descriptor).st_mode):
        return None
    written = -1
    try:
        folder = f"/proc/self/fd/{source.folder}"
        written = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _overwrite_as(source.descriptor, written)
        fcntl.ioctl(written, _FICLONE, source.descriptor)
        copy = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in _CANNOT:
            return None
        raise SourceError(f"volume {source.path}: not cloned: {err.strerror}") from err
    finally:
        if written >= 0:
            os.close(written)
    return OpenSource(source.path, copy)


def _overwrite_as(source: int, written: int) -> None:
    """Let btrfs treat an empty file as the source, or it does not clone: with NOCOW or without.

    A block that two files share is never overwritten in place, also with NOCOW.
    """
    with contextlib.suppress(OSError):  # the file system has no such flags
        wanted, flags = _flags(source), _flags(written)
        if (wanted ^ flags) & _FS_NOCOW_FL:
            fcntl.ioctl(written, _FS_IOC_SETFLAGS, _FLAGS.pack(flags ^ _FS_NOCOW_FL))


def _flags(descriptor: int) -> int:
    flags: int = _FLAGS.unpack(fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(_FLAGS.size)))[0]
    return flags
