"""Which chunks of a volume were written: one bit for each, in memory."""

import contextlib
import mmap
import threading
from collections.abc import Iterator

import zstandard

from libs.errors import DamagedDataError
from libs.ranges import ChunkRun
from libs.runtime.buffers import large_buffer

_MASKS = tuple(1 << bit for bit in range(8))
#: Bytes of bits that are looked at together: 2 GiB of a volume. It is a multiple of 8.
_STRETCH_SIZE_BYTES = 4096
_CLEAR = bytes(_STRETCH_SIZE_BYTES)


class ChunkBitmap:
    """A bit for each chunk, all clear at first. Thread-safe.

    Its memory is resident only where a bit was set, in pages of 4 KiB.

    Args:
        chunk_count: chunks of the volume.
    """

    def __init__(self, chunk_count: int) -> None:
        self.chunk_count = chunk_count
        self.size_bytes = -(-chunk_count // 8)
        memory = large_buffer(max(1, self.size_bytes))
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # scattered bits would each cost 2 MiB
        self._bits = memoryview(memory)
        self._lock = threading.Lock()

    def mark(self, first: int, last: int) -> None:
        """Set the bits of chunks ``first`` to ``last``, both included."""
        bits = self._bits
        if first == last:
            if bits[first >> 3] & _MASKS[first & 7]:
                return
            with self._lock:  # between the reading and the writing of a byte others may write it
                bits[first >> 3] |= _MASKS[first & 7]
            return
        with self._lock:
            while first <= last and first & 7:
                bits[first >> 3] |= _MASKS[first & 7]
                first += 1
            whole = (last + 1 - first) >> 3
            if whole > 0:
                bits[first >> 3 : (first >> 3) + whole] = b"\xff" * whole
                first += whole << 3
            while first <= last:
                bits[first >> 3] |= _MASKS[first & 7]
                first += 1

    def __contains__(self, chunk: int) -> bool:
        """Whether a chunk's bit is set."""
        return bool(self._bits[chunk >> 3] & _MASKS[chunk & 7])

    def add(self, other: "ChunkBitmap") -> None:
        """Set all bits that another bitmap of the same volume has."""
        for at, theirs in other.stretches():
            with self._lock:
                ours = self._bits[at : at + len(theirs)]
                both = int.from_bytes(ours, "little") | int.from_bytes(theirs, "little")
                self._bits[at : at + len(theirs)] = both.to_bytes(len(theirs), "little")

    def count(self) -> int:
        """Chunks whose bit is set; costs as `runs`."""
        return sum(int.from_bytes(piece, "little").bit_count() for _, piece in self.stretches())

    def runs(self) -> Iterator[ChunkRun]:
        """Runs of chunks whose bit is set, ascending; costs O(memory that is resident)."""
        first = end = -1
        for at, stretch in self.stretches():
            for low, high in _runs_of(stretch):
                start = at * 8 + low
                if start != end:
                    if first >= 0:
                        yield ChunkRun(first, end - first)
                    first = start
                end = at * 8 + high
        if first >= 0:
            yield ChunkRun(first, end - first)

    def packed(self) -> bytes:
        """All bits, compressed: chunk 0 in the lowest bit of the first byte."""
        packer = zstandard.ZstdCompressor(level=1).compressobj()
        return b"".join([*map(packer.compress, self._pieces()), packer.flush()])

    def add_packed(self, packed: bytes | memoryview) -> None:
        """Set the bits that `packed` gave for a volume of as many chunks.

        Raises:
            DamagedDataError: it did not give them.
        """
        added, at = ChunkBitmap(self.chunk_count), 0
        try:
            for piece in zstandard.ZstdDecompressor().read_to_iter(packed):
                if at + len(piece) > self.size_bytes:
                    at = -1
                    break
                if piece.strip(b"\0"):  # zeros touch no memory
                    added._bits[at : at + len(piece)] = piece
                at += len(piece)
        except zstandard.ZstdError as err:
            raise DamagedDataError(f"bits of chunks: they cannot be unpacked: {err}") from err
        if at != self.size_bytes:
            raise DamagedDataError(
                f"bits of chunks: expected {self.size_bytes} bytes for {self.chunk_count} chunks, "
                f"got {'more' if at < 0 else at}"
            )
        self.add(added)

    def _pieces(self) -> Iterator[bytes]:
        for at in range(0, self.size_bytes, _STRETCH_SIZE_BYTES):
            yield bytes(self._bits[at : min(at + _STRETCH_SIZE_BYTES, self.size_bytes)])

    def stretches(self) -> Iterator[tuple[int, bytes]]:
        """Bytes of bits of which one is set at least, and where they begin."""
        at = 0
        for piece in self._pieces():
            if piece != _CLEAR[: len(piece)]:
                yield at, piece
            at += len(piece)


def _runs_of(piece: bytes) -> Iterator[tuple[int, int]]:
    """First bit and the one after the last of each run of ones."""
    number, at = int.from_bytes(piece, "little"), 0
    while number:
        clear = (number & -number).bit_length() - 1
        number >>= clear
        at += clear
        ones = (~number & (number + 1)).bit_length() - 1
        yield at, at + ones
        number >>= ones
        at += ones
