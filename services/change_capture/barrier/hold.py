"""A hold on a node: file systems frozen by a process of its own, which thaws whatever happens.

Order: journal written and flushed → freezer started → frozen → thawed → journal removed. If the
agent is killed, the freezer sees its end and thaws. If the freezer is killed, the agent thaws. If
both are killed, the next agent process finds the journal and thaws.
"""

import contextlib
import json
import logging
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from libs.errors import HoldBrokenError, SourceError
from libs.runtime.threads import start_thread
from services.change_capture.barrier import freezer

log = logging.getLogger(__name__)

#: How long the freezer may take to start and to write what is dirty.
_READY_SECONDS_MAX = 20.0
#: A thaw by another process; it may wait for the file system.
_THAW_SECONDS_MAX = 10.0
_JOURNAL_SUFFIX = ".hold"
#: linux/capability.h: the kernel freezes for those who have it.
_CAP_SYS_ADMIN = 21


class Hold:
    """Freezes file systems for a while; used by one thread at a time.

    Args:
        mounts: mount points, each once.
        seconds: it ends by itself after so long.
        journal: file that names the mount points while they may be frozen.

    Raises:
        SourceError: one of them cannot be frozen (`require_freezable`), or cannot be opened.
    """

    def __init__(self, mounts: Sequence[str], seconds: float, journal: Path) -> None:
        self._mounts = list(mounts)
        self._seconds = seconds
        self._journal = journal
        for mount in mounts:
            require_freezable(mount)
        _write_journal(journal, self._mounts)
        # Isolated and without packages: it starts in some 20 ms, and imports nothing later, when
        # the file system that it would read from may be frozen.
        self._process = subprocess.Popen(  # noqa: S603 -- our own script; the rest are its arguments
            [sys.executable, "-I", "-S", freezer.__file__, str(seconds), *self._mounts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._watcher = start_thread("hold", self._watch, daemon=True)
        try:
            self._expect("ready", _READY_SECONDS_MAX)
        except BaseException:
            self.end()
            raise

    def freeze(self) -> None:
        """Hold: returns when new writes wait and earlier ones are flushed.

        Raises:
            SourceError: one of the file systems cannot be frozen, or is frozen by somebody else.
            HoldBrokenError: it took longer than the hold may last.
        """
        self._tell(b"H")
        self._expect("held", self._seconds + _THAW_SECONDS_MAX)

    @property
    def pid(self) -> int:
        """Id of the process that freezes and thaws."""
        return self._process.pid

    @property
    def is_unbroken(self) -> bool:
        """Whether the file systems are still frozen, as far as the freezer has said."""
        assert self._process.stdout is not None
        said, _, _ = select.select([self._process.stdout], [], [], 0)
        return not said

    def release(self) -> bool:
        """Let writes go on; whether all were frozen until now. The end of this hold."""
        try:
            self._tell(b"R")
            answer = self._line(_THAW_SECONDS_MAX)
        except HoldBrokenError:
            answer = ""
        self.end()
        return answer == "released 1"

    def end(self) -> None:
        """Let writes go on, whatever became of the freezer; harmless when repeated."""
        process = self._process
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()
        self._watcher.join(2 * _THAW_SECONDS_MAX)
        if self._watcher.is_alive():  # the kernel does not let it thaw; it will when it can
            log.critical("freezer does not end", extra={"mounts": self._mounts})
            return
        if process.stdout:
            process.stdout.close()
        self._journal.unlink(missing_ok=True)

    def _watch(self) -> None:
        """Body of a thread: thaws in the place of a freezer that was killed."""
        status = self._process.wait()
        if status != 0:
            log.error("freezer ended early", extra={"mounts": self._mounts, "status": status})
            thaw(self._mounts)

    def _tell(self, command: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command)
        except OSError as err:
            raise self._broken() from err

    def _expect(self, wanted: str, seconds_max: float) -> None:
        line = self._line(seconds_max)
        if line == wanted:
            return
        if line.startswith("failed "):
            raise SourceError(f"writes not held: {line.removeprefix('failed ')}")
        raise self._broken()

    def _line(self, seconds_max: float) -> str:
        """The next line of the freezer; empty if it has ended or does not answer."""
        assert self._process.stdout is not None
        until, text = time.monotonic() + seconds_max, b""
        while not text.endswith(b"\n"):
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            piece = self._process.stdout.read(256) if ready else b""
            if not piece:
                return ""
            text += piece
        return text.decode().splitlines()[0]

    def _broken(self) -> HoldBrokenError:
        return HoldBrokenError(
            f"hold of {', '.join(self._mounts)}: it ended before the release, at the latest after "
            f"{self._seconds:g} s; take the snapshot again"
        )


def require_freezable(mount: str) -> None:
    """Refuse a path whose file system this process may not freeze, or whose freeze would hold more.

    A folder of the node that is mounted into a container is a mount point there, and its file
    system may be the node's root.

    Raises:
        SourceError: nothing is mounted there, only a folder of a file system is, it is not
            absolute, or the kernel would refuse this process.
    """
    if not mount.startswith("/") or not os.path.ismount(mount):
        raise SourceError(
            f"mount point {mount}: nothing is mounted there, so that nothing can be frozen; "
            f"give the absolute path of a mounted file system"
        )
    mounts = Path("/proc/self/mountinfo").read_bytes()
    folder = mounted_folder(mounts, os.path.realpath(mount))
    if folder != "/":
        raise SourceError(
            f"mount point {mount}: only the folder {folder} of its file system is mounted there, "
            f"and a freeze would hold all of it; give a path where the whole one is mounted"
        )
    if not _has_capability(_CAP_SYS_ADMIN):
        raise SourceError(
            f"mount point {mount}: this agent may not freeze file systems, because it runs without "
            f"CAP_SYS_ADMIN; give it that (on Kubernetes: the component k8s/components/freeze), or "
            f"add the volume without --freeze"
        )


def thaw(mounts: Sequence[str]) -> None:
    """Thaw by a process of its own, which may have to wait for the file system."""
    command = [sys.executable, "-I", "-S", freezer.__file__, "--thaw", *mounts]
    try:
        subprocess.run(command, timeout=_THAW_SECONDS_MAX, check=False)  # noqa: S603 -- as above
    except subprocess.TimeoutExpired:
        log.critical("not thawed", extra={"mounts": list(mounts)})


def thaw_leftovers(folder: Path) -> list[str]:
    """Thaw what an agent process and its freezer, both killed, may have left; the mount points.

    Args:
        folder: where journals are.
    """
    found: list[str] = []
    for journal in sorted(folder.glob(f"*{_JOURNAL_SUFFIX}")):
        try:
            mounts = [str(mount) for mount in json.loads(journal.read_bytes())]
        except ValueError:  # it was cut off, so nothing was frozen yet
            mounts = []
        if mounts:
            thaw(mounts)
            log.warning("thawed what was left frozen", extra={"mounts": mounts})
        found += mounts
        journal.unlink()
    return found


def journal_path(folder: Path, name: str) -> Path:
    """Where the journal of a hold is."""
    return folder / f"{name}{_JOURNAL_SUFFIX}"


def mounted_folder(mounts: bytes, mount: str) -> str:
    """The folder of its file system that is mounted at a mount point; "/" is all of it.

    Args:
        mounts: as `/proc/self/mountinfo` says (proc(5)).
        mount: real path of the mount point.

    A whole subvolume of btrfs counts as all of it: that is how its file systems are mounted. A
    freeze still holds the other subvolumes, too.
    """
    folder = "/"
    for line in mounts.splitlines():
        fields, _, kind = line.partition(b" - ")
        root, point = (_unescaped(field) for field in fields.split()[3:5])
        if point == mount:  # the last one lies on top
            folder = "/" if kind.startswith(b"btrfs ") and root == _subvolume(kind) else root
    return folder


def _subvolume(kind: bytes) -> str:
    """The subvolume that the end of a line of mountinfo names (btrfs(5)), or the empty text."""
    options = kind.split()[-1].split(b",")
    return next((_unescaped(one[7:]) for one in options if one.startswith(b"subvol=")), "")


def _unescaped(field: bytes) -> str:
    """A path of mountinfo, where blanks and backslashes are octal numbers."""
    plain = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)
    return os.fsdecode(plain)


def _has_capability(number: int) -> bool:
    """Whether this process has a capability in effect."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


def _write_journal(path: Path, mounts: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(json.dumps(list(mounts)).encode())
        file.flush()
        os.fsync(file.fileno())
