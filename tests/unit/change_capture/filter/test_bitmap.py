import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import DamagedDataError
from libs.runtime.metrics import peak_resident_bytes
from libs.runtime.threads import start_thread
from services.change_capture.filter.marks.bitmap import ChunkBitmap

COUNT = 100_000


def chunks_of(bitmap: ChunkBitmap) -> set[int]:
    return {number for run in bitmap.runs() for number in range(run.first, run.end)}


stretches = st.lists(
    st.tuples(st.integers(0, COUNT - 1), st.sampled_from([1, 2, 7, 8, 9, 64, 40_000])), max_size=12
)


def marked(pieces: list[tuple[int, int]]) -> tuple[ChunkBitmap, set[int]]:
    bitmap, model = ChunkBitmap(COUNT), set[int]()
    for first, count in pieces:
        last = min(first + count, COUNT) - 1
        bitmap.mark(first, last)
        model |= {*range(first, last + 1)}
    return bitmap, model


class TestChunkBitmap:
    @settings(deadline=None)
    @given(stretches)
    def test_has_what_was_marked_and_nothing_else(self, pieces: list[tuple[int, int]]) -> None:
        bitmap, model = marked(pieces)
        assert chunks_of(bitmap) == model
        assert all((number in bitmap) == (number in model) for number in range(0, COUNT, 997))
        runs = list(bitmap.runs())
        assert all(before.end < after.first for before, after in itertools.pairwise(runs))

    @settings(deadline=None)
    @given(stretches, stretches)
    def test_adds_what_was_packed(
        self, pieces: list[tuple[int, int]], more: list[tuple[int, int]]
    ) -> None:
        bitmap, model = marked(pieces)
        other, other_model = marked(more)
        bitmap.add_packed(other.packed())
        assert chunks_of(bitmap) == model | other_model

    def test_refuses_bits_of_another_volume_and_bytes_that_are_no_bits(self) -> None:
        for raw in (ChunkBitmap(COUNT + 8).packed(), ChunkBitmap(8).packed(), b"", b"x" * 100):
            bitmap = ChunkBitmap(COUNT)
            with pytest.raises(DamagedDataError):
                bitmap.add_packed(raw)
            assert not chunks_of(bitmap)

    def test_loses_no_mark_of_threads_that_share_bytes(self) -> None:
        bitmap = ChunkBitmap(8192)
        gate = threading.Barrier(4)

        def mark(number: int) -> None:
            gate.wait()
            for chunk in range(number, 8192, 4):
                bitmap.mark(chunk, chunk)

        threads = [start_thread("mark", mark, number) for number in range(4)]
        for thread in threads:
            thread.join()
        assert chunks_of(bitmap) == {*range(8192)}

    def test_bits_of_64_tib_that_nobody_wrote_to_cost_no_memory(self) -> None:
        before = peak_resident_bytes()
        bitmap = ChunkBitmap(1 << 30)
        assert bitmap.size_bytes == 128 << 20
        for chunk in range(0, 1 << 30, 1 << 24):
            bitmap.mark(chunk, chunk)
        assert len(list(bitmap.runs())) == 64
        assert peak_resident_bytes() - before < 16 << 20
