"""The bytes of a cut, while writes go on."""

import os
import random
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from libs.runtime.threads import start_thread
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.frozen import FrozenBytes
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.volume import FilteredVolume
from tests.support.filters import Guest

COUNT = 24
SIZE = COUNT * CHUNK_SIZE_BYTES - 5000  # the last chunk is shorter


class Site:
    def __init__(self, folder: Path, *, scratch_chunks_max: int = 1000) -> None:
        self.folder = folder
        self.path = folder / "image"
        with self.path.open("wb") as file:
            file.truncate(SIZE)
        self.disk = Disk(self.path)
        self.volume = FilteredVolume(self.disk, ChunkBitmap(COUNT))
        self.guest = Guest(self.volume)
        self.scratch_size = scratch_chunks_max * CHUNK_SIZE_BYTES
        self.frozen: FrozenBytes | None = None

    def cut(self, wait_seconds: float = 30.0) -> FrozenBytes:
        self.thaw()
        self.frozen = FrozenBytes(self.disk, self.folder, self.scratch_size, wait_seconds)
        self.volume.cut(ChunkBitmap(COUNT), self.frozen)
        return self.frozen

    def thaw(self) -> None:
        if self.frozen:
            self.frozen.close()
            self.volume.thaw(self.frozen)
        self.frozen = None

    def close(self) -> None:
        self.thaw()
        self.disk.close()


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.close()


def read(frozen: FrozenBytes, first: int = 0, count: int = COUNT) -> bytes:
    buffer = memoryview(large_buffer(count * CHUNK_SIZE_BYTES))
    frozen.read_into(first * CHUNK_SIZE_BYTES, buffer)
    return bytes(buffer)


def padded(content: bytes) -> bytes:
    return content.ljust(COUNT * CHUNK_SIZE_BYTES, b"\0")


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.integers(0, SIZE - 1), st.sampled_from([1, 4096, 65536, 200_000])
        ),
        st.tuples(
            st.just("zero"), st.integers(0, SIZE - 1), st.sampled_from([100, 65536, 700_000])
        ),
        st.tuples(st.just("punch"), st.integers(0, COUNT - 1), st.integers(1, COUNT)),
        st.tuples(st.just("trim"), st.integers(0, COUNT - 1), st.integers(1, 3)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, COUNT - 1), st.integers(1, COUNT)),
    ),
    max_size=25,
)


