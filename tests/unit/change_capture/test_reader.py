"""What is read past the page cache, from regular files; block devices are in test_block_devices."""

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.local.reader import SourceReader

_BLOCK = 4096
_CHUNK = 1 << 16
_SIZES = [1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 3 * _CHUNK, 3 * _CHUNK + 511]


@contextmanager
def open_file(path: Path, *, cached: bool = False) -> Iterator[tuple[SourceReader, int]]:
    """A reader of a file, and the file's descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    reader = SourceReader(descriptor, is_device=False, cached=cached)
    try:
        yield reader, descriptor
    finally:
        reader.close()
        os.close(descriptor)


def file_of(folder: Path, size_bytes: int) -> tuple[Path, bytes]:
    path = folder / "file"
    content = random.Random(size_bytes).randbytes(size_bytes)
    path.write_bytes(content)
    return path, content


def read_all(reader: SourceReader, size_bytes: int, skipped_bytes: int = 0) -> bytes:
    """All by chunks, into a buffer that begins so many bytes behind a page."""
    found = b""
    for start in range(0, size_bytes, _CHUNK):
        buffer = memoryview(large_buffer(2 * _CHUNK))[skipped_bytes : skipped_bytes + _CHUNK]
        wanted = min(_CHUNK, size_bytes - start)
        done = reader.read(start, buffer, wanted)
        found += bytes(buffer[:done])
        if done < wanted:
            break
    return found


@pytest.mark.parametrize("size_bytes", _SIZES)
@pytest.mark.parametrize("skipped_bytes", [0, 1, 512])
@pytest.mark.parametrize("cached", [False, True])
def test_every_byte_is_read_into_any_buffer(
    tmp_path: Path, size_bytes: int, skipped_bytes: int, *, cached: bool
) -> None:
    path, content = file_of(tmp_path, size_bytes)
    with open_file(path, cached=cached) as (reader, _):
        assert read_all(reader, size_bytes, skipped_bytes) == content


def test_what_is_read_does_not_come_from_the_page_cache(tmp_path: Path) -> None:
    path, content = file_of(tmp_path, 4 * _CHUNK)
    with open_file(path) as (reader, descriptor):
        if file_system_of(descriptor).kind == "tmpfs":
            pytest.skip(f"{tmp_path} is in memory: nothing is ever out of the page cache")
        os.fsync(descriptor)
        assert wait_until(lambda: _dropped_from_the_page_cache(path, descriptor), 10)
        assert read_all(reader, len(content)) == content
        assert _cached_bytes(path) == 0


def _dropped_from_the_page_cache(path: Path, descriptor: int) -> bool:
    """A page that the kernel is busy with stays."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return _cached_bytes(path) == 0


def _cached_bytes(path: Path) -> int:
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_short_reads_are_continued_at_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = file_of(tmp_path, 2 * _CHUNK + 77)
    real = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        assert offset % _BLOCK == 0
        return real(descriptor, [buffers[0][: 3 * _BLOCK]], offset) - 5

    with open_file(path) as (reader, _):
        # Not of the last bytes: there, a file system gives all that there are.
        buffer = memoryview(large_buffer(_CHUNK))
        monkeypatch.setattr(os, "preadv", short)
        done = reader.read(0, buffer, _CHUNK)
        monkeypatch.undo()
        assert done == _CHUNK - 5 or bytes(buffer) == content[:_CHUNK]
        assert bytes(buffer[:done]) == content[:done]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_it_is_refused_cached_pages_are_dropped_before_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path, content = file_of(tmp_path, 3 * _CHUNK + 5)
    dropped: list[tuple[int, int]] = []
    real_open, real_advice = os.open, os.posix_fadvise

    def refuse_direct(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(code, "this file system cannot")
        return real_open(name, flags, mode)

    def advise(descriptor: int, start: int, size: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((start, size))
        real_advice(descriptor, start, size, advice)

    monkeypatch.setattr(os, "open", refuse_direct)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    with open_file(path) as (reader, _):
        assert read_all(reader, len(content)) == content
    assert dropped == [(n * _CHUNK, _CHUNK) for n in range(3)] + [(3 * _CHUNK, 5)]


def test_a_file_system_that_refuses_late_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = file_of(tmp_path, 3 * _CHUNK + 5)
    real, refused = os.preadv, 0

    def refuse(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal refused
        if descriptor == reader._opened:
            refused += 1
            raise OSError(errno.EINVAL, "not aligned as this device wants it")
        return real(descriptor, buffers, offset)

    with open_file(path) as (reader, _):
        monkeypatch.setattr(os, "preadv", refuse)
        assert read_all(reader, len(content)) == content
    assert refused <= 1


def test_a_disk_that_fails_is_no_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = file_of(tmp_path, _CHUNK)

    def fail(_descriptor: int, _buffers: list[memoryview], _offset: int) -> int:
        raise OSError(errno.EIO, "a bad sector")

    with open_file(path) as (reader, _):
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(OSError, match="a bad sector"):
            reader.read(0, memoryview(large_buffer(_CHUNK)), len(content))


@pytest.mark.parametrize("left_bytes", [0, 100, _BLOCK, _CHUNK + 100])
def test_a_file_that_was_cut_off_gives_what_is_left(tmp_path: Path, left_bytes: int) -> None:
    path, content = file_of(tmp_path, 3 * _CHUNK)
    with open_file(path) as (reader, _):
        os.truncate(path, left_bytes)
        assert read_all(reader, len(content)) == content[:left_bytes]
