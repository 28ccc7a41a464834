"""Driver `filter`: our NBD server in front of a volume marks what is written, and keeps a cut.

The filter of a volume is found by the volume itself (`services.change_capture.filter.places`), once
the roots have judged its path. Nothing of the volume's size is read or written per capture.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from libs.errors import BackcastError, HoldBrokenError, SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.everything import AllChanged, EverythingTracker
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.drivers.filter.gate import (
    FilterGate,
    SharedFilterGate,
    opened_view,
)
from services.change_capture.drivers.filter.view import FilterView
from services.change_capture.drivers.local.roots import Roots
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
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.messages import ClaimCut, ForgetVolume, SettleSession

log = logging.getLogger(__name__)

#: Writes of a volume that is cut alone are held for so long at most.
_HOLD_SECONDS = 10.0


class FilterDriver:
    """Views that filters keep; the filter's bitmap is the tracker.

    Args:
        folder: of the control sockets of this node's filters.
        roots: what may be opened.
    """

    def __init__(self, folder: Path, roots: Roots) -> None:
        self._folder = folder
        self._roots = roots

    def view(self, tenant: str, path: Path) -> FrozenView:
        """As the port says; writes to the volume are held for a moment.

        Raises:
            SourceError: also if no filter is in front of it.
            ConflictError: another capture has it.
        """
        view = opened_view(self._roots, self._folder, tenant, path)
        try:
            view.hold(_HOLD_SECONDS)
            view.cut()
            if not view.release():
                raise HoldBrokenError(
                    f"volume {path}: its filter's hold ended before the release; take the snapshot "
                    f"again"
                )
        except BaseException:
            view.close()
            raise
        return view

    def gate(self, order: GateOrder) -> Gate:
        """As the port says.

        Raises:
            SourceError: also if no filter is in front of it, or it can share nothing.
        """
        if order.shared:
            return SharedFilterGate(order, order.shared, self._roots, self._folder)
        return FilterGate(order, self._roots, self._folder)

    def require_tracking(self, view: FrozenView) -> None:
        """A volume with a filter in front of it has tracking."""

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        """As the port says.

        Raises:
            SourceError: the filter has gone.
        """
        assert isinstance(view, FilterView)
        base = str(order.base) if order.base else None
        claim = ClaimCut(view.token, str(order.volume), str(order.session), base, order.is_trusted)
        claimed, bits = view.claim(claim)
        lost = None
        if claimed.lost_reason:
            lost = TrackingLost(claimed.lost_reason, claimed.lost_message)
        if not claimed.has_bits:
            return FilterTracker(order, view, EverythingTracker(view, lost), None)
        changed = ChunkBitmap(-(-view.size_bytes // CHUNK_SIZE_BYTES))
        changed.add_packed(bits)
        return FilterTracker(order, view, EverythingTracker(view, None), changed)

    def forget(self, volume: UUID) -> None:
        """Tell every filter of this node; one that does not answer has nothing of this volume."""
        for path in sorted(self._folder.glob("*.sock")):
            _tell(path, ForgetVolume(str(volume)))


class FilterTracker:
    """Names the chunks that the filter has seen written.

    Args:
        order: what is captured.
        view: its view.
        everything: what to compare if nothing is known.
        changed: chunks that were written since the base; None if that is not known.
    """

    def __init__(
        self,
        order: SourceOrder,
        view: FilterView,
        everything: EverythingTracker,
        changed: ChunkBitmap | None,
    ) -> None:
        self._order = order
        self._control = view.control
        self._everything = everything
        self._changed = changed
        self.trust: Trust = "everything" if changed is None else "candidates"
        self.lost = everything.lost

    def candidates(self) -> Iterator[Candidate]:
        """As the port says."""
        if self._changed is None:
            return self._everything.candidates()
        return (
            Candidate(ByteRange(run.first * CHUNK_SIZE_BYTES, run.end * CHUNK_SIZE_BYTES))
            for run in self._changed.runs()
        )

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        return AllChanged(tells_zeros=self._changed is not None)

    def finish(self) -> None:
        """The filter has made the bits of before the cut durable when it released the writes."""

    def settle(self, *, sealed: bool) -> None:
        """Tell the filter; if it does not hear, the next order names the base."""
        order = self._order
        _tell(self._control, SettleSession(str(order.volume), str(order.session), sealed))

    def close(self) -> None:
        """There is nothing to close; the view is the capture's."""


def _tell(control: Path, order: SettleSession | ForgetVolume) -> None:
    try:
        client = FilterClient(control)
    except SourceError as err:
        log.warning("filter not told", extra={"detail": str(err)})
        return
    try:
        client.ask(order)
    except BackcastError as err:
        log.warning("filter not told", extra={"detail": str(err)})
    finally:
        client.close()


_: type[Driver] = FilterDriver
