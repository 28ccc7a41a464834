"""Fingerprint files: what a volume looked like when a capture of it was made.

A file belongs to one session and is used only by a capture whose base is that session, on the same
device: whatever happens to sessions in between, an outdated file is never consulted (scenario 8).
It is written while the capture scans and renamed into place when it is complete; a torn or damaged
file is as good as none, and then the capture compares everything.

Format: header (magic, version, session, size, length of the identity; the identity), records of 128
fingerprints of 16 bytes, an index of the region numbers in record order (u64 each), footer (record
count u64, xxh3-64 of everything before the footer, magic). All zero fingerprints stand for zero
chunks; regions without data have no record.
"""

import contextlib
import errno
import os
import struct
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from xxhash import xxh3_64

from libs.errors import OutOfSpaceError, UnavailableError
from libs.packs.layout import FINGERPRINT_SIZE_BYTES

#: Chunks of a record.
RECORD_CHUNKS = 128
RECORD_SIZE_BYTES = RECORD_CHUNKS * FINGERPRINT_SIZE_BYTES
ZERO_FINGERPRINT = bytes(FINGERPRINT_SIZE_BYTES)
ZERO_RECORD = bytes(RECORD_SIZE_BYTES)

_MAGIC = b"BCFP"
_VERSION = 1
_HEADER = struct.Struct("<4sH16sQH")
_FOOTER = struct.Struct("<QQ4s")
#: The file of a volume of 1 TiB, 256 MiB, is checked in this many bytes at a time.
_CHECKED_AT_ONCE_BYTES = 1 << 20


class FingerprintFile:
    """The fingerprints of one sealed capture. Reading is thread-safe.

    Use `open_for` to get one; construction trusts its arguments.
    """

    def __init__(self, fd: int, records_start: int, regions: "array[int]") -> None:
        self._fd = fd
        self._records_start = records_start
        self._index = {region: ordinal for ordinal, region in enumerate(regions)}

    @classmethod
    def open_for(cls, path: Path, session: UUID, identity: str) -> "FingerprintFile | None":
        """The file at ``path`` if it is whole and belongs to this session and device, else None."""
        with contextlib.suppress(OSError, ValueError, struct.error):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return cls(fd, *_read_index(fd, session, identity))
            except (OSError, ValueError, struct.error):
                os.close(fd)
        return None

    @staticmethod
    def identity_at(path: Path, session: UUID) -> str | None:
        """The device whose fingerprints of this session a file says it has; None: it says nothing.

        For people, to tell why `open_for` gives none.
        """
        try:
            with path.open("rb") as file:
                _, _, owner, _, name_length = _HEADER.unpack(file.read(_HEADER.size))
                return file.read(name_length).decode() if owner == session.bytes else None
        except (OSError, ValueError, struct.error):
            return None

    def record(self, region: int) -> bytes:
        """The 128 fingerprints of a region; all zero if it had no data.

        Raises:
            OSError: the file cannot be read any more.
        """
        ordinal = self._index.get(region)
        if ordinal is None:
            return ZERO_RECORD
        at = self._records_start + ordinal * RECORD_SIZE_BYTES
        record = os.pread(self._fd, RECORD_SIZE_BYTES, at)
        if len(record) != RECORD_SIZE_BYTES:
            raise OSError(f"fingerprint file: record {ordinal} is cut off")
        return record

    def regions(self) -> Iterator[int]:
        """Regions with data, in no particular order."""
        return iter(self._index)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class FingerprintWriter:
    """Writes the fingerprints of a running capture next to their final place.

    Adding is thread-safe. Every method raises OutOfSpaceError or UnavailableError where the state
    folder fails: that is no fault of the volume.
    """

    def __init__(self, path: Path, session: UUID, size_bytes: int, identity: str) -> None:
        self._path = path
        self._part = path.with_suffix(".part")
        self._regions = array("Q")
        self._checksum = xxh3_64()
        self._lock = threading.Lock()
        name = identity.encode()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
        self._write(_HEADER.pack(_MAGIC, _VERSION, session.bytes, size_bytes, len(name)) + name)

    def add(self, region: int, record: bytes) -> None:
        """Add the fingerprints of a region; one without data is left out."""
        if record == ZERO_RECORD:
            return
        with self._lock:
            self._regions.append(region)
            self._write(record)

    def finish(self) -> None:
        """Make the file durable and put it in its place."""
        self._write(self._regions.tobytes())
        self._write(_FOOTER.pack(len(self._regions), self._checksum.intdigest(), _MAGIC))
        with self._translated():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)

    def discard(self) -> None:
        """Remove what was written; harmless after `finish`."""
        with contextlib.suppress(OSError):  # what is buffered may not fit on the disk
            self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _write(self, piece: bytes) -> None:
        self._checksum.update(piece)
        with self._translated():
            self._file.write(piece)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            text = f"fingerprint file {self._part}: {err.strerror}"
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpaceError(f"{text}; free space in the agent's state folder") from err
            raise UnavailableError(f"{text}; check the agent's state folder") from err


def fingerprint_path(folder: Path, volume: UUID, session: UUID) -> Path:
    """Where the fingerprints of a volume's capture lie."""
    return folder / "fingerprints" / str(volume) / f"{session}.fp"


def keep_only(folder: Path, volume: UUID, sessions: set[UUID]) -> None:
    """Delete the volume's fingerprint files of other sessions."""
    kept = {f"{session}.fp" for session in sessions}
    with contextlib.suppress(OSError):  # what stays costs space, nothing else
        for path in (folder / "fingerprints" / str(volume)).iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _read_index(fd: int, session: UUID, identity: str) -> tuple[int, "array[int]"]:
    head = os.pread(fd, _HEADER.size, 0)
    magic, version, owner, _, name_length = _HEADER.unpack(head)
    name = os.pread(fd, name_length, _HEADER.size)
    if (magic, version, owner, name) != (_MAGIC, _VERSION, session.bytes, identity.encode()):
        raise ValueError("another session, device or format")
    size = os.fstat(fd).st_size
    count, checksum, magic = _FOOTER.unpack(os.pread(fd, _FOOTER.size, size - _FOOTER.size))
    records_start = _HEADER.size + name_length
    if magic != _MAGIC or size != records_start + count * (RECORD_SIZE_BYTES + 8) + _FOOTER.size:
        raise ValueError("cut off")
    if _checksum(fd, size - _FOOTER.size) != checksum:
        raise ValueError("damaged")
    regions = array("Q")
    regions.frombytes(os.pread(fd, 8 * count, size - _FOOTER.size - 8 * count))
    return records_start, regions


def _checksum(fd: int, size: int) -> int:
    """Checksum of the first ``size`` bytes, which are a 4096th of the data that they describe."""
    checksum = xxh3_64()
    for at in range(0, size, _CHECKED_AT_ONCE_BYTES):
        checksum.update(os.pread(fd, min(_CHECKED_AT_ONCE_BYTES, size - at), at))
    return checksum.intdigest()
