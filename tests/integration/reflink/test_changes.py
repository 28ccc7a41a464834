"""What changed between two clones: on real file systems, against the bytes themselves."""

import ctypes
import mmap
import os
import random
from pathlib import Path

import pytest

from libs.packs.layout import CHUNK_SIZE_BYTES
from tests.support.driver_sites import ReflinkSite
from tests.support.taking import Taken

_BLOCK = 4096
_KEEP_SIZE, _PUNCH, _ZERO_RANGE, _COLLAPSE, _INSERT = 0x01, 0x03, 0x10, 0x08, 0x20
_CHUNKS = 192


def fallocate(path: Path, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        if libc.fallocate(file.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length)):
            raise OSError(ctypes.get_errno(), f"fallocate {mode}")


def copy_within(path: Path, start: int, to: int, length: int) -> None:
    """Let two stretches of a file share their blocks, as copy_file_range does."""
    with path.open("r+b") as file:
        os.copy_file_range(file.fileno(), file.fileno(), length, start, to)


def test_only_blocks_that_were_written_are_named(site: ReflinkSite) -> None:
    site.write(0, _CHUNKS)
    first = Taken(site, None).settle(sealed=True)
    touched = sorted(site.rng.sample(range(_CHUNKS), 20))
    for chunk in touched:
        offset = chunk * CHUNK_SIZE_BYTES + _BLOCK * site.rng.randrange(16)
        site.write_bytes(offset, site.rng.randbytes(_BLOCK))
    taken = Taken(site, first)
    assert (taken.trust, taken.lost) == ("candidates", None)
    assert taken.named == set(touched)
    assert taken.chunks == taken.truth


def test_the_view_is_of_one_moment_whatever_is_written_later(site: ReflinkSite) -> None:
    site.write(0, 4)
    view = site.driver.view("default", site.path)
    buffer, later = memoryview(bytearray(CHUNK_SIZE_BYTES)), memoryview(bytearray(CHUNK_SIZE_BYTES))
    view.read_into(0, buffer)
    site.write(0, 4)
    os.sync()
    view.read_into(0, later)
    assert later == buffer
    assert view.consistency() == "frozen"
    view.close()


def test_a_hole_and_zeros_cost_no_reading(site: ReflinkSite) -> None:
    site.write(0, _CHUNKS)
    first = Taken(site, None).settle(sealed=True)
    site.zero(16, 100)
    fallocate(site.path, _ZERO_RANGE | _KEEP_SIZE, 140 * CHUNK_SIZE_BYTES, 10 * CHUNK_SIZE_BYTES)
    taken = Taken(site, first)
    assert taken.named == {*range(16, 116), *range(140, 150)}
    assert all(candidate.is_hole for candidate in taken.candidates)
    assert taken.chunks == taken.truth


def test_room_that_is_allocated_and_not_written_is_no_change(site: ReflinkSite) -> None:
    site.write(0, 10)
    site.resize(_CHUNKS * CHUNK_SIZE_BYTES)
    first = Taken(site, None).settle(sealed=True)
    fallocate(site.path, 0, 20 * CHUNK_SIZE_BYTES, 50 * CHUNK_SIZE_BYTES)
    second = Taken(site, first).settle(sealed=True)
    assert second.named == set()
    site.write(30, 2)  # into that room, which no other file has
    third = Taken(site, second)
    assert third.named == {30, 31}
    assert third.chunks == third.truth


def operate(site: ReflinkSite, rng: random.Random) -> None:
    """One thing that a guest or a host may do to an image."""
    path, size = site.path, site.path.stat().st_size // _BLOCK
    first, other = (rng.randrange(max(1, size - 1)) * _BLOCK for _ in range(2))
    rest = max(1, size - first // _BLOCK)
    length = min(rng.choice([1, 3, 16, 33, 200]), rest) * _BLOCK
    grown = rng.choice([5, CHUNK_SIZE_BYTES - 1, 3 * CHUNK_SIZE_BYTES, 12 * CHUNK_SIZE_BYTES + 7])
    resized = max(CHUNK_SIZE_BYTES, path.stat().st_size + rng.choice([-1, 1]) * grown)
    rng.choice(
        [
            lambda: site.write_bytes(first, rng.randbytes(length)),
            lambda: site.write_bytes(first, rng.randbytes(length)),
            lambda: site.write_bytes(first + rng.randrange(_BLOCK), rng.randbytes(77)),
            lambda: fallocate(path, _PUNCH, first, length),
            lambda: fallocate(path, _ZERO_RANGE | _KEEP_SIZE, first, length),
            lambda: fallocate(path, _KEEP_SIZE, first, length),
            lambda: copy_within(path, first, other, min(length, abs(other - first))),
            lambda: site.resize(resized),
        ]
    )()


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_leave_nothing_out(site: ReflinkSite, seed: int) -> None:
    """Whatever a guest or a host does to an image, the snapshots are what it was."""
    rng = random.Random(seed)
    site.write(0, _CHUNKS)
    base = Taken(site, None).settle(sealed=True)

    for _ in range(8):
        for _ in range(rng.randrange(1, 12)):
            operate(site, rng)
        taken = Taken(site, base)
        assert taken.trust == "candidates"
        assert taken.chunks == taken.truth, f"seed {seed}"
        sealed = rng.random() < 0.7
        taken.settle(sealed=sealed)
        base = taken if sealed else base


def test_bytes_that_a_shift_moved_are_named(site: ReflinkSite) -> None:
    """A collapsed or inserted range keeps blocks, at other places of the file."""
    site.write(0, 40)
    first = Taken(site, None).settle(sealed=True)
    try:
        fallocate(site.path, _COLLAPSE, 8 * CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES)
        fallocate(site.path, _INSERT, 20 * CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES)
    except OSError:
        pytest.skip("this file system cannot shift")
    taken = Taken(site, first)
    assert taken.chunks == taken.truth
    assert taken.named == set(range(8, 21))


def test_writes_past_the_page_cache_are_found(site: ReflinkSite) -> None:
    """As a hypervisor writes: with O_DIRECT, in place as far as the file system lets it."""
    site.write(0, 32)
    first = Taken(site, None).settle(sealed=True)
    page = mmap.mmap(-1, _BLOCK)
    descriptor = os.open(site.path, os.O_RDWR | os.O_DIRECT)
    for base in (first, None):
        page[:] = site.rng.randbytes(_BLOCK)
        assert os.pwrite(descriptor, page, 5 * CHUNK_SIZE_BYTES) == _BLOCK
        taken = Taken(site, base or first)
        assert taken.named == {5}
        assert taken.chunks == taken.truth
    os.close(descriptor)


@pytest.mark.parametrize("size", [5 * CHUNK_SIZE_BYTES + 3 * _BLOCK, 5 * CHUNK_SIZE_BYTES + 77])
def test_the_end_of_a_resized_volume_is_looked_at(site: ReflinkSite, size: int) -> None:
    """It was cut off within a chunk, or went on from there, and no block need have moved."""
    site.write(0, 5)
    site.resize(size)
    base = Taken(site, None).settle(sealed=True)
    site.resize(9 * CHUNK_SIZE_BYTES)
    taken = Taken(site, base)
    assert 5 in taken.named
    assert taken.chunks == taken.truth
