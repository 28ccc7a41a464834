"""The state folder of a filter: a file that says what there is, and segments of bits.

Each file is replaced durably, in one step, and has a checksum. What does not fit it is not read.
"""

import contextlib
import errno
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import xxhash

from libs.errors import DamagedDataError, OutOfSpaceError, UnavailableError
from services.change_capture.filter.marks.bitmap import ChunkBitmap

_VERSION = 1
_STATE = "tracking.json"
#: Segment: magic, chunks of the volume, xxh3_64 of the packed bits, which follow.
_SEGMENT = struct.Struct("<8sQQ")
_SEGMENT_MAGIC = b"BCFILTR1"


@dataclass(slots=True)
class Cut:
    """One cut of the chain."""

    #: Of the file with what was written since the cut before it; None: nobody needs that any more.
    segment: int | None
    #: Names the cut within its filter.
    token: str
    #: Volume and session that it became, once that is known.
    volume: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What a volume has that nobody wrote to behind its filter's back."""

    identity: str
    size_bytes: int
    #: Of the last change of a file, in ns; of a device it is always 0.
    changed_ns: int


@dataclass(slots=True)
class TrackingState:
    """All that is written in the state folder beside the bits themselves."""

    epoch: str
    facts: VolumeFacts
    is_clean: bool = False
    cuts: list[Cut] = field(default_factory=list)
    #: What was written since the last cut; of a clean stop alone.
    current: int | None = None
    #: Names the newest clean stop, so that a successor knows whether nobody came between.
    stop: str = ""

    @property
    def segments(self) -> list[int]:
        """Numbers of the segments that are in use."""
        numbers = [self.current, *(cut.segment for cut in self.cuts)]
        return [number for number in numbers if number is not None]


class StateFolder:
    """The files of one filter. Used by one thread at a time; raises OSError as the kernel does.

    Args:
        path: of the folder, which is this filter's alone.
        chunk_count: chunks of the volume.
    """

    def __init__(self, path: Path, chunk_count: int) -> None:
        self.path = path
        self._chunk_count = chunk_count
        self._next_segment = 1

    def read_state(self) -> TrackingState | None:
        """What the process before this one has written; None: there was none.

        Raises:
            ValueError: it is damaged.
        """
        try:
            digest, _, text = (self.path / _STATE).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if digest != _digest_of(text):
            raise ValueError("its checksum does not fit")
        fields = json.loads(text)
        if fields.pop("version") != _VERSION:
            raise ValueError("another version wrote it")
        fields["facts"] = VolumeFacts(**fields["facts"])
        fields["cuts"] = [Cut(**cut) for cut in fields["cuts"]]
        state = TrackingState(**fields)
        numbers = [cut.segment or 0 for cut in state.cuts]
        self._next_segment = max([0, state.current or 0, *numbers]) + 1
        return state

    def write_state(self, state: TrackingState) -> None:
        """Replace it durably, and remove segments that it does not name."""
        text = json.dumps({"version": _VERSION, **asdict(state)}).encode()
        self._write(_STATE, _digest_of(text) + b"\n" + text)
        used = {f"segment-{number}" for number in state.segments}
        for path in self.path.iterdir():
            if path.name.startswith("segment-") and path.name not in used:
                path.unlink(missing_ok=True)

    def write_segment(self, bits: ChunkBitmap) -> int:
        """Write bits durably. Returns the segment's number."""
        number = self._next_segment
        self._next_segment += 1
        packed = bits.packed()
        head = _SEGMENT.pack(_SEGMENT_MAGIC, bits.chunk_count, xxhash.xxh3_64_intdigest(packed))
        self._write(f"segment-{number}", head + packed)
        return number

    def read_segment(self, number: int, into: ChunkBitmap) -> bool:
        """Add a segment's bits. Returns whether it could be read."""
        try:
            raw = (self.path / f"segment-{number}").read_bytes()
            magic, count, digest = _SEGMENT.unpack_from(raw)
            packed = memoryview(raw)[_SEGMENT.size :]
            good = magic == _SEGMENT_MAGIC and count == self._chunk_count
            if not good or xxhash.xxh3_64_intdigest(packed) != digest:
                return False
            into.add_packed(packed)
        except (OSError, struct.error, DamagedDataError):
            return False
        return True

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file durably, in one step."""
        part = self.path / f"{name}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell what the state folder does wrong as our own errors."""
        try:
            yield
        except OSError as err:
            about = f"state of the filter in {self.path}: {err.strerror}"
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpaceError(f"{about}; free space there") from err
            raise UnavailableError(f"{about}; check that folder") from err


def _digest_of(text: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(text).encode()
