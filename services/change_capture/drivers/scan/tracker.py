"""The tracker of `scan`: compares fingerprints of what was read with those of the base.

The fingerprints of a capture are written while it reads, and put in their place by `finish`. They
belong to one session and one device, so fingerprints of another base are never consulted, whatever
became of sessions in between (scenario 8).
"""

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from libs.packs.chunk import ZERO_CHUNK, Fingerprinter, is_zero, split_chunks
from libs.packs.layout import CHUNK_SIZE_BYTES, FINGERPRINT_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.port import (
    Candidate,
    Changes,
    Comparison,
    FrozenView,
    SourceOrder,
    Tracker,
    TrackingLost,
    Trust,
)
from services.change_capture.drivers.scan.fingerprints import (
    RECORD_CHUNKS,
    RECORD_SIZE_BYTES,
    ZERO_FINGERPRINT,
    ZERO_RECORD,
    FingerprintFile,
    FingerprintWriter,
    fingerprint_path,
    keep_only,
)

_RECORD_EXTENT = RECORD_CHUNKS * CHUNK_SIZE_BYTES


class FingerprintTracker:
    """Reads all data of the view, whatever it knows, so it cannot overlook a change.

    Args:
        order: what is captured.
        view: its view.
        state_folder: where fingerprint files are.
    """

    def __init__(self, order: SourceOrder, view: FrozenView, state_folder: Path) -> None:
        self._order = order
        self._view = view
        self._state_folder = state_folder
        self._fingerprinter = Fingerprinter(order.secret)
        self._zero_print = self._fingerprinter.fingerprints(ZERO_CHUNK)
        self._old, self.lost = self._open_old()
        self._writer: FingerprintWriter | None = None

    @property
    def trust(self) -> Trust:
        """As the port says."""
        return "exact" if self._old else "everything"

    def candidates(self) -> Iterator[Candidate]:
        """Data, and the holes of records that had some at the base."""
        order = self._order
        path = fingerprint_path(self._state_folder, order.volume, order.session)
        self._writer = FingerprintWriter(
            path, order.session, self._view.size_bytes, self._view.identity
        )
        return self._candidates()

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        assert self._writer is not None
        number = first // RECORD_CHUNKS
        old = self._old.record(number) if self._old else ZERO_RECORD
        return _RecordComparison(number, old, self._writer, self._fingerprinter, self._zero_print)

    def finish(self) -> None:
        """As the port says."""
        assert self._writer is not None
        self._writer.finish()

    def settle(self, *, sealed: bool) -> None:
        """Keep the fingerprints of what was sealed, or those of the base."""
        order = self._order
        base = {order.base} if order.base else set()
        keep_only(self._state_folder, order.volume, {order.session} if sealed else base)

    def close(self) -> None:
        """As the port says."""
        if self._writer:
            self._writer.discard()
        if self._old:
            self._old.close()

    def _open_old(self) -> tuple[FingerprintFile | None, TrackingLost | None]:
        order = self._order
        if order.base is None:
            return None, None
        if not order.is_trusted:
            return None, TrackingLost(
                "distrusted", f"fingerprints of base {order.base} were found untrue"
            )
        path = fingerprint_path(self._state_folder, order.volume, order.base)
        old = FingerprintFile.open_for(path, order.base, self._view.identity)
        if old:
            return old, None
        then, now = FingerprintFile.identity_at(path, order.base), self._view.identity
        if then is None or then == now:
            return None, TrackingLost(
                "unknown", f"this node has no intact fingerprints of base {order.base}"
            )
        return None, TrackingLost(
            "another-device",
            f"{order.path} is another file or device than at base {order.base} (it was replaced, "
            f"formatted or partitioned): {then} then, {now} now",
        )

    def _candidates(self) -> Iterator[Candidate]:
        # What lies beyond the end was cut off, not cleared.
        end = -(-self._view.size_bytes // CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES
        known = sorted(self._old.regions()) if self._old else []
        at = 0
        for extent in self._view.data():
            yield from _holes(known, at, extent.start)
            yield Candidate(extent)
            at = extent.end
        yield from _holes(known, at, end)


class _RecordComparison:
    """Compares the chunks of one record; the record of this capture is written at the end."""

    def __init__(
        self,
        number: int,
        old: bytes,
        writer: FingerprintWriter,
        fingerprinter: Fingerprinter,
        zero_print: bytes,
    ) -> None:
        self._number = number
        self._first = number * RECORD_CHUNKS
        self._old = old
        self._new = bytearray(RECORD_SIZE_BYTES)
        self._writer = writer
        self._fingerprints = fingerprinter.fingerprints
        self._zero_print = zero_print

    def changed(self, first: int, buffer: memoryview) -> Changes | None:
        """As the port says."""
        found = self._fingerprints(buffer)
        at = (first - self._first) * FINGERPRINT_SIZE_BYTES
        where = slice(at, at + len(found))
        before = self._old[where]
        if found == before:
            self._new[where] = found
            return None
        prints, known = _split_prints(found), _split_prints(before)
        if self._zero_print in prints:
            prints = [
                ZERO_FINGERPRINT if now == self._zero_print and is_zero(chunk) else now
                for now, chunk in zip(prints, split_chunks(buffer), strict=True)
            ]
        self._new[where] = b"".join(prints)
        changes = Changes([], [])
        for number, now in enumerate(prints):
            if now != known[number]:
                (changes.zeros if now == ZERO_FINGERPRINT else changes.data).append(number)
        return changes

    def cleared(self, first: int, count: int) -> list[int]:
        """As the port says."""
        at = (first - self._first) * FINGERPRINT_SIZE_BYTES
        before = self._old[at : at + count * FINGERPRINT_SIZE_BYTES]
        if not any(before):
            return []
        known = _split_prints(before)
        return [first + number for number, was in enumerate(known) if was != ZERO_FINGERPRINT]

    def finish(self) -> None:
        """As the port says."""
        self._writer.add(self._number, bytes(self._new))


def _holes(known: list[int], start: int, end: int) -> Iterator[Candidate]:
    """The parts of ``start`` to ``end`` that lie in known records, ascending."""
    for number in range(bisect_left(known, start // _RECORD_EXTENT), len(known)):
        begin = known[number] * _RECORD_EXTENT
        if begin >= end:
            return
        if start < end:
            yield Candidate(
                ByteRange(max(begin, start), min(begin + _RECORD_EXTENT, end)), is_hole=True
            )


def _split_prints(prints: bytes) -> list[bytes]:
    size = FINGERPRINT_SIZE_BYTES
    return [prints[at : at + size] for at in range(0, len(prints), size)]


_: type[Tracker] = FingerprintTracker
