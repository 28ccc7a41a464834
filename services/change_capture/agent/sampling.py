"""The sample: chunks that a tracker believes unchanged, hashed so that the chunker can check it.

No tracker is trusted blindly. With each increment a random sample of what it calls unchanged is
published with the ids of its bytes; the chunker compares them with the base's map. One that differs
was overlooked, so the tracking is lost (`TrackingLost`), and the session is rejected.

What the sample promises: if a tracker overlooks a share *q* of what it calls unchanged, each
increment finds out with a probability of 1 - (1 - q)^n, where n is the size of the sample: a 1024th
of the data, at least 16 chunks (as far as there are so many) and at most 256. A tracker that
overlooks one chunk in 16 is found out with a probability of 64 % by each increment, with 99 % by
five.
"""

import math
import random
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libs.packs.chunk import ChunkHasher, is_zero, split_chunks
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.port import Candidate, Changes, FrozenView

#: One of so many unchanged chunks is hashed.
SAMPLE_RATE = 1024
SAMPLE_COUNT_MIN = 16
#: More says little more, and each costs the chunker a look-up in the base's map.
SAMPLE_COUNT_MAX = 256
#: Chunks that are tried for each chunk of a sample that has to be read.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class SampledChunk:
    """A chunk that the tracker believes unchanged, and what it is now."""

    index: int
    #: None: all zeros.
    id: bytes | None


class Sample:
    """The sample of one capture. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: dict[int, SampledChunk] = {}

    def add(self, chunk: SampledChunk) -> None:
        """Add a chunk."""
        with self._lock:
            self._chunks[chunk.index] = chunk

    def take(self, count_min: int = 1) -> list[SampledChunk]:
        """Take out what there is, ascending; nothing if there are fewer than ``count_min``."""
        with self._lock:
            if len(self._chunks) < count_min:
                return []
            chunks, self._chunks = self._chunks, {}
        return [chunks[index] for index in sorted(chunks)]


class Sampler:
    """Picks chunks out of buffers that are read anyway; not thread-safe, each thread has its own.

    Args:
        sample: gets them.
        hasher: names them.
        data_bytes: about so much data the volume has.
        rng: where chance comes from.
    """

    def __init__(
        self, sample: Sample, hasher: ChunkHasher, data_bytes: int, rng: random.Random
    ) -> None:
        self._sample = sample
        self._hasher = hasher
        self._rng = rng
        count = sample_count(data_bytes)
        share = min(1.0, count * CHUNK_SIZE_BYTES / data_bytes) if data_bytes else 1.0
        #: Negative: every chunk is taken.
        self._log_of_rest = math.log1p(-share) if share < 1 else -math.inf
        #: Unchanged chunks to pass over before the next one is taken.
        self._skip = self._draw()

    def look_at(self, first: int, buffer: memoryview, changes: Changes | None) -> None:
        """Take a sample of the unchanged chunks of a buffer, before anything in it is moved.

        Args:
            first: index of the buffer's first chunk.
            buffer: whole chunks.
            changes: which of them changed.
        """
        count = len(buffer) // CHUNK_SIZE_BYTES
        if changes:
            count -= len(changes.data) + len(changes.zeros)
        if self._skip >= count:
            self._skip -= count
            return
        chunks = split_chunks(buffer)
        changed = {*changes.data, *changes.zeros} if changes else ()
        for number, chunk in enumerate(chunks):
            if number in changed:
                continue
            if self._skip:
                self._skip -= 1
                continue
            self._sample.add(_sampled(self._hasher, first + number, chunk))
            self._skip = self._draw()

    def _draw(self) -> int:
        """Number of failures before a success of probability ``share``."""
        return int(math.log(1.0 - self._rng.random()) / self._log_of_rest)


class Covered:
    """Chunks that candidates cover, 16 bytes for each candidate; passes them through meanwhile."""

    def __init__(self) -> None:
        self._firsts, self._ends = array("Q"), array("Q")

    def noting(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """The same candidates, which must ascend; each is noted before it is given on."""
        for candidate in candidates:
            self._firsts.append(candidate.extent.start // CHUNK_SIZE_BYTES)
            self._ends.append(candidate.extent.end // CHUNK_SIZE_BYTES)
            yield candidate

    def __contains__(self, index: int) -> bool:
        run = bisect_right(self._firsts, index) - 1
        return run >= 0 and index < self._ends[run]


def sample_count(data_bytes: int) -> int:
    """Chunks that the sample of a volume with so much data has."""
    count = data_bytes // CHUNK_SIZE_BYTES // SAMPLE_RATE
    return min(max(SAMPLE_COUNT_MIN, count), SAMPLE_COUNT_MAX)


def chance_of_its_own(source: random.Random) -> random.Random:
    """Chance for one capture, or one of its threads.

    Whoever sees a part of a sample must not know the rest, or the next one, from it: the system's
    chance stays what it is. Only a source that was seeded, so that a run can be repeated, gives
    each asker a seed.
    """
    if isinstance(source, random.SystemRandom):
        return source
    return random.Random(source.random())  # noqa: S311 -- asked to be repeatable


def read_sample(
    view: FrozenView, candidates: "Covered", hasher: ChunkHasher, rng: random.Random
) -> Iterator[SampledChunk]:
    """Read a sample of the chunks that are no candidates; costs O(sample).

    Half of it lies anywhere, half where data is: what a sparse volume has lost lies anywhere, and
    nearly all that it holds lies in few stretches.

    Args:
        view: the frozen view.
        candidates: what is not believed unchanged.
        hasher: names chunks.
        rng: where chance comes from.
    """
    chunk_count = -(-view.size_bytes // CHUNK_SIZE_BYTES)
    wanted = min(sample_count(view.data_bytes_estimate), chunk_count)
    taken = set[int]()
    buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
    for attempt in range(wanted * _TRIES):
        if len(taken) == wanted:
            return
        index = rng.randrange(chunk_count)
        if attempt % 2:
            index = _near_data(view, index, rng)
        if index in taken or index in candidates:
            continue
        taken.add(index)
        view.read_into(index * CHUNK_SIZE_BYTES, buffer)
        yield _sampled(hasher, index, buffer)


def _near_data(view: FrozenView, index: int, rng: random.Random) -> int:
    """A chunk of the data that follows ``index``, or of the first; ``index`` if there is none."""
    for start in (index * CHUNK_SIZE_BYTES, 0):
        extent: ByteRange | None = next(view.data(start), None)
        if extent:
            return rng.randrange(extent.start, extent.end, CHUNK_SIZE_BYTES) // CHUNK_SIZE_BYTES
    return index


def _sampled(hasher: ChunkHasher, index: int, chunk: memoryview) -> SampledChunk:
    return SampledChunk(index, None if is_zero(chunk) else bytes(hasher.chunk_id(chunk)))
