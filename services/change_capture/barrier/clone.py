"""Clones of files that share their blocks (FICLONE), on file systems that can: XFS, btrfs.

A clone is an unnamed file (O_TMPFILE) beside its source. It has no name, so the kernel frees its
blocks when the last descriptor is closed, also if the process is killed or the machine loses power.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from libs.errors import SourceError

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


class Clone:
    """A file as it was at one instant; nothing can change it.

    Args:
        fd: of the unnamed file; closed with the clone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def path(self) -> Path:
        """Under which this process can open it, while the clone is not closed."""
        return Path(f"/proc/self/fd/{self._fd}")

    def close(self) -> None:
        """Give its blocks back once nobody has it open."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def clone(path: Path) -> Clone | None:
    """Clone a regular file; None if it is none, or its file system cannot.

    The kernel takes the file's locks and flushes what is dirty, so that no write is half in it.

    Raises:
        SourceError: the file cannot be read, or there is no room for what a clone needs.
    """
    source = target = -1
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(source).st_mode):
            return None
        target = os.open(path.resolve().parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as err:
        if target >= 0:
            os.close(target)
        if err.errno in _CANNOT:
            return None
        raise SourceError(f"volume {path}: not cloned: {err.strerror}") from err
    finally:
        if source >= 0:
            os.close(source)
    return Clone(target)
