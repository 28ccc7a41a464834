"""The scanner: one thread of a capture. Reads regions, gathers their changed chunks in spans.

This is the agent's hot path. Each byte is read once into the span's buffer, compared there by the
tracker, hashed there if it changed, and sent from there. Pieces are read at the buffer's fill mark:
an unchanged piece is overwritten by the next one, and changed chunks of a mixed piece are moved
together, so that scattered changes still make full spans.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from libs.packs.chunk import ChunkHasher, split_chunks
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.agent.regions import Region
from services.change_capture.agent.sampling import Sampler
from services.change_capture.agent.window import SPAN_SIZE_BYTES
from services.change_capture.drivers.port import Changes, Comparison

#: Bytes read at once: large enough for the system call not to matter, aligned so that the chunks of
#: one aligned MiB stay in one span (a range of 1 MiB then touches at most two frames).
PIECE_SIZE_BYTES = 1 << 20
#: Chunks that became zero and are kept back for the next batch, give or take those of one region.
#: At the worst no two are neighbours: 8,320 runs of 12 bytes, 98 KiB of the 256 of an event.
ZEROS_PER_BATCH_MAX = 8192
#: Bytes scanned for one span, give or take a region: where little changed, its chunks go out while
#: the scan goes on, not all at its end.
SCANNED_PER_SPAN_MAX = 128 << 20


@dataclass(slots=True)
class Span:
    """Changed chunks gathered so far: their bytes lie at the start of the buffer, in order."""

    buffer: memoryview
    indexes: list[int] = field(default_factory=list)
    #: Of the chunks in the buffer, one piece's ids after the other's.
    ids: list[bytes] = field(default_factory=list)
    zeros: list[int] = field(default_factory=list)
    scanned_bytes: int = 0

    @property
    def fill_bytes(self) -> int:
        """Bytes of the buffer that are taken."""
        return len(self.indexes) * CHUNK_SIZE_BYTES


@dataclass(slots=True)
class ScanFigures:
    """What a scanner has done."""

    read_bytes: int = 0
    changed_bytes: int = 0


class Scanner:
    """Scans regions for one capture; not thread-safe, each thread has its own.

    Args:
        read_into: fills a buffer from a byte offset of the frozen view.
        hasher: names chunks.
        sampler: takes a sample of the chunks that the tracker believes unchanged; None: of none.
        take_buffer: gives an empty span buffer; may wait.
        emit: publishes a span and takes its buffer over, also if it fails; it is told the region
            that is not finished yet.
    """

    def __init__(
        self,
        read_into: Callable[[int, memoryview], None],
        hasher: ChunkHasher,
        sampler: Sampler | None,
        take_buffer: Callable[[], memoryview],
        emit: Callable[[Span, int], None],
    ) -> None:
        self._read_into = read_into
        self._chunk_ids = hasher.chunk_ids
        self._sampler = sampler
        self._take_buffer = take_buffer
        self._emit = emit
        self._region = 0
        self.span = Span(take_buffer())
        self.figures = ScanFigures()

    def scan(self, region: Region, comparison: Comparison) -> None:
        """Find the changed chunks of a region.

        Args:
            region: its candidates.
            comparison: says which of them changed.
        """
        self._region = region.number
        for extent, is_hole in region.candidates:
            if is_hole:
                count = extent.length // CHUNK_SIZE_BYTES
                self.span.zeros += comparison.cleared(extent.start // CHUNK_SIZE_BYTES, count)
                continue
            for piece in _pieces(extent):
                self._scan_piece(piece, comparison)
        comparison.finish()
        if len(self.span.zeros) > ZEROS_PER_BATCH_MAX or (
            self.span.indexes and self.span.scanned_bytes > SCANNED_PER_SPAN_MAX
        ):
            self._flush()

    def take_span(self) -> Span:
        """Take out what was gathered; the scanner is left without a buffer."""
        span, self.span = self.span, Span(memoryview(b""))
        return span

    def _scan_piece(self, piece: ByteRange, comparison: Comparison) -> None:
        if self.span.fill_bytes + piece.length > SPAN_SIZE_BYTES:
            self._flush()
        span = self.span
        fill = span.fill_bytes
        view = span.buffer[fill : fill + piece.length]
        self._read_into(piece.start, view)
        self.figures.read_bytes += piece.length
        span.scanned_bytes += piece.length
        first = piece.start // CHUNK_SIZE_BYTES
        changes = comparison.changed(first, view)
        if self._sampler:
            self._sampler.look_at(first, view, changes)
        if changes:
            self._gather(view, first, changes)

    def _gather(self, view: memoryview, first: int, changes: Changes) -> None:
        """Keep the changed chunks of a piece in the span."""
        span, kept = self.span, changes.data
        span.zeros += [first + n for n in changes.zeros]
        if not kept:
            return
        if len(kept) * CHUNK_SIZE_BYTES < len(view):
            chunks = split_chunks(view)
            for number, n in enumerate(kept):
                if number != n:
                    chunks[number][:] = chunks[n]
        span.indexes += [first + n for n in kept]
        span.ids.append(self._chunk_ids(view[: len(kept) * CHUNK_SIZE_BYTES]))
        self.figures.changed_bytes += len(kept) * CHUNK_SIZE_BYTES

    def _flush(self) -> None:
        """Emit what was gathered, and go on with a new buffer."""
        self._emit(self.take_span(), self._region)
        self.span = Span(self._take_buffer())


def _pieces(extent: ByteRange) -> list[ByteRange]:
    """The extent cut at multiples of the piece size."""
    cuts = [
        extent.start,
        *range(
            (extent.start // PIECE_SIZE_BYTES + 1) * PIECE_SIZE_BYTES, extent.end, PIECE_SIZE_BYTES
        ),
        extent.end,
    ]
    return [ByteRange(start, end) for start, end in itertools.pairwise(cuts)]
