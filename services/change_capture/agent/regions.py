"""Regions: the agent's unit of work. One thread reads one region at a time."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.port import REGION_CHUNKS, Candidate

REGION_SIZE_BYTES = REGION_CHUNKS * CHUNK_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Region:
    """Part of a volume, aligned to 8 MiB, that has candidates in it."""

    number: int
    #: Chunks that the volume has in it: 128, fewer in the last region.
    chunk_count: int
    candidates: tuple[Candidate, ...]

    @property
    def first(self) -> int:
        """Index of its first chunk."""
        return self.number * REGION_CHUNKS


def regions_of(candidates: Iterable[Candidate], chunk_count: int) -> Iterator[Region]:
    """Candidates in regions, ascending; lazily, as far as they are asked for.

    Args:
        candidates: ascending and disjoint.
        chunk_count: chunks of the volume.
    """
    pieces = itertools.chain.from_iterable(map(_cut, candidates))
    for number, group in itertools.groupby(
        pieces, lambda piece: piece.extent.start // REGION_SIZE_BYTES
    ):
        count = min(REGION_CHUNKS, chunk_count - number * REGION_CHUNKS)
        yield Region(number, count, tuple(group))


class Regions:
    """Hands out regions, ascending, and knows below which one no later batch names a chunk."""

    def __init__(self, regions: Iterator[Region]) -> None:
        self._regions = regions
        self._lock = threading.Lock()
        self._next = 0
        self._held: dict[int, int] = {}  # thread → first region that its span may still name

    def take(self) -> Region | None:
        """The next region for the calling thread, or None at the end."""
        with self._lock:
            region = next(self._regions, None)
            if region:
                self._next = region.number + 1
                self._held.setdefault(threading.get_ident(), region.number)
            return region

    def emitted(self, still_in: int | None) -> int:
        """The calling thread's span goes out while it is in this region.

        Returns:
            The chunk below which nothing is named any more.
        """
        with self._lock:
            self._held.pop(threading.get_ident(), None)
            if still_in is not None:
                self._held[threading.get_ident()] = still_in
            return min(self._held.values(), default=self._next) * REGION_CHUNKS


def _cut(candidate: Candidate) -> Iterator[Candidate]:
    """A candidate cut at the borders of regions."""
    at, end = candidate.extent.start, candidate.extent.end
    while at < end:
        border = min(end, (at // REGION_SIZE_BYTES + 1) * REGION_SIZE_BYTES)
        yield Candidate(ByteRange(at, border), candidate.is_hole)
        at = border
