import ctypes
import errno
import fcntl
import os
import random
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from libs.errors import BackcastError, OutOfSpaceError, TargetError
from libs.ranges import ByteRange
from libs.restoring.target import RestoreTarget, open_target
from libs.runtime import libc
from tests.support.loop_devices import LoopDevice


def test_buffers_land_one_after_another_and_are_cut_off_at_the_size(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_target(out, 10, force=False) as target:
        target.write(2, [memoryview(b"abc"), memoryview(b"de")])
        target.write(8, [memoryview(b"xyz")])
    assert out.read_bytes() == b"\0\0abcde\0xy"
    assert out.stat().st_mode & 0o777 == 0o600


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def short(descriptor: int, view: memoryview, offset: int) -> int:
        return real(descriptor, view[:2], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with open_target(tmp_path / "out", 9, force=False) as target:
        target.write(1, [memoryview(b"abc"), memoryview(b""), memoryview(b"defgh")])
    assert (tmp_path / "out").read_bytes() == b"\0abcdefgh"


def refuse(_descriptor: int, _view: memoryview, _offset: int) -> int:
    raise OSError(errno.EINVAL, "not aligned as this device wants it")


def take_little(descriptor: int, view: memoryview, offset: int) -> int:
    return os.pwrite(descriptor, view[: 300 << 10], offset)


@pytest.mark.parametrize("direct", [os.pwrite, take_little, refuse])
@pytest.mark.parametrize("beyond_bytes", [0, 1, 4095])
def test_large_writes_past_the_page_cache_end_at_the_byte(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direct: Callable[[int, memoryview, int], int],
    beyond_bytes: int,
) -> None:
    """In pieces of a frame, as restores write: large and small, and a last one that is cut off."""
    real, used = os.pwrite, Counter[bool]()

    def pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        is_direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        used[is_direct] += 1
        if not is_direct:
            return real(descriptor, view, offset)
        monkeypatch.setattr(os, "pwrite", real)
        try:
            return direct(descriptor, view, offset)
        finally:
            monkeypatch.setattr(os, "pwrite", pwrite)

    size, out = (5 << 20) + beyond_bytes, tmp_path / "out"
    content = random.Random(size).randbytes(6 << 20)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with open_target(out, size, force=False) as target:
        for at, count in [(0, 16), (16, 4), (20, 1), (21, 15), (36, 16), (52, 16), (68, 16)]:
            start, middle, end = (n << 16 for n in (at, at + (count + 1) // 2, at + count))
            views = [memoryview(content)[start:middle], memoryview(content)[middle:end]]
            target.write(start, views)
    assert out.read_bytes() == content[:size]
    assert used[True]
    assert used[False]


def test_a_chunk_that_is_repeated_makes_a_run_longer_than_a_frame(tmp_path: Path) -> None:
    chunk, frame = os.urandom(1 << 16), os.urandom(1 << 20)
    buffers = [chunk] * 40 + [frame, frame] + [chunk] * 3
    content = b"".join(buffers)
    with open_target(tmp_path / "out", len(content) + 7, force=False) as target:
        target.write(0, [memoryview(buffer) for buffer in buffers])
    assert (tmp_path / "out").read_bytes() == content + bytes(7)


def test_what_cannot_be_opened_directly_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse_direct(
        path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "this file system cannot")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse_direct)
    content = os.urandom(1 << 20)
    with open_target(tmp_path / "out", len(content), force=False) as target:
        target.write(0, [memoryview(content)])
    assert (tmp_path / "out").read_bytes() == content


def test_what_is_reserved_has_room_and_reads_as_zeros(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_target(out, (3 << 20) + 5, force=False) as target:
        target.reserve(ByteRange(1 << 20, 2 << 20))
        target.reserve(ByteRange(3 << 20, 4 << 20))
        target.reserve(ByteRange(5 << 20, 6 << 20))
        target.write(1 << 20, [memoryview(b"abc")])
    assert out.read_bytes() == bytes(1 << 20) + b"abc" + bytes((2 << 20) + 2)
    assert 1 << 20 < out.stat().st_blocks * 512 < 2 << 20


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EOPNOTSUPP, None), (errno.ENOSPC, OutOfSpaceError), (errno.EIO, TargetError)],
)
def test_a_file_system_that_cannot_allocate_is_asked_once_and_a_full_one_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: type[BackcastError] | None,
) -> None:
    asked = 0

    def fallocate(*_arguments: object) -> int:
        nonlocal asked
        asked += 1
        ctypes.set_errno(errno.EINTR if asked == 1 else code)
        return -1

    monkeypatch.setattr(libc._libc, "fallocate", fallocate, raising=False)
    refused = pytest.raises(expected, match="out: cannot be written") if expected else nullcontext()
    with open_target(tmp_path / "out", 1 << 20, force=False) as target, refused:
        target.reserve(ByteRange(0, 1 << 20))
        target.reserve(ByteRange(0, 1 << 20))
        target.write(0, [memoryview(b"abc")])
    assert asked == 2
    assert expected or (tmp_path / "out").read_bytes().startswith(b"abc")


def test_zeroing_writes_zeros_where_the_device_cannot_do_it_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"\xff" * 3_000_000)
    with out.open("r+b") as file:
        target = RestoreTarget(out, file.fileno(), None, 2_900_000, is_device=True)
        target.zero(ByteRange(1_000_000, 3_000_000))
        target.sync()
    expected = b"\xff" * 1_000_000 + bytes(1_900_000) + b"\xff" * 100_000
    assert out.read_bytes() == expected


def test_the_partitions_that_a_disk_had_before_a_restore_are_forgotten(
    loop: LoopDevice, tmp_path: Path
) -> None:
    """Their page caches have other bytes. Those that were restored are there instead.

    Some kernels cannot read partition tables. Then the disk has none.
    """
    size = 8 << 20
    disk = tmp_path / "disk"
    disk.write_bytes(b"old" * (size // 3))
    os.truncate(disk, size)
    loop.attach(disk, "--partscan")
    old = loop.add_partition(1 << 20, 4 << 20)
    old.read_bytes()
    content = bytearray(random.Random(1).randbytes(size))
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 4096, 4096)  # from 2 MiB on, 2 MiB
    content[446:512] = entry.ljust(64, b"\0") + b"\x55\xaa"
    with open_target(loop.path, size, force=True) as target:
        for at in range(0, size, 1 << 20):
            target.write(at, [memoryview(content)[at : at + (1 << 20)]])
        target.sync()
    assert loop.path.read_bytes() == content
    if loop.has_partition:
        assert loop.partition.read_bytes() == content[2 << 20 : 4 << 20]


def test_force_puts_a_file_in_the_place_of_a_link_to_nothing(tmp_path: Path) -> None:
    link, gone = tmp_path / "link", tmp_path / "gone"
    link.symlink_to(gone)
    with open_target(link, 3, force=True) as target:
        target.write(0, [memoryview(b"abc")])
    assert link.read_bytes() == b"abc"
    assert not link.is_symlink()
    assert not gone.exists()


def test_a_target_that_fails_is_not_a_service_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_writes(*_: object) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    with open_target(tmp_path / "out", 9, force=False) as target:
        monkeypatch.setattr(os, "pwrite", refuse_writes)
        with pytest.raises(TargetError, match="cannot be written: Operation not permitted"):
            target.write(0, [memoryview(b"abc")])
    assert not TargetError.retriable
