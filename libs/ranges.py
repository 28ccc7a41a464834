"""Half-open byte ranges and runs of chunk indexes: how public functions speak of extents."""

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libs.errors import BadInputError

_RUN = struct.Struct("<QI")
#: Bytes of one packed run: first chunk index (u64), count (u32).
RUN_SIZE_BYTES = _RUN.size
#: Longest column of runs with which a client says what has changed: 524,288 runs.
HINTS_SIZE_BYTES_MAX = 6 << 20


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes ``start`` up to, not including, ``end``.

    Raises:
        BadInputError: the range is negative or ends before it starts.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise BadInputError(f"byte range {self.start}-{self.end}: expected 0 <= start <= end")

    @property
    def length(self) -> int:
        """Number of bytes in the range."""
        return self.end - self.start

    @staticmethod
    def at(offset: int, length: int) -> "ByteRange":
        """The range of ``length`` bytes that starts at ``offset``."""
        return ByteRange(offset, offset + length)


@dataclass(frozen=True, slots=True, order=True)
class ChunkRun:
    """``count`` consecutive chunk indexes from ``first``; count is at least 1."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The index after the last one of the run."""
        return self.first + self.count


def pack_runs(runs: Iterable[ChunkRun]) -> bytes:
    """Runs as one bytes column, 12 bytes each: the form that events carry.

    A column costs 1/200 of a list of dicts to encode.
    """
    return b"".join(_RUN.pack(run.first, run.count) for run in runs)


def unpack_runs(column: bytes, chunk_count_max: int) -> list[ChunkRun]:
    """Read a column written by `pack_runs`.

    Args:
        column: the packed runs; its length must be a multiple of 12 bytes.
        chunk_count_max: number of chunks that a volume of this size has; runs must lie below it.

    Raises:
        BadInputError: wrong length, an empty run, a run beyond the volume, or runs that do not
            ascend.
    """
    check_runs(column, chunk_count_max)
    return list(iter_runs(column))


def check_runs(column: bytes, chunk_count_max: int) -> None:
    """Refuse a column that `unpack_runs` would refuse, without making anything of its size."""
    _check_whole_runs(column)
    before = 0
    for first, count in _RUN.iter_unpack(column):
        if count == 0 or first < before or first + count > chunk_count_max:
            raise BadInputError(
                f"run of {count} chunks at {first}: expected at least one chunk, ascending runs, "
                f"and an end at or below {chunk_count_max}"
            )
        before = first + count


def iter_runs(column: bytes) -> Iterator[ChunkRun]:
    """The runs of a column that was checked, one when it is asked for."""
    return itertools.starmap(ChunkRun, _RUN.iter_unpack(column))


def count_chunks(column: bytes) -> int:
    """Number of chunks that a column written by `pack_runs` names, wherever they lie.

    Raises:
        BadInputError: the column is not made of whole runs.
    """
    _check_whole_runs(column)
    return sum(count for _first, count in _RUN.iter_unpack(column))


def runs_of(indexes: Iterable[int]) -> Iterator[ChunkRun]:
    """Join ascending chunk indexes into runs."""
    first = end = -1
    for index in indexes:
        if index != end:
            if first >= 0:
                yield ChunkRun(first, end - first)
            first = index
        end = index + 1
    if first >= 0:
        yield ChunkRun(first, end - first)


def _check_whole_runs(column: bytes) -> None:
    if len(column) % RUN_SIZE_BYTES:
        raise BadInputError(
            f"run column of {len(column)} bytes: expected a multiple of {RUN_SIZE_BYTES}"
        )
