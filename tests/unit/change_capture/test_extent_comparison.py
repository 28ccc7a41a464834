"""Extent maps compared: made-up ones, and such as a file system gives while it moves blocks."""

import random
from collections.abc import Callable

import pytest

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.reflink import comparison
from services.change_capture.drivers.reflink.comparison import Piece, candidates, differing
from services.change_capture.drivers.reflink.extents import (
    DELALLOC,
    ENCODED,
    EXTENT_LAYOUT,
    INLINE,
    LAST,
    NOT_ALIGNED,
    SHARED,
    UNKNOWN,
    UNWRITTEN,
    Extent,
    Window,
)

_BLOCK = 4096
_PACKED = 128 << 10
#: Descriptors of two files that do not exist.
BASE, NOW = 3, 4


class Maps:
    """Answers as a kernel does, of two files; `asked` counts the questions."""

    def __init__(self, base: list[Extent], now: list[Extent]) -> None:
        self.of = {BASE: base, NOW: now}
        self.asked = 0
        self.before_each: Callable[[int], None] = lambda _: None

    def window(self, descriptor: int, start: int, end: int, extent_count_max: int) -> Window:
        self.before_each(self.asked)
        self.asked += 1
        found = [e for e in self.of[descriptor] if e.end > start and e.start < end]
        cut = found[:extent_count_max]
        told = end if len(cut) == len(found) else min(end, cut[-1].end)
        return Window(start, told, b"".join(EXTENT_LAYOUT.pack(*extent) for extent in cut))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[int]]:
    def compare(maps: Maps, end: int, *, count_max: int = 4, is_btrfs: bool = False) -> set[int]:
        """Blocks that are said to differ."""
        monkeypatch.setattr(comparison, "window_of", maps.window)
        found = set[int]()
        for piece in differing(BASE, NOW, end, is_btrfs=is_btrfs, extent_count_max=count_max):
            found |= {*range(piece.start // _BLOCK, -(-piece.end // _BLOCK))}
        return found

    return compare


def random_map(rng: random.Random, blocks: dict[int, tuple[int, int]]) -> list[Extent]:
    """Extents of blocks (index → physical block, flags), joined where chance wants it."""
    made = list[Extent]()
    for index in sorted(blocks):
        physical, flags = blocks[index]
        extent = Extent(index * _BLOCK, physical * _BLOCK, _BLOCK, flags)
        last = made[-1] if made else None
        if (
            last
            and (last.end, last.physical + last.length) == (extent.start, extent.physical)
            and last.flags == flags
            and rng.random() < 0.8
        ):
            made[-1] = last._replace(length=last.length + _BLOCK)
        else:
            made.append(extent)
    return made


@pytest.mark.parametrize("seed", range(50))
def test_exactly_the_blocks_that_are_elsewhere_differ(
    compared: Callable[..., set[int]], seed: int
) -> None:
    rng = random.Random(seed)
    count = rng.randrange(1, 120)
    base = {n: (1000 + n, 0) for n in range(count) if rng.random() < 0.8}
    now, truth = dict(base), set[int]()
    for _ in range(rng.randrange(30)):
        n, kind = rng.randrange(count), rng.randrange(4)
        if kind == 0:
            now[n] = (5000 + rng.randrange(10**6), 0)
        elif kind == 1:
            now.pop(n, None)
        elif kind == 2:
            now[n] = (5000 + n, UNWRITTEN)  # reads as zeros, as a hole does
        elif n in now:
            now[n] = (now[n][0], now[n][1] | SHARED | LAST)

    def place(of: dict[int, tuple[int, int]], n: int) -> int | None:
        return of[n][0] if n in of and not of[n][1] & UNWRITTEN else None

    truth = {n for n in range(count) if place(base, n) != place(now, n)}
    maps = Maps(random_map(rng, base), random_map(rng, now))
    for count_max in (1, 2, 7, 1000):
        assert compared(maps, count * _BLOCK, count_max=count_max) == truth, f"seed {seed}"


@pytest.mark.parametrize("flag", [UNKNOWN, DELALLOC, INLINE, NOT_ALIGNED, 0x80, 0x4000_0000])
def test_what_a_map_does_not_vouch_for_counts_as_changed(
    compared: Callable[..., set[int]], flag: int
) -> None:
    for flags in (flag, flag | UNWRITTEN, flag | ENCODED):
        extents = [Extent(0, 0, _BLOCK, 0), Extent(_BLOCK, _PACKED, _PACKED, flags)]
        assert compared(Maps(extents, extents), 40 * _BLOCK, is_btrfs=True) == {*range(1, 33)}


def test_of_compressed_extents_only_whole_ones_are_believed(
    compared: Callable[..., set[int]],
) -> None:
    whole = Extent(0, _BLOCK, _PACKED, ENCODED)
    part = Extent(_PACKED, 9 * _BLOCK, _PACKED - _BLOCK, ENCODED)
    maps = Maps([whole, part], [whole, part])
    assert compared(maps, 2 * _PACKED, is_btrfs=True) == {*range(32, 63)}
    assert compared(maps, 2 * _PACKED, is_btrfs=False) == {*range(63)}


def test_a_block_that_is_given_away_between_two_questions_is_found(
    compared: Callable[..., set[int]],
) -> None:
    """A relocation moves the base's block, and puts what is there now where that was."""
    maps = Maps([Extent(0, 10 * _BLOCK, _BLOCK, 0)], [Extent(0, 20 * _BLOCK, _BLOCK, 0)])

    def relocate(asked: int) -> None:
        if asked == 1:
            maps.of = {
                BASE: [Extent(0, 30 * _BLOCK, _BLOCK, 0)],
                NOW: [Extent(0, 10 * _BLOCK, _BLOCK, 0)],
            }

    maps.before_each = relocate
    assert compared(maps, _BLOCK) == {0}


def test_what_does_not_keep_still_counts_as_changed(compared: Callable[..., set[int]]) -> None:
    maps = Maps([Extent(0, 0, 8 * _BLOCK, 0)], [])

    def move(asked: int) -> None:
        there = Extent(0, asked * 100 * _BLOCK, 8 * _BLOCK, 0)
        maps.of = {BASE: [there], NOW: [there]}

    maps.before_each = move
    assert compared(maps, 16 * _BLOCK) == {*range(16)}
    assert maps.asked == 9


def test_pieces_become_chunks_that_ascend_and_holes_that_nobody_reads() -> None:
    chunk = CHUNK_SIZE_BYTES
    pieces = [
        Piece(10, 20, is_zero=False),
        Piece(30, chunk + 5, is_zero=True),  # no whole chunk
        Piece(2 * chunk - 5, 5 * chunk, is_zero=True),
        Piece(5 * chunk, 5 * chunk + 1, is_zero=False),
        Piece(7 * chunk, 8 * chunk, is_zero=True),
        Piece(8 * chunk, 9 * chunk + 1, is_zero=True),
    ]
    found = [
        (c.extent.start // chunk, c.extent.end // chunk, c.is_hole)
        for c in candidates(iter(pieces), 10, None)
    ]
    assert found == [(0, 2, False), (2, 5, True), (5, 6, False), (7, 9, True), (9, 10, False)]


def test_the_chunk_in_which_a_resized_volume_ended_is_looked_at() -> None:
    def found(resized: int | None) -> list[int]:
        return [c.extent.start for c in candidates(iter([]), 4, resized)]

    chunk = CHUNK_SIZE_BYTES
    assert found(None) == []
    assert found(2 * chunk + 5) == [2 * chunk]
    assert found(4 * chunk) == []  # it ends there now


def test_the_kernel_s_layout_is_what_its_headers_say() -> None:
    assert EXTENT_LAYOUT.size == 56
    window = Window(0, 9, EXTENT_LAYOUT.pack(1, 2, 3, SHARED) + EXTENT_LAYOUT.pack(4, 5, 6, LAST))
    assert list(window.extents()) == [Extent(1, 2, 3, SHARED), Extent(4, 5, 6, LAST)]
    assert window.is_plain
    assert not Window(0, 9, EXTENT_LAYOUT.pack(1, 2, 3, INLINE)).is_plain
