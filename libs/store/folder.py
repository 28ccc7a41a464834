"""The object store as a folder: for copies that no network reaches, and for tests.

Write order of `put`: temporary file, fsync, rename, fsync of the folder. The rename is the commit
point: a crash before it leaves a file under ``.partial/``, which no reader sees and which may be
deleted when nothing writes; a crash after it leaves the object, durable once the folder is flushed.
"""

import contextlib
import errno
import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from libs.errors import (
    BadInputError,
    ConfigurationError,
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.ranges import ByteRange
from libs.store.port import (
    OBJECT_SIZE_BYTES_MAX,
    Body,
    Leftovers,
    ObjectStat,
    ObjectStore,
    check_body,
    check_key,
    check_prefix,
    check_range,
)

#: Holds files being written; keys cannot begin with a dot, so no object is ever in it.
_PARTIAL = ".partial"


class FolderStore:
    """Objects as files below one folder, which one file system holds.

    Any number of threads and processes may use it at once.
    """

    def __init__(self, root: Path) -> None:
        """Use ``root``, which must exist, so that a medium that is not mounted is noticed.

        Raises:
            ConfigurationError: not a folder that can be written to.
        """
        self._root = root
        self._partial = root / _PARTIAL
        try:
            self._partial.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"folder {root}: expected an existing folder that can be written to: {error}"
            ) from error

    def put(self, key: str, body: Body) -> None:
        """See `ObjectStore.put`; the kernel takes the place of the server's checksum."""
        view = check_body(key, body)
        path = self._path(key)
        partial = self._partial / uuid.uuid4().hex
        with _translated("put", key):
            try:
                _write_durably(partial, view)
                self._make_folders(path.parent)
                partial.replace(path)
            except FileNotFoundError as error:
                raise UnavailableError(f"put {key}: its temporary file was deleted") from error
            except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                raise BadInputError(
                    f"put {key}: an object would be the folder of another"
                ) from error
            finally:
                partial.unlink(missing_ok=True)
            _flush_folder(path.parent)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._reading(key) as file:
            size = os.fstat(file.fileno()).st_size
            if size > OBJECT_SIZE_BYTES_MAX:
                raise DamagedDataError(
                    f"object {key}: {size} bytes, expected at most {OBJECT_SIZE_BYTES_MAX}"
                )
            return file.readall()

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        check_range(key, wanted)
        buffer = bytearray(wanted.length)
        self.get_into(key, wanted, memoryview(buffer))
        return bytes(buffer)

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """See `ObjectStore.get_into`."""
        check_range(key, wanted, buffer.nbytes)
        with self._reading(key) as file:
            filled = 0
            while filled < wanted.length:
                count = os.preadv(file.fileno(), [buffer[filled:]], wanted.start + filled)
                if count == 0:
                    raise DamagedDataError(
                        f"object {key}: {wanted.start + filled} bytes, expected {wanted.end}"
                    )
                filled += count

    def stat(self, key: str) -> ObjectStat | None:
        """See `ObjectStore.stat`."""
        path = self._path(key)
        with _translated("stat", key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                return _stat(key, status)
        self._check_mounted(f"stat {key}")
        return None

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        check_prefix(start_after)
        folder, _, _ = prefix.rpartition("/")
        yield from self._walk(folder + "/" if folder else "", prefix, start_after)
        self._check_mounted(f"list {prefix}")

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; folders stay, since a put may be about to use them."""
        path = self._path(key)
        with _translated("delete", key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _flush_folder(path.parent)

    def delete_leftovers(self, older_than: datetime) -> int:
        """See `Leftovers.delete_leftovers`: temporary files of processes that died."""
        count = 0
        with _translated("list", _PARTIAL):
            for entry in os.scandir(self._partial):
                with contextlib.suppress(FileNotFoundError):  # its put has ended
                    if entry.stat().st_mtime < older_than.timestamp():
                        (self._partial / entry.name).unlink()
                        count += 1
        return count

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[io.FileIO]:
        with _translated("get", key):
            try:
                file = self._path(key).open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError):
                self._check_mounted(f"get {key}")
                raise
            with file:
                yield file

    def _check_mounted(self, what: str) -> None:
        """What is not there is missing only while the medium is there.

        Raises:
            UnavailableError: the folder that this store made at its start is gone.
        """
        if not self._partial.is_dir():
            raise UnavailableError(
                f"{what}: folder {self._root} is no store any more: expected {_PARTIAL} in it, "
                f"which is gone; is its medium mounted?"
            )

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above it, each durable in the one that holds it."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)

    def _walk(self, folder: str, prefix: str, start_after: str) -> Iterator[ObjectStat]:
        """Objects below ``folder`` ('' or ending with '/'), sorted by whole key as S3 sorts.

        A folder that is not there has no objects: nobody but `put` makes folders, and none goes.
        """
        with _translated("list", folder):
            try:
                entries = list(os.scandir(self._root / folder))
            except (FileNotFoundError, NotADirectoryError):
                return
        # A folder sorts as its name with '/', which is where its keys belong among those of its
        # files.
        keys = sorted((folder + e.name + "/" * e.is_dir(follow_symlinks=False), e) for e in entries)
        for key, entry in keys:
            if entry.name.startswith(".") or not _may_match(key, prefix):
                continue
            if key.endswith("/"):
                if key > start_after or start_after.startswith(key):
                    yield from self._walk(key, prefix, start_after)
            elif key > start_after:
                with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                    yield _stat(key, entry.stat())


def _may_match(key: str, prefix: str) -> bool:
    """Whether ``key``, or for a folder some key below it, begins with ``prefix``."""
    return key.startswith(prefix) or (key.endswith("/") and prefix.startswith(key))


def _stat(key: str, status: os.stat_result) -> ObjectStat:
    return ObjectStat(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _write_durably(path: Path, body: memoryview) -> None:
    with path.open("xb", buffering=0) as file:
        written = 0
        while written < body.nbytes:
            written += os.write(file.fileno(), body[written:])
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(operation: str, key: str) -> Iterator[None]:
    """Turn the operating system's errors into Backcast's."""
    what = f"{operation} {key}"
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"{what}: no such object") from error
    except PermissionError as error:
        raise ForbiddenError(f"{what}: {error.strerror}: {error.filename}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = OutOfSpaceError if full else UnavailableError
        raise kind(f"{what}: {error.strerror}: {error.filename}") from error


_store: type[ObjectStore] = FolderStore
_leftovers: type[Leftovers] = FolderStore
