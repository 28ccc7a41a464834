"""A process that freezes file systems and thaws them by itself.

It runs as a script and uses the standard library only.
Whoever started it may die at any moment. It thaws when the time of the hold is over, and when its
standard input ends, which the kernel sees to if its starter is killed. Signals that end a service
are ignored until it has thawed. It writes to nothing but its standard output, because whatever it
wrote to might lie on a file system that it froze.

Arguments: seconds that a hold may last, then paths of mount points. An agent names its own open
descriptors by them, so that what it judged is what is frozen. Standard input: ``H`` holds, ``R``
releases. Standard output, a line each: ``ready``; ``held``; ``released`` and whether the hold was
unbroken (1 or 0); ``failed`` and a reason; ``broken`` when the time was over.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import sys
import time

#: linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Serve one hold and exit."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _spare_from_the_oom_killer()
    seconds, mounts = float(arguments[0]), arguments[1:]
    try:
        fds = [os.open(mount, os.O_RDONLY | os.O_DIRECTORY) for mount in mounts]
        for fd in fds:  # most of what the freeze would have to write is written before it
            _LIBC.syncfs(fd)
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]  # noqa: PTH115 -- starts faster than with pathlib
    except OSError as err:
        _say(f"failed {err}")
        return
    _say("ready")
    if _command(None) == b"H":
        _hold(names, fds, seconds)


def thaw(mounts: list[str]) -> None:
    """Thaw what a freezer that was killed may have left; one that is not frozen is left alone."""
    for mount in mounts:
        try:
            fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        _thaw(fd)
        os.close(fd)


def _hold(names: list[str], fds: list[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    frozen: list[int] = []
    for name, fd in zip(names, fds, strict=True):
        try:
            fcntl.ioctl(fd, FIFREEZE, 0)
        except OSError as err:
            _thaw_all(frozen)
            _say(f"failed {name}: {_why(err)}")
            return
        frozen.append(fd)
    if time.monotonic() >= until:  # it took so long to write what was dirty
        _thaw_all(frozen)
        _say("broken")
        return
    _say("held")
    command = _command(until - time.monotonic())
    in_time = time.monotonic() < until
    unbroken = _thaw_all(frozen) and in_time
    _say(f"released {int(unbroken)}" if command == b"R" else "broken")


def _thaw_all(fds: list[int]) -> bool:
    """Thaw in the reverse order; whether all were still frozen."""
    thawed = [_thaw(fd) for fd in reversed(fds)]  # every one, also behind one that fails
    return all(thawed)


def _thaw(fd: int) -> bool:
    try:
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError:
        return False
    return True


def _why(err: OSError) -> str:
    if err.errno == errno.EBUSY:
        return "somebody else has frozen it already"
    if err.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
        return "its file system cannot be frozen"
    if err.errno == errno.EPERM:  # in a user namespace of its own CAP_SYS_ADMIN is not enough
        return "the agent may not freeze it; it needs CAP_SYS_ADMIN of the node"
    return str(err.strerror)


def _command(timeout_seconds: float | None) -> bytes:
    """The next command; empty if the time is over or whoever started us is gone."""
    ready, _, _ = select.select([0], [], [], timeout_seconds)
    return os.read(0, 1) if ready else b""


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, f"{line}\n".encode())


def _spare_from_the_oom_killer() -> None:
    # It needs a privilege. Without, the agent thaws in its place.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 -- starts faster than with pathlib
        file.write("-1000")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--thaw"]:
        thaw(sys.argv[2:])
    else:
        main(sys.argv[1:])
