"""The views that this agent has made in QEMU processes: those that are open, and what is left over.

A view is noted before anything of it is made, and the note is removed when all of it is gone. What
has this agent's name and is of no open view is left over: of a process that was killed, or of a
step that failed.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from libs.errors import OutOfSpaceError, UnavailableError
from services.change_capture.drivers.qemu.cut import let_go
from services.change_capture.drivers.qemu.names import ViewNames
from services.change_capture.drivers.qemu.place import place_of
from services.change_capture.drivers.qemu.process import DiskProcess
from services.change_capture.drivers.qemu.qmp import QmpConnection
from services.change_capture.drivers.qemu.records import DiskRecord, DiskRecords, new_id


class OwnViews:
    """The views of this agent. Thread-safe.

    Args:
        records: where they are noted.
    """

    def __init__(self, records: DiskRecords) -> None:
        self._records = records
        #: Ids of open views.
        self._open = set[str]()
        #: Scratch files of views, open.
        self._scratches: dict[str, int] = {}
        self._locks: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def changing(self, socket: Path) -> Iterator[None]:
        """One thread at a time changes what a process has."""
        with self._locks.setdefault(str(socket), threading.Lock()):
            yield

    def begin(self, tenant: str, path: Path) -> ViewNames:
        """Note a view of a volume.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        names = ViewNames(self._records.agent(), new_id())
        self._records.write("views", names.view, DiskRecord(tenant, str(path)))
        self._open.add(names.view)
        return names

    def make_scratch(self, names: ViewNames, size_bytes: int, user: int) -> Path:
        """Make an empty sparse file that QEMU's user may write to; where it is.

        It stays open until the view is removed.

        Raises:
            OutOfSpaceError: there is no room.
            UnavailableError: it fails.
        """
        path = self._scratch(names.view)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._scratches[names.view] = descriptor
            os.truncate(descriptor, size_bytes)
            if user != os.geteuid():
                os.chown(descriptor, user, -1)
        except OSError as err:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            about = f"scratch file {path}: {err.strerror}"
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpaceError(f"{about}; free space in the agent's state folder") from err
            raise UnavailableError(
                f"{about}; QEMU's user must own it, so run the agent as root"
            ) from err
        return path

    def end(self, names: ViewNames) -> None:
        """The view is open no more; what was made for it is left over."""
        self._open.discard(names.view)

    def close_scratch(self, names: ViewNames) -> None:
        """Close a view's scratch file; it is freed if QEMU has closed it, too, or is gone."""
        self._close_scratch(names.view)

    def note_nbd(self, names: ViewNames) -> None:
        """The NBD server of the process was started for a view."""
        self._note_nbd(names.view)

    def remove(self, process: DiskProcess, qmp: QmpConnection) -> None:
        """Remove what is left over in a process; harmless if there is nothing.

        Args:
            process: the process.
            qmp: a conversation with it.

        Raises:
            BackcastError: it refuses a step, or does not answer.
        """
        let_go(qmp, self._records.agent(), lambda view: view not in self._open)
        has_nbd = False
        for view, record in self._noted(process.socket):
            if view not in self._open:
                has_nbd = has_nbd or record.has_nbd
                self._scratch(view).unlink(missing_ok=True)
                self._close_scratch(view)
                self._records.remove("views", view)
        if not has_nbd:
            return
        heirs = [view for view, _ in self._noted(process.socket)]
        if heirs:
            self._note_nbd(heirs[0])
        else:
            process.stop_nbd(qmp)

    def left_over(self) -> list[tuple[str, Path]]:
        """Tenants and sockets of the processes in which something may be left over."""
        found = set[tuple[str, Path]]()
        for view in self._records.names("views"):
            record = self._records.read("views", view)
            if record is None:
                self._records.remove("views", view)
            elif view not in self._open:
                found.add((record.tenant, place_of(Path(record.path)).socket))
        return sorted(found)

    def _close_scratch(self, view: str) -> None:
        descriptor = self._scratches.pop(view, None)
        if descriptor is not None:
            os.close(descriptor)

    def _scratch(self, view: str) -> Path:
        return self._records.folder / f"scratch-{view}"

    def _noted(self, socket: Path) -> list[tuple[str, DiskRecord]]:
        found = ((view, self._records.read("views", view)) for view in self._records.names("views"))
        return [(v, r) for v, r in found if r and place_of(Path(r.path)).socket == socket]

    def _note_nbd(self, view: str) -> None:
        record = self._records.read("views", view)
        if record:
            changed = DiskRecord(record.tenant, record.path, has_nbd=True)
            self._records.write("views", view, changed)
