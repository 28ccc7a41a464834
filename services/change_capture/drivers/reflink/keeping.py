"""Clones that are kept between captures, beside their images.

FICLONE needs both files on one file system, so a clone is where its image is: in the folder
`CLONES_FOLDER` beside it (mode 0700, the agent's). It is never opened to be read again; only its
extent map is asked for.

Order, when a capture is complete: the folder is there and marked → the unnamed clone is marked and
flushed, with all that the image's device still had in its cache → a record says that it is about to
be named → it is named, flushed → **the record has its facts: the commit**. A crash leaves, in this
order: an empty folder; nothing, as the kernel frees what has no name; a record without a clone; a
clone that is not trusted; and a clone that counts if its session becomes the base. `settle` removes
what is none of these, when an agent starts, and when the next order names its base.
"""

import contextlib
import errno
import logging
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from libs.errors import BackcastError, SourceError
from libs.runtime.libc import extended_status
from services.change_capture.drivers.local.cloned import ClonedView
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.local.roots import CLONE_MARK, CLONES_FOLDER
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.drivers.reflink.records import CloneRecord, CloneRecords, FileFacts

log = logging.getLogger(__name__)

#: File systems whose extent maps are understood. Others that can clone may have several devices
#: with the same addresses, or tell less.
UNDERSTOOD = frozenset({"xfs", "btrfs"})
#: A clone that no capture has replaced for so long is let go: it holds the room of all that was
#: overwritten since, perhaps of a volume that is gone.
KEPT_SECONDS_MAX = 30 * 24 * 3600.0


class KeptClones:
    """The clones that this node keeps. Thread-safe for different volumes.

    Args:
        records: say where they are.
    """

    def __init__(self, records: CloneRecords) -> None:
        self._records = records

    def open(self, volume: UUID, session: UUID, view: ClonedView) -> tuple[int, int] | TrackingLost:
        """A session's clone, for its extent map alone, and its size; or why it is of no use.

        Args:
            volume: the volume.
            session: of the base.
            view: of the volume now, with a clone.

        Returns:
            A descriptor, which the caller closes, and bytes.
        """
        record = self._records.read(volume, session)
        if record is None or record.clone is None:
            return TrackingLost("unknown", f"this node keeps no clone of base {session}")
        if record.identity != view.identity:
            return TrackingLost(
                "another-device",
                f"{view.source.path} is another file than at base {session} (it was replaced): "
                f"{record.identity} then, {view.identity} now",
            )
        try:
            descriptor = self._found(volume, session, record, view)
        except (OSError, BackcastError) as err:
            return TrackingLost("unknown", f"the clone of base {session} in {record.folder}: {err}")
        assert view.clone is not None
        found = _facts(descriptor)
        if found != record.clone or _token(descriptor) != record.token:
            os.close(descriptor)
            return TrackingLost(
                "unclean",
                f"the clone of base {session} in {record.folder} was touched: {record.clone} then, "
                f"{found} now",
            )
        if os.fstat(descriptor).st_dev != os.fstat(view.clone.descriptor).st_dev:
            os.close(descriptor)
            return TrackingLost(
                "another-device", f"the clone of base {session} is on another file system"
            )
        return descriptor, found.size_bytes

    def keep(self, volume: UUID, session: UUID, view: ClonedView) -> None:
        """Keep the clone of a view that is still open.

        Raises:
            OSError: it cannot be kept there.
            UnavailableError: the record cannot be written.
        """
        assert view.clone is not None
        assert view.source.source.folder is not None
        copy, name = view.clone.descriptor, _name(volume, session)
        with contextlib.ExitStack() as opened:
            folder = _made_folder(view.source.source.folder)
            opened.callback(os.close, folder)
            token = secrets.token_hex(16)
            os.setxattr(copy, CLONE_MARK, token.encode())
            os.fsync(copy)
            where = _path_of(folder)
            inode = os.fstat(folder).st_ino
            intent = CloneRecord(where, inode, view.identity, token, None)
            self._records.write(volume, session, intent)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.link(f"/proc/self/fd/{copy}", name, dst_dir_fd=folder, follow_symlinks=True)
            os.fsync(copy)
            os.fsync(folder)
            facts = _facts(copy)
            kept = CloneRecord(where, inode, view.identity, token, facts)
            self._records.write(volume, session, kept)

    def keep_only(self, volume: UUID, sessions: set[UUID]) -> None:
        """Remove the volume's clones of other sessions."""
        for session in self._records.sessions(volume):
            if session not in sessions:
                self._remove(volume, session)

    def settle(self) -> None:
        """Remove what crashes and captures that came to nothing have left, and what is too old."""
        for volume in self._records.volumes():
            for session in self._records.sessions(volume):
                record = self._records.read(volume, session)
                is_kept = record is not None and record.clone is not None
                if not is_kept or self._is_outdated(volume, session):
                    log.info("clone let go", extra={"volume": str(volume), "of": str(session)})
                    self._remove(volume, session)

    def _found(self, volume: UUID, session: UUID, record: CloneRecord, view: ClonedView) -> int:
        """A clone, open; also if somebody has renamed the folder that it and its image are in.

        Raises:
            OSError: it is not there.
            UnavailableError: where it is now cannot be written down.
        """
        name, beside = _name(volume, session), view.source.source.folder
        try:
            return _opened(record, name)
        except FileNotFoundError:
            if beside is None:
                raise
            path = f"{_path_of(beside)}/{CLONES_FOLDER}"
            moved = replace(record, folder=path)
            descriptor = _opened(moved, name)
        try:
            self._records.write(volume, session, moved)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _remove(self, volume: UUID, session: UUID) -> None:
        """The clone first: a record that is left is found again, a clone without one is not.

        If its folder is not there, the file system may come back, and the record waits for that.
        """
        record, name = self._records.read(volume, session), _name(volume, session)
        if record:
            try:
                _unlink(record, name)
            except OSError as err:
                about = {"path": f"{record.folder}/{name}", "detail": str(err)}
                log.warning("clone not removed", extra=about)
                if not self._is_outdated(volume, session):
                    return
        self._records.remove(volume, session)

    def _is_outdated(self, volume: UUID, session: UUID) -> bool:
        return self._records.written_at(volume, session) < time.time() - KEPT_SECONDS_MAX


