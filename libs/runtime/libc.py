"""What the C library can do and Python does not offer."""

import ctypes
import errno
import os

#: mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD.
_MALLOC = ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20))
#: What file systems say that cannot allocate.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

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
