"""What differs between two recovery points of a volume, in time proportional to the difference."""

from dataclasses import dataclass
from itertools import islice

from libs.catalogdb.snapshots.points import SnapshotVolume
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from libs.reading.volume import VolumeReader


@dataclass(frozen=True, slots=True)
class Differences:
    """A page of extents that differ, in whole chunks except at the volume's end."""

    extents: list[ByteRange]
    #: Offset that the next page starts at; None for the last page.
    next_start_bytes: int | None


def find_differences(
    newer: VolumeReader, older: SnapshotVolume, start_bytes: int, limit: int
) -> Differences:
    """Extents of ``newer`` whose bytes are not those of ``older``.

    Bytes that only the older one has, because the volume shrank, are no extents of the newer one;
    bytes that only the newer one has and that are not zero are.

    Args:
        newer: the point whose extents are named.
        older: another point of the same volume, pinned by the caller.
        start_bytes: where to begin; rounded down to a whole chunk.
        limit: extents of the page, at most.
    """
    size = newer.point.size_bytes
    runs = newer.changes_since(older, start_bytes // CHUNK_SIZE_BYTES)
    extents = [
        ByteRange(run.first * CHUNK_SIZE_BYTES, min(run.end * CHUNK_SIZE_BYTES, size))
        for run in islice(runs, limit + 1)
        if run.first * CHUNK_SIZE_BYTES < size
    ]
    if len(extents) <= limit:
        return Differences(extents, None)
    return Differences(extents[:limit], extents[limit].start)