def can_keep(view: ClonedView) -> bool:
    """Whether a view has a clone that the driver can keep and compare."""
    return view.clone is not None and file_system_of(view.clone.descriptor).kind in UNDERSTOOD


def require_keeping(view: ClonedView) -> None:
    """Refuse a volume of which no clone can be kept, or none that can be compared.

    Raises:
        SourceError: the file system cannot, or the agent may not.
    """
    path, beside = view.source.path, view.source.source.folder
    if not can_keep(view) or beside is None:
        raise SourceError(
            f"volume {path}: the driver `reflink` needs a file that can be cloned on XFS (made "
            f"with reflink=1) or btrfs, in a folder that the agent may write to; use `scan`"
        )
    try:
        os.close(_made_folder(beside))
    except OSError as err:
        raise SourceError(
            f"volume {path}: the folder {CLONES_FOLDER} beside it, where the driver `reflink` "
            f"keeps a clone, cannot be made or used: {err.strerror}; use `scan`"
        ) from err


def _name(volume: UUID, session: UUID) -> str:
    return f"{volume}.{session}"


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _facts(descriptor: int) -> FileFacts:
    status = os.fstat(descriptor)
    born_ns = extended_status(descriptor).born_ns
    return FileFacts(status.st_ino, born_ns, status.st_ctime_ns, status.st_size)


def _token(descriptor: int) -> str:
    try:
        return os.getxattr(descriptor, CLONE_MARK).decode(errors="replace")
    except OSError:
        return ""


def _made_folder(beside: int) -> int:
    """The folder of clones in the folder of an image, marked and durable; a descriptor.

    Raises:
        OSError: it cannot be made, or somebody else's is there.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(CLONES_FOLDER, 0o700, dir_fd=beside)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(CLONES_FOLDER, flags, dir_fd=beside)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise OSError(errno.EPERM, "the folder of clones is not the agent's alone")
        os.setxattr(folder, CLONE_MARK, b"folder")
        os.fsync(folder)
        above = os.open(f"/proc/self/fd/{beside}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _folder(record: CloneRecord) -> int:
    """The folder of a record, if it still is that one.

    Raises:
        OSError: it is not.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(record.folder, flags)
    if os.fstat(folder).st_ino != record.folder_inode or _token(folder) != "folder":
        os.close(folder)
        raise FileNotFoundError(errno.ENOENT, "another folder is there now")
    return folder


def _opened(record: CloneRecord, name: str) -> int:
    folder = _folder(record)
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _unlink(record: CloneRecord, name: str) -> None:
    folder = _folder(record)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
