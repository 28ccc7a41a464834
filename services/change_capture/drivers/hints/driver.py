"""Driver `hints`: the order says which chunks may have changed since the base.

The list comes from what keeps the volume (`rbd diff`, CSI snapshot metadata, a thin pool), through
the command. It is a superset: each chunk of it is read, and chunks that are as they were end equal
in the block map. Nothing is kept on the node, so a later capture by another driver knows nothing of
this base.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange, check_runs, iter_runs
from services.change_capture.drivers.everything import AllChanged, EverythingTracker
from services.change_capture.drivers.local.gate import LocalGate
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import (
    Candidate,
    Comparison,
    Driver,
    FrozenView,
    Gate,
    GateOrder,
    SourceOrder,
    Tracker,
    TrackingLost,
    Trust,
)


class HintsDriver:
    """Views of files and block devices; the order's hints are the tracker.

    Args:
        roots: what may be opened.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def view(self, tenant: str, path: Path) -> FrozenView:
        """As the port says."""
        return LocalView(self._roots.open(tenant, path))

    def gate(self, order: GateOrder) -> Gate:
        """As the port says."""
        return LocalGate(order, self._roots)

    def require_tracking(self, view: FrozenView) -> None:
        """Whatever can be read will do."""

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        """As the port says; an order without a base, or without trust, compares everything."""
        chunk_count = -(-view.size_bytes // CHUNK_SIZE_BYTES)
        if order.hints is not None:
            check_runs(order.hints, chunk_count)
        if order.base is None:
            return EverythingTracker(view, None)
        if order.hints is None:
            return EverythingTracker(view, TrackingLost("unknown", "the order has no hints"))
        if not order.is_trusted:
            lost = TrackingLost("distrusted", f"hints since base {order.base} were found untrue")
            return EverythingTracker(view, lost)
        return HintsTracker(order.hints, view.size_bytes)

    def forget(self, volume: UUID) -> None:
        """Nothing is kept."""


class HintsTracker:
    """Names the chunks of the hints.

    Args:
        hints: runs of chunks within the volume, as `libs.ranges.pack_runs`.
        size_bytes: size of the volume.
    """

    trust: Trust = "candidates"
    lost: TrackingLost | None = None

    def __init__(self, hints: bytes, size_bytes: int) -> None:
        self._hints = hints
        self._size_bytes = size_bytes

    def candidates(self) -> Iterator[Candidate]:
        """The chunks of the hints, and the last one if the volume ends within it.

        A volume that shrank into a chunk has changed it, and no list of writes says so.
        """
        end = 0
        for run in iter_runs(self._hints):
            end = run.end
            yield Candidate(ByteRange(run.first * CHUNK_SIZE_BYTES, run.end * CHUNK_SIZE_BYTES))
        last, rest = divmod(self._size_bytes, CHUNK_SIZE_BYTES)
        if rest and end <= last:
            yield Candidate(ByteRange.at(last * CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES))

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        return AllChanged(tells_zeros=True)

    def finish(self) -> None:
        """There is nothing to keep."""

    def settle(self, *, sealed: bool) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """There is nothing to close."""


_: type[Driver] = HintsDriver
