"""Clones of files that share their blocks (FICLONE), on file systems that can: XFS, btrfs.

A clone is an unnamed file (O_TMPFILE) beside its source. It has no name, so the kernel frees its
blocks when the last descriptor is closed, also if the process is killed or the machine loses power.
"""

import errno
import fcntl
import os
import stat

from libs.errors import SourceError
from services.change_capture.drivers.local.roots import OpenSource

#: linux/fs.h: _IOW(0x94, 9, int).
_FICLONE = 0x40049409
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