class Model:
    """What the volume, its marks and its view must be."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.content = bytearray(SIZE)
        self.at_cut = b""
        self.marked = set[int]()

    def move(self, kind: str, one: int, two: int) -> None:
        if kind == "cut":
            self.site.cut()
            self.at_cut, self.marked = bytes(self.content), set()
        elif kind == "read":
            self.compare(one, min(two, COUNT - one))
        elif kind in ("punch", "trim"):
            offset = one * CHUNK_SIZE_BYTES
            self.change(kind, offset, min(two * CHUNK_SIZE_BYTES, SIZE - offset))
        else:
            self.change(kind, one, min(two, SIZE - one))

    def change(self, kind: str, offset: int, length: int) -> None:
        guest, content = self.site.guest, bytes(length)
        if kind == "write":
            content = self.rng.randbytes(length)
            guest.write(offset, content)
        elif kind == "trim":
            guest.trim(offset, length)
            if self.site.frozen is not None:  # it is not taken
                return
        else:
            guest.zero(offset, length, may_deallocate=kind == "punch")
        self.content[offset : offset + length] = content
        end = offset + length
        self.marked |= {*range(offset // CHUNK_SIZE_BYTES, -(-end // CHUNK_SIZE_BYTES))}

    def compare(self, first: int, count: int) -> None:
        if self.site.frozen is not None:
            whole = padded(self.at_cut)
            begin, end = first * CHUNK_SIZE_BYTES, (first + count) * CHUNK_SIZE_BYTES
            assert read(self.site.frozen, first, count) == whole[begin:end]

    def compare_all(self) -> None:
        self.compare(0, COUNT)
        assert self.site.path.read_bytes() == bytes(self.content)
        assert chunks_of(self.site.volume.marks.runs()) == self.marked
        if self.site.frozen is not None:
            whole = padded(self.at_cut)
            for number in {*range(COUNT)} - data_of(self.site.frozen):
                start = number * CHUNK_SIZE_BYTES
                assert not any(whole[start : start + CHUNK_SIZE_BYTES])


def chunks_of(runs) -> set[int]:
    return {number for run in runs for number in range(run.first, run.end)}


def data_of(frozen: FrozenBytes) -> set[int]:
    return {
        number
        for extent in frozen.data(0)
        for number in range(extent.start // CHUNK_SIZE_BYTES, extent.end // CHUNK_SIZE_BYTES)
    }


class TestFrozenBytes:
    @settings(max_examples=60, deadline=None)
    @given(steps, st.integers(0, 1 << 30))
    def test_is_the_volume_at_the_cut_whatever_is_written(self, moves, seed) -> None:
        """Random interleavings of writes, cuts and reads of the view, against a model."""
        with tempfile.TemporaryDirectory() as folder:
            site = Site(Path(folder))
            model = Model(site, random.Random(seed))
            for move in moves:
                model.move(*move)
            model.compare_all()
            site.close()

    def test_readers_and_writers_at_once_see_the_cut_and_the_writes(self, site: Site) -> None:
        site.guest.write(0, random.Random(1).randbytes(SIZE))
        before = site.path.read_bytes()
        frozen = site.cut()
        wrong, over = list[str](), threading.Event()

        def write(seed: int) -> None:
            rng, guest = random.Random(seed), Guest(site.volume)
            for _ in range(300):
                guest.write(rng.randrange(SIZE - 5000), rng.randbytes(5000))

        def look(seed: int) -> None:
            rng = random.Random(seed)
            while not over.is_set():
                first = rng.randrange(COUNT)
                count = rng.randrange(1, COUNT - first + 1)
                end = (first + count) * CHUNK_SIZE_BYTES
                if read(frozen, first, count) != padded(before)[first * CHUNK_SIZE_BYTES : end]:
                    wrong.append(f"{count} chunks at {first}")

        readers = [start_thread("read", look, seed) for seed in range(2)]
        writers = [start_thread("write", write, seed) for seed in range(10, 13)]
        for thread in writers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
        assert not wrong
        assert read(frozen) == padded(before)
        assert site.path.read_bytes() != before

    def test_a_chunk_that_is_overwritten_while_it_is_read_is_that_of_the_cut(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.guest.write(0, b"old" * 1000)
        frozen = site.cut()
        real = site.disk.read

        def overtaken(offset: int, buffer: memoryview) -> None:
            site.guest.write(0, b"new" * 1000)
            real(offset, buffer)

        monkeypatch.setattr(site.disk, "read", overtaken)
        assert read(frozen, 0, 1)[:3000] == b"old" * 1000

    def test_a_scratch_file_without_room_breaks_the_view_and_no_write(self, tmp_path: Path) -> None:
        site = Site(tmp_path, scratch_chunks_max=3)
        site.guest.write(0, b"a" * SIZE)
        frozen = site.cut()
        for number in range(3):
            site.guest.write(number * CHUNK_SIZE_BYTES, b"b")
        assert read(frozen)[:1] == b"a"
        site.guest.write(3 * CHUNK_SIZE_BYTES, b"b")
        assert site.path.read_bytes()[3 * CHUNK_SIZE_BYTES :][:1] == b"b"
        with pytest.raises(SourceError, match="give the scratch file more room"):
            read(frozen)
        site.close()

    def test_a_scratch_file_that_fails_breaks_the_view_and_no_write(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.guest.write(0, b"a" * SIZE)
        frozen = site.cut()
        # What the kernel says of a file system that is full, for the scratch file alone.
        scratch = os.fstat(frozen._scratch).st_ino
        real = os.pwrite

        def full(descriptor: int, data: memoryview, offset: int) -> int:
            if os.fstat(descriptor).st_ino == scratch:
                raise OSError(28, "No space left on device")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        for number in range(COUNT - 1):
            site.guest.write(number * CHUNK_SIZE_BYTES, b"b")
        with frozen._changed:
            assert frozen._changed.wait_for(lambda: frozen.broken is not None, 30)
        assert site.path.read_bytes()[::CHUNK_SIZE_BYTES][: COUNT - 1] == b"b" * (COUNT - 1)
        with pytest.raises(SourceError, match="No space left on device"):
            read(frozen)

    def test_a_scratch_file_that_does_not_answer_costs_a_write_a_bounded_wait(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from services.change_capture.filter import frozen as module

        monkeypatch.setattr(module, "_WAITING_CHUNKS_MAX", 2)
        goes_on = threading.Event()
        real = module._write
        monkeypatch.setattr(
            module, "_write", lambda *arguments: (goes_on.wait(60), real(*arguments))
        )
        site.guest.write(0, b"a" * SIZE)
        frozen = site.cut(wait_seconds=0.05)
        for number in range(4):
            site.guest.write(number * CHUNK_SIZE_BYTES, b"b")
        assert frozen.broken == "the scratch file is slower than what is overwritten"
        assert site.path.read_bytes()[3 * CHUNK_SIZE_BYTES :][:1] == b"b"
        goes_on.set()

    def test_holes_are_kept_without_room(self, tmp_path: Path) -> None:
        site = Site(tmp_path, scratch_chunks_max=0)
        frozen = site.cut()
        site.guest.write(0, b"b" * 10 * CHUNK_SIZE_BYTES)
        assert frozen.broken is None
        assert not any(read(frozen))
        assert list(frozen.data(0)) == []
        site.close()

    def test_a_closed_view_says_so(self, site: Site) -> None:
        frozen = site.cut()
        site.thaw()
        with pytest.raises(SourceError, match="it was closed"):
            read(frozen)
        frozen.keep(0, 3)
