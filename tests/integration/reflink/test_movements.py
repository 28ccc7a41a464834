"""Blocks that move without a change, and changes that do not move blocks as one would expect."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.reflink.extents import ENCODED, Extent, window_of
from tests.integration.reflink.conftest import site_on
from tests.support.driver_sites import ReflinkSite
from tests.support.file_systems import mounted_to_clone, run
from tests.support.taking import Taken

#: linux/fs.h: _IOWR(0x94, 54, struct file_dedupe_range).
_FIDEDUPERANGE = 0xC0189436
_FIDEDUPERANGE_HEADER, _FIDEDUPERANGE_ONE = struct.Struct("=QQHHI"), struct.Struct("=qQQiI")


def dedupe(path: Path, start: int, to: int, length: int) -> int:
    """Let two stretches of equal bytes share their blocks, as duperemove does; bytes shared."""
    with path.open("r+b") as file:
        one = _FIDEDUPERANGE_ONE.pack(file.fileno(), to, 0, 0, 0)
        request = bytearray(_FIDEDUPERANGE_HEADER.pack(start, length, 1, 0, 0) + one)
        fcntl.ioctl(file.fileno(), _FIDEDUPERANGE, request, True)
    _, _, done, status, _ = _FIDEDUPERANGE_ONE.unpack_from(request, _FIDEDUPERANGE_HEADER.size)
    assert status == 0, status
    return int(done)


def map_of(path: Path) -> list[Extent]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return list(window_of(file.fileno(), 0, size, 100_000).extents())


def clone_paths(site: ReflinkSite) -> list[Path]:
    return sorted((site.folder / ".backcast-clones").iterdir())


def test_a_block_that_nocow_would_overwrite_is_not_overwritten_while_it_is_shared(
    btrfs: Path, tmp_path: Path
) -> None:
    site = site_on(btrfs, tmp_path)
    site.path.unlink()
    site.path.touch()
    run("chattr", "+C", str(site.path))  # takes effect on an empty file
    site.write(0, 32)
    alone = map_of(site.path)
    site.write(3, 1)
    os.sync()
    assert [e.physical for e in map_of(site.path)] == [e.physical for e in alone], "no NOCOW file"
    base = Taken(site, None).settle(sealed=True)
    for chunk in (3, 4, 3):
        site.write(chunk, 1)
        os.sync()
        taken = Taken(site, base)
        assert taken.trust == "candidates"
        assert chunk in taken.named
        assert taken.chunks == taken.truth
    base = taken.settle(sealed=True)
    assert Taken(site, base).named == set()


def test_a_balance_moves_the_blocks_of_both_clones(btrfs: Path, tmp_path: Path) -> None:
    """Also twice, so that addresses are given to others: only what was written is named."""
    site = site_on(btrfs, tmp_path)
    site.write(0, 256)
    base = Taken(site, None).settle(sealed=True)
    before = map_of(site.path)
    site.write(77, 3)
    for _ in range(2):
        run("btrfs", "balance", "start", "-d", str(btrfs))
        site.write(200, 1)
    assert [e.physical for e in map_of(clone_paths(site)[0])] != [e.physical for e in before]
    taken = Taken(site, base)
    assert taken.named == {77, 78, 79, 200}
    assert taken.chunks == taken.truth


def test_while_a_balance_runs_nothing_is_left_out(btrfs: Path, tmp_path: Path) -> None:
    site = site_on(btrfs, tmp_path)
    site.write(0, 512)
    base = Taken(site, None).settle(sealed=True)
    stop = tmp_path / "stop"
    again = 'until [ -e "$2" ]; do btrfs balance start -d "$1" >/dev/null; done'
    moving = subprocess.Popen(["sh", "-c", again, "sh", str(btrfs), str(stop)])
    try:
        for _ in range(12):
            for chunk in site.rng.sample(range(512), 5):
                site.write(chunk, 1)
            taken = Taken(site, base)
            assert taken.trust == "candidates"
            assert taken.chunks == taken.truth
            base = taken.settle(sealed=True)
    finally:
        stop.touch()
        moving.wait()


def test_a_defragmented_image_is_named_too_much_and_right(site: ReflinkSite) -> None:
    for chunk in range(0, 64, 2):
        site.write(chunk, 1)
        os.sync()
    site.write(0, 64)
    base = Taken(site, None).settle(sealed=True)
    site.write(9, 1)
    command = "btrfs filesystem defragment -f" if site.kind == "btrfs" else "xfs_fsr -v"
    run(*command.split(), str(site.path))
    taken = Taken(site, base)
    assert taken.trust == "candidates"
    assert 9 in taken.named
    assert taken.chunks == taken.truth


def test_deduplicated_blocks_are_named_at_most_where_they_went(site: ReflinkSite) -> None:
    same = site.rng.randbytes(4 * CHUNK_SIZE_BYTES)
    site.write(0, 64)
    site.write_bytes(8 * CHUNK_SIZE_BYTES, same)
    site.write_bytes(40 * CHUNK_SIZE_BYTES, same)
    base = Taken(site, None).settle(sealed=True)
    length = len(same)
    assert dedupe(site.path, 8 * CHUNK_SIZE_BYTES, 40 * CHUNK_SIZE_BYTES, length) == length
    site.write(20, 1)
    second = Taken(site, base)
    assert second.named == {20, *range(40, 44)}
    assert second.chunks == second.truth
    site.write(41, 1)  # one of two that share
    third = Taken(site, second.settle(sealed=True))
    assert third.named == {41}
    assert third.chunks == third.truth


@pytest.fixture(scope="module")
def compressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mounts")
    with mounted_to_clone(folder, "btrfs", "compress-force=zstd") as mount:
        yield mount


@pytest.fixture
def packed(compressing: Path, tmp_path: Path) -> ReflinkSite:
    """An image of 8 MiB whose blocks are compressed."""
    site = site_on(compressing, tmp_path)
    write_text(site, 0, 8 << 20)
    os.sync()
    assert all(extent.flags & ENCODED for extent in map_of(site.path)), "not compressed"
    return site


def write_text(site: ReflinkSite, offset: int, length: int) -> None:
    """Bytes that compress, and differ everywhere."""
    numbers = (offset + n * site.rng.randrange(100) for n in range(length // 8))
    words = b"".join(b"%d %08d\n" % (n, n) for n in numbers)
    site.write_bytes(offset, words[:length])


def test_compressed_blocks_that_were_not_touched_are_not_named(packed: ReflinkSite) -> None:
    base = Taken(packed, None).settle(sealed=True)
    assert Taken(packed, base).named == set()
    write_text(packed, 3 << 20, 4096)
    taken = Taken(packed, base)
    assert 48 in taken.named
    assert len(taken.named) <= 2  # an extent of 128 KiB
    assert taken.chunks == taken.truth


def test_another_part_of_the_same_compressed_extent_is_a_change(packed: ReflinkSite) -> None:
    """The map of both is the same: it says which blocks, and not which part of what is in them."""
    with packed.path.open("r+b") as file:
        target, length = 4 << 20, 4096
        os.copy_file_range(file.fileno(), file.fileno(), length, 0, target)
        file.flush()
        base = Taken(packed, None).settle(sealed=True)
        before = map_of(packed.path)
        os.copy_file_range(file.fileno(), file.fileno(), length, length, target)
        os.sync()
    same = [(e.start, e.physical, e.length) for e in before]
    assert same == [(e.start, e.physical, e.length) for e in map_of(packed.path)]
    taken = Taken(packed, base)
    assert target // CHUNK_SIZE_BYTES in taken.named
    assert taken.chunks == taken.truth
