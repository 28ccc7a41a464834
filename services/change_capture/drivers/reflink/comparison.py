"""Which bytes of two clones of a file differ, from where the file system has them.

If two files have the same block at the same place of both *at the same time*, they read the same
bytes there. So it does not matter what moved blocks before (a balance, a defragmentation): it moves
those of both, or it makes them differ, which names too much and nothing too little. What matters is
that both maps are of one moment. While the base's clone has a block, nothing else is put there; but
a relocation may move it and give its block away between the two questions. So the base's map is
asked twice, before and after the other one, in windows of some thousand extents: a block that the
base had before and after was its own in between.
"""

from collections.abc import Iterator
from heapq import merge
from itertools import pairwise
from typing import NamedTuple

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.port import Candidate
from services.change_capture.drivers.reflink.extents import (
    Elsewhere,
    Extent,
    Place,
    Window,
    window_of,
)

#: 230 KB for each of the three answers, and milliseconds from the first to the last of them.
WINDOW_EXTENTS = 4096
#: A window in which the base's blocks move is asked for so often; then all of it counts as changed.
_TRIES = 3


class Piece(NamedTuple):
    """Bytes that differ from the base."""

    start: int
    end: int
    #: Whether all of them are zeros now.
    is_zero: bool


def differing(
    base: int, now: int, end: int, *, is_btrfs: bool, extent_count_max: int = WINDOW_EXTENTS
) -> Iterator[Piece]:
    """Where two clones differ: ascending, disjoint, and lazy; memory is O(window).

    Args:
        base: descriptor of the base's clone, which nobody writes to.
        now: descriptor of this capture's clone, which nobody writes to either.
        end: bytes beyond this one do not matter.
        is_btrfs: whether their file system is btrfs.
        extent_count_max: extents of a window.

    Raises:
        OSError: the file system fails.
    """
    start = 0
    while start < end:
        before, after = _both(base, now, start, end, extent_count_max)
        start = after.end
        if before is None:
            yield Piece(after.start, after.end, is_zero=False)
        elif before.answer != after.answer or not after.is_plain:
            yield from _joined(_pieces(before, after, is_btrfs=is_btrfs))


def candidates(
    pieces: Iterator[Piece], chunk_count: int, resized: int | None
) -> Iterator[Candidate]:
    """The chunks that pieces lie in: ascending, disjoint, and lazy.

    Args:
        pieces: as `differing` gives them.
        chunk_count: chunks of the volume.
        resized: the smaller one of two sizes, if the volume was resized: the chunk in which it ends
            was cut off or went on as zeros, and no block need show it.
    """
    if resized is not None and resized // CHUNK_SIZE_BYTES < chunk_count:
        pieces = merge(pieces, [Piece(resized, resized + 1, is_zero=False)])
    pending: tuple[int, int, bool] | None = None
    for first, past, is_hole in _chunks(pieces):
        if pending and (first, is_hole) == pending[1:]:
            pending = pending[0], past, is_hole
            continue
        if pending:
            yield _candidate(*pending)
        pending = first, past, is_hole
    if pending:
        yield _candidate(*pending)


def _both(
    base: int, now: int, start: int, end: int, extent_count_max: int
) -> tuple[Window | None, Window]:
    """The maps of both of one moment, from ``start`` on; None: the base's does not keep still."""
    for _ in range(_TRIES):
        before = window_of(base, start, end, extent_count_max)
        after = window_of(now, start, before.end, extent_count_max)
        if window_of(base, start, end, extent_count_max) == before:
            return before, after
    return None, after


def _pieces(before: Window, after: Window, *, is_btrfs: bool) -> Iterator[Piece]:
    """What differs within ``after``, in as many pieces as there are ends of extents."""
    olds, news = _within(before, after.end), _within(after, after.end)
    cuts = {after.start, after.end}
    for extent in (*olds, *news):
        cuts |= {max(extent.start, after.start), min(extent.end, after.end)}
    old_at = new_at = 0
    edges = sorted(cuts)
    for start, end in pairwise(edges):
        old_at, was = _place(olds, old_at, start, is_btrfs=is_btrfs)
        new_at, is_now = _place(news, new_at, start, is_btrfs=is_btrfs)
        if was != is_now:
            yield Piece(start, end, is_zero=is_now is None)


def _within(window: Window, end: int) -> list[Extent]:
    return [extent for extent in window.extents() if extent.start < end and extent.length]


def _place(
    extents: list[Extent], at: int, byte: int, *, is_btrfs: bool
) -> tuple[int, Place | Elsewhere]:
    """The position of the extent that ends after a byte, and where the byte is."""
    while at < len(extents) and extents[at].end <= byte:
        at += 1
    if at == len(extents) or extents[at].start > byte:
        return at, None
    return at, extents[at].place_at(byte, is_btrfs=is_btrfs)


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    last: Piece | None = None
    for piece in pieces:
        if last and (piece.start, piece.is_zero) == (last.end, last.is_zero):
            last = last._replace(end=piece.end)
            continue
        if last:
            yield last
        last = piece
    if last:
        yield last


def _chunks(pieces: Iterator[Piece]) -> Iterator[tuple[int, int, bool]]:
    """First chunk, the one after the last, and whether all of them are holes; ascending."""
    done = 0
    for start, end, is_zero in pieces:
        first, past = start // CHUNK_SIZE_BYTES, -(-end // CHUNK_SIZE_BYTES)
        holes_from = -(-start // CHUNK_SIZE_BYTES) if is_zero else past
        holes_to = end // CHUNK_SIZE_BYTES if is_zero else past
        if holes_from >= holes_to:
            holes_from = holes_to = past
        for run in (
            (first, holes_from, False),
            (holes_from, holes_to, True),
            (holes_to, past, False),
        ):
            begin = max(done, run[0])
            if begin < run[1]:
                yield begin, run[1], run[2]
                done = run[1]


def _candidate(first: int, past: int, is_hole: bool) -> Candidate:
    return Candidate(ByteRange(first * CHUNK_SIZE_BYTES, past * CHUNK_SIZE_BYTES), is_hole=is_hole)
