"""Fingerprint files: what a volume looked like when a capture of it was made.

A file belongs to one session and is used only by a capture whose base is that session, on the same
device: whatever happens to sessions in between, an outdated file is never consulted (scenario 8).
    It is written while the capture scans and renamed into place when it is complete; a torn or
    damaged file is as good as none, and then the capture compares everything.

Format: header (magic, version, lengths, identity), records of (region number u64, 128 × 16 bytes),
    an index of the region numbers in record order, footer (record count u64, xxh3-64 of index,
    magic). All zero fingerprints stand for zero chunks; regions without data have no record.
"""

import contextlib
import os
import struct
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from xxhash import xxh3_64_intdigest

from libs.packs.layout import FINGERPRINT_SIZE_BYTES
from services.change_capture.drivers.scan import REGION_CHUNKS

RECORD_SIZE_BYTES = REGION_CHUNKS * FINGERPRINT_SIZE_BYTES
ZERO_FINGERPRINT = bytes(FINGERPRINT_SIZE_BYTES)
ZERO_RECORD = bytes(RECORD_SIZE_BYTES)

_MAGIC = b"BCFP"
_VERSION = 1
_HEADER = struct.Struct("<4sH16sQH")
_FOOTER = struct.Struct("<QQ4s")


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

    def record(self, region: int) -> bytes:
        """The 128 fingerprints of a region; all zero if it had no data.

        Raises:
            OSError: the file cannot be read any more.
        """
        ordinal = self._index.get(region)
        if ordinal is None:
            return ZERO_RECORD
        at = self._records_start + ordinal * (8 + RECORD_SIZE_BYTES) + 8
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
    """Writes the fingerprints of a running capture next to their final place. Adding is thread-safe."""

    def __init__(self, path: Path, session: UUID, size_bytes: int, identity: str) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.with_suffix(".part").open("wb")
        name = identity.encode()
        self._file.write(
            _HEADER.pack(_MAGIC, _VERSION, session.bytes, size_bytes, len(name)) + name
        )
        self._regions = array("Q")
        self._lock = threading.Lock()

    def add(self, region: int, record: bytes) -> None:
        """Add the fingerprints of a region; one without data is left out."""
        if record == ZERO_RECORD:
            return
        with self._lock:
            self._regions.append(region)
            self._file.write(region.to_bytes(8, "little") + record)

    def finish(self) -> None:
        """Make the file durable and put it in its place."""
        index = self._regions.tobytes()
        self._file.write(index + _FOOTER.pack(len(self._regions), xxh3_64_intdigest(index), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.with_suffix(".part").replace(self._path)

    def discard(self) -> None:
        """Remove what was written; harmless after `finish`."""
        self._file.close()
        self._path.with_suffix(".part").unlink(missing_ok=True)


def fingerprint_path(folder: Path, volume: UUID, session: UUID) -> Path:
    """Where the fingerprints of a volume's capture lie."""
    return folder / "fingerprints" / str(volume) / f"{session}.fp"


def keep_only(folder: Path, volume: UUID, sessions: set[UUID]) -> None:
    """Delete the volume's fingerprint files of other sessions."""
    kept = {f"{session}.fp" for session in sessions}
    with contextlib.suppress(FileNotFoundError):
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
    if magic != _MAGIC or size != records_start + count * (16 + RECORD_SIZE_BYTES) + _FOOTER.size:
        raise ValueError("cut off")
    raw = os.pread(fd, 8 * count, size - _FOOTER.size - 8 * count)
    if xxh3_64_intdigest(raw) != checksum:
        raise ValueError("damaged index")
    regions = array("Q")
    regions.frombytes(raw)
    return records_start, regions
