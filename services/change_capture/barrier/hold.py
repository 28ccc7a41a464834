"""A hold on a node: file systems frozen by a process of its own, which thaws whatever happens.

Order: journal written and flushed → freezer started → frozen → thawed → journal removed. If the
agent is killed, the freezer sees its end and thaws. If the freezer is killed, the agent thaws. If
both are killed, the next agent process finds the journal and thaws.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.errors import HoldBrokenError, SourceError
from libs.runtime.threads import start_thread
from services.change_capture.barrier import freezer
from services.change_capture.drivers.local.file_systems import mount_of
from services.change_capture.drivers.local.roots import Roots

log = logging.getLogger(__name__)

#: How long the freezer may take to start and to write what is dirty.
_READY_SECONDS_MAX = 20.0
#: A thaw by another process; it may wait for the file system.
_THAW_SECONDS_MAX = 10.0
_JOURNAL_SUFFIX = ".hold"
#: linux/capability.h: the kernel freezes for those who have it.
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class MountPoint:
    """The top folder of a mounted file system, open; whoever has it closes it."""

    #: Where it is mounted, for messages and for the journal.
    path: str
    descriptor: int

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


class Hold:
    """Freezes file systems for a while; used by one thread at a time.

    Args:
        mounts: mount points, each once; the hold closes them as soon as nothing can be frozen.
        seconds: it ends by itself after so long.
        journal: file that names the mount points while they may be frozen.

    Raises:
        SourceError: one of them cannot be opened by the process that freezes.
    """

    def __init__(self, mounts: Sequence[MountPoint], seconds: float, journal: Path) -> None:
        self._mounts = list(mounts)
        self._names = [mount.path for mount in mounts]
        #: Numbers of the file systems that are frozen (`st_dev`).
        self.devices = frozenset(os.fstat(mount.descriptor).st_dev for mount in mounts)
        self._seconds = seconds
        self._journal = journal
        try:
            _write_journal(journal, self._names)
            self._process = _freezer(mounts, seconds)
        except BaseException:
            self._close_mounts()
            raise
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
            log.critical("freezer does not end", extra={"mounts": self._names})
            return
        if process.stdout:
            process.stdout.close()
        self._journal.unlink(missing_ok=True)

    def _close_mounts(self) -> None:
        for mount in self._mounts:
            mount.close()

    def _watch(self) -> None:
        """Body of a thread: thaws in the place of a freezer that was killed, and closes all."""
        status = self._process.wait()
        if status != 0:
            log.error("freezer ended early", extra={"mounts": self._names, "status": status})
            _thaw(_places(self._mounts), self._names, _descriptors(self._mounts))
        self._close_mounts()  # they keep the file systems from being unmounted

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
            f"hold of {', '.join(self._names)}: it ended before the release, at the latest after "
            f"{self._seconds:g} s; take the snapshot again"
        )


def open_mount_point(roots: Roots, tenant: str, path: str) -> MountPoint:
    """Open a mount point whose file system this process may freeze for a tenant.

    A folder of the node that is mounted into a container is a mount point there, and its file
    system may be the node's root. A freeze would hold all of that.

    Raises:
        SourceError: it is missing or not open to the tenant, nothing is mounted there, only a
            folder of a file system is, or the kernel would refuse this process.
    """
    descriptor = roots.open_folder(tenant, Path(path))
    try:
        return MountPoint(_require_freezable(path, descriptor), descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _require_freezable(path: str, descriptor: int) -> str:
    """Where the file system of an open mount point is mounted."""
    mount = mount_of(descriptor)
    if mount is None or mount.point != str(Path(f"/proc/self/fd/{descriptor}").readlink()):
        raise SourceError(
            f"mount point {path}: nothing is mounted there, so that nothing can be frozen; "
            f"give the absolute path of a mounted file system"
        )
    # A freeze of a whole subvolume of btrfs still holds the other subvolumes, too.
    if mount.folder != "/":
        raise SourceError(
            f"mount point {path}: only the folder {mount.folder} of its file system is mounted "
            f"there, and a freeze would hold all of it; give a path where the whole one is mounted"
        )
    if not _has_capability(_CAP_SYS_ADMIN):
        raise SourceError(
            f"mount point {path}: this agent may not freeze file systems, because it runs without "
            f"CAP_SYS_ADMIN; give it that (on Kubernetes: the component k8s/components/freeze), or "
            f"add the volume without --freeze"
        )
    return mount.point


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
            _thaw(mounts, mounts)
            log.warning("thawed what was left frozen", extra={"mounts": mounts})
        found += mounts
        journal.unlink()
    return found


def journal_path(folder: Path, name: str) -> Path:
    """Where the journal of a hold is."""
    return folder / f"{name}{_JOURNAL_SUFFIX}"


def _thaw(places: Sequence[str], names: Sequence[str], descriptors: Sequence[int] = ()) -> None:
    """Thaw by a process of its own, which may have to wait for the file system."""
    command = [sys.executable, "-I", "-S", freezer.__file__, "--thaw", *places]
    try:
        subprocess.run(command, timeout=_THAW_SECONDS_MAX, check=False, pass_fds=descriptors)  # noqa: S603 -- as above
    except subprocess.TimeoutExpired:
        log.critical("not thawed", extra={"mounts": list(names)})


def _freezer(mounts: Sequence[MountPoint], seconds: float) -> subprocess.Popen[bytes]:
    """The process that freezes and thaws.

    Isolated and without packages: it starts in some 20 ms, and imports nothing later, when the file
    system that it would read from may be frozen.
    """
    return subprocess.Popen(  # noqa: S603 -- our own script; the rest are its arguments
        [sys.executable, "-I", "-S", freezer.__file__, str(seconds), *_places(mounts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        pass_fds=_descriptors(mounts),
    )


def _places(mounts: Sequence[MountPoint]) -> list[str]:
    """Paths that lead a process to the descriptors that it has inherited."""
    return [f"/proc/self/fd/{mount.descriptor}" for mount in mounts]


def _descriptors(mounts: Sequence[MountPoint]) -> list[int]:
    return [mount.descriptor for mount in mounts]


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
