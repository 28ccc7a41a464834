"""The scanner: one thread of a capture. Reads regions, finds changed chunks, gathers them in spans.

This is the agent's hot path. Each byte is read once into the span's buffer, fingerprinted there,
hashed there if it changed, and sent from there. Pieces are read at the buffer's fill mark: an
unchanged piece is overwritten by the next one, and changed chunks of a mixed piece are moved
together, so that scattered changes still make full spans.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from libs.packs.chunk import ZERO_CHUNK, ChunkHasher, Fingerprinter, split_chunks
from libs.packs.layout import CHUNK_SIZE_BYTES, FINGERPRINT_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.agent.fingerprints import ZERO_FINGERPRINT
from services.change_capture.agent.window import SPAN_SIZE_BYTES
from services.change_capture.drivers.scan import REGION_CHUNKS, Region

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
        fingerprinter: makes change fingerprints.
        take_buffer: gives an empty span buffer; may wait.
        emit: publishes a span and takes its buffer over, also if it fails; it is told the region
            that is not finished yet.
    """

    def __init__(
        self,
        read_into: Callable[[int, memoryview], None],
        hasher: ChunkHasher,
        fingerprinter: Fingerprinter,
        take_buffer: Callable[[], memoryview],
        emit: Callable[[Span, int], None],
    ) -> None:
        self._read_into = read_into
        self._chunk_ids = hasher.chunk_ids
        self._fingerprints = fingerprinter.fingerprints
        self._zero_fingerprint = fingerprinter.fingerprints(ZERO_CHUNK)
        self._take_buffer = take_buffer
        self._emit = emit
        self._region = 0
        self.span = Span(take_buffer())
        self.figures = ScanFigures()

    def scan(self, region: Region, old: bytes) -> bytes:
        """Find the changed chunks of a region.

        Args:
            region: its data extents; everything between them is zeros.
            old: the region's 128 fingerprints at the base, zeros standing for zero chunks.

        Returns:
            The region's fingerprints now.
        """
        self._region = region.number
        new = bytearray(len(old))
        at = 0  # chunk within the region that is looked at next
        first = region.number * REGION_CHUNKS
        for extent in region.extents:
            begin = extent.start // CHUNK_SIZE_BYTES - first
            self._note_zeros(first, at, begin, old)
            for piece in _pieces(extent):
                self._scan_piece(piece, first, old, new)
            at = extent.end // CHUNK_SIZE_BYTES - first
        self._note_zeros(first, at, region.chunk_count, old)
        if len(self.span.zeros) > ZEROS_PER_BATCH_MAX or (
            self.span.indexes and self.span.scanned_bytes > SCANNED_PER_SPAN_MAX
        ):
            self._flush()
        return bytes(new)

    def take_span(self) -> Span:
        """Take out what was gathered; the scanner is left without a buffer."""
        span, self.span = self.span, Span(memoryview(b""))
        return span

    def _scan_piece(self, piece: ByteRange, first: int, old: bytes, new: bytearray) -> None:
        if self.span.fill_bytes + piece.length > SPAN_SIZE_BYTES:
            self._flush()
        span = self.span
        fill = span.fill_bytes
        view = span.buffer[fill : fill + piece.length]
        self._read_into(piece.start, view)
        self.figures.read_bytes += piece.length
        span.scanned_bytes += piece.length
        begin = piece.start // CHUNK_SIZE_BYTES - first
        where = slice(
            begin * FINGERPRINT_SIZE_BYTES,
            (begin + piece.length // CHUNK_SIZE_BYTES) * FINGERPRINT_SIZE_BYTES,
        )
        found = self._fingerprints(view)
        before = old[where]
        if found == before:
            new[where] = found
            return
        new[where] = self._gather(view, piece.start // CHUNK_SIZE_BYTES, found, before)

    def _gather(self, view: memoryview, index: int, found: bytes, before: bytes) -> bytes:
        """Keep the changed chunks of a piece in the span; return the piece's fingerprints."""
        span, chunks = self.span, split_chunks(view)
        prints, known = _split_prints(found), _split_prints(before)
        if self._zero_fingerprint in prints:
            prints = [
                ZERO_FINGERPRINT if now == self._zero_fingerprint and chunk == ZERO_CHUNK else now
                for now, chunk in zip(prints, map(bytes, chunks), strict=True)
            ]
        changed = [n for n, now in enumerate(prints) if now != known[n]]
        kept = [n for n in changed if prints[n] != ZERO_FINGERPRINT]
        if len(kept) < len(changed):
            span.zeros += [index + n for n in changed if prints[n] == ZERO_FINGERPRINT]
        if kept:
            for number, n in enumerate(kept):
                if number != n:
                    chunks[number][:] = chunks[n]
            span.indexes += [index + n for n in kept]
            span.ids.append(self._chunk_ids(view[: len(kept) * CHUNK_SIZE_BYTES]))
            self.figures.changed_bytes += len(kept) * CHUNK_SIZE_BYTES
        return b"".join(prints)

    def _flush(self) -> None:
        """Emit what was gathered, and go on with a new buffer."""
        self._emit(self.take_span(), self._region)
        self.span = Span(self._take_buffer())

    def _note_zeros(self, first: int, begin: int, end: int, old: bytes) -> None:
        """Chunks without data that had data at the base have become zero."""
        where = slice(begin * FINGERPRINT_SIZE_BYTES, end * FINGERPRINT_SIZE_BYTES)
        if not any(old[where]):
            return
        for number in range(begin, end):
            at = number * FINGERPRINT_SIZE_BYTES
            if old[at : at + FINGERPRINT_SIZE_BYTES] != ZERO_FINGERPRINT:
                self.span.zeros.append(first + number)


def _split_prints(prints: bytes) -> list[bytes]:
    size = FINGERPRINT_SIZE_BYTES
    return [prints[at : at + size] for at in range(0, len(prints), size)]


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
