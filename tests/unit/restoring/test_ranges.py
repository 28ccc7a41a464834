import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import OutputError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange, ChunkRun
from libs.restoring.ranges import Piece, RangeTarget, StreamOutput
from libs.restoring.target import RestoreTarget, open_target

VOLUME = bytes(range(1, 101))


@given(
    st.integers(0, 99),
    st.integers(1, 100),
    st.lists(st.integers(0, 100), min_size=1, max_size=6),
    st.integers(0, 100),
)
def test_a_range_of_what_is_written_lands_at_its_place(
    start: int, length: int, cuts: list[int], at: int
) -> None:
    wanted = ByteRange(start, min(start + length, len(VOLUME)))
    buffer = bytearray(wanted.length)

    class Memory(RestoreTarget):
        def __init__(self) -> None:
            self.is_device = False

        def write(self, offset: int, buffers: "list[memoryview]") -> None:  # type: ignore[override]  # of lists
            content = b"".join(buffers)
            assert 0 <= offset <= offset + len(content) <= len(buffer)
            buffer[offset : offset + len(content)] = content

    target = RangeTarget(Memory(), wanted)
    ends = sorted({*cuts, at, len(VOLUME)})
    begin = 0
    for end in ends:  # each write has two buffers
        middle = (begin + end) // 2
        target.write(begin, [memoryview(VOLUME[begin:middle]), memoryview(VOLUME[middle:end])])
        begin = end
    assert bytes(buffer) == VOLUME[wanted.start : wanted.end]


def test_a_file_gets_the_range_and_nothing_else(tmp_path: Path) -> None:
    out, wanted = tmp_path / "out", ByteRange(10, 30)
    with open_target(out, wanted.length, force=False) as file:
        target = RangeTarget(file, wanted)
        target.reserve(ByteRange(0, 100))
        target.write(0, [memoryview(VOLUME[:20])])
        target.zero(ByteRange(20, 100))
    assert out.read_bytes() == VOLUME[10:20] + bytes(10)


def test_a_piece_gives_the_part_of_it_that_is_wanted() -> None:
    piece = Piece(ChunkRun(2, 2))
    piece.write(3 * CHUNK_SIZE_BYTES, [memoryview(b"ab"), memoryview(b"c")])
    assert bytes(piece.part(ByteRange(0, 2 * CHUNK_SIZE_BYTES))) == b""
    assert bytes(piece.part(ByteRange(3 * CHUNK_SIZE_BYTES + 1, 1 << 40)))[:3] == b"bc\0"
    assert len(piece.part(ByteRange(0, 1 << 40))) == 2 * CHUNK_SIZE_BYTES


def test_a_stream_takes_bytes_and_zeros_in_order() -> None:
    reads, writes = os.pipe()
    got = bytearray()

    def read() -> None:
        while piece := os.read(reads, 1 << 20):
            got.extend(piece)

    reading = threading.Thread(target=read)
    reading.start()
    told: list[int] = []
    stream = StreamOutput(writes, "pipe")
    stream.write(memoryview(b"a" * 200_000))
    stream.zeros((3 << 20) + 5, told.append)
    stream.write(memoryview(b"b"))
    os.close(writes)
    reading.join(20)
    os.close(reads)
    assert bytes(got) == b"a" * 200_000 + bytes((3 << 20) + 5) + b"b"
    assert sum(told) == (3 << 20) + 5


def test_a_stream_that_ends_or_is_full_is_told_apart() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with pytest.raises(BrokenPipeError):
        StreamOutput(writes, "pipe").write(memoryview(b"a"))
    os.close(writes)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OutputError, match="standard output: cannot be written: No space left"):
        StreamOutput(full, "standard output").write(memoryview(b"a"))
    os.close(full)
