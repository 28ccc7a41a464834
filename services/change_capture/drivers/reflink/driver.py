"""Driver `reflink`: clones on XFS and btrfs, compared by where their blocks are.

The frozen view is a clone of the image. The clone of the base is kept until the next capture's
session is sealed, so a chunk has changed where the two clones do not share their blocks. That costs
O(extents), whatever the size of the volume, and reads only what changed.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from libs.errors import BackcastError, SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.everything import AllChanged, EverythingTracker
from services.change_capture.drivers.local.cloned import ClonedView
from services.change_capture.drivers.local.file_systems import file_system_of
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
from services.change_capture.drivers.reflink.comparison import candidates, differing
from services.change_capture.drivers.reflink.keeping import KeptClones, can_keep, require_keeping
from services.change_capture.drivers.reflink.records import CloneRecords

log = logging.getLogger(__name__)


class ReflinkDriver:
    """Views of clones, with the clone of the base as their tracker.

    What processes before this one have left is settled at once.

    Args:
        state_folder: where the records of clones are.
        roots: what may be opened.
    """

    def __init__(self, state_folder: Path, roots: Roots) -> None:
        self._roots = roots
        self._kept = KeptClones(CloneRecords(state_folder))
        self._kept.settle()

    def view(self, tenant: str, path: Path) -> FrozenView:
        """As the port says; where nothing can be cloned, the volume itself.

        Raises:
            SourceError: also if there is no room for a clone.
        """
        source = LocalView(self._roots.open(tenant, path))
        try:
            return ClonedView(source)
        except BaseException:
            source.close()
            raise

    def gate(self, order: GateOrder) -> Gate:
        """As the port says."""
        return LocalGate(order, self._roots)

    def require_tracking(self, view: FrozenView) -> None:
        """As the port says: the volume is a file that can be cloned, and its clone can be kept."""
        if isinstance(view, ClonedView):
            require_keeping(view)

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        """As the port says; a view without a clone that can be kept compares everything."""
        if order.base:
            self._kept.keep_only(order.volume, {order.base, order.session})
        if not isinstance(view, ClonedView) or not can_keep(view):
            lost = TrackingLost("unknown", f"{order.path}: its file system keeps no clone of it")
            return EverythingTracker(view, lost if order.base else None)
        return CloneTracker(order, view, self._kept)

    def forget(self, volume: UUID) -> None:
        """Remove the volume's clones."""
        self._kept.keep_only(volume, set())


class CloneTracker:
    """Names the chunks that the clone of the base has in other blocks.

    Args:
        order: what is captured.
        view: its view, with a clone.
        kept: the clones of this node.
    """

    def __init__(self, order: SourceOrder, view: ClonedView, kept: KeptClones) -> None:
        self._order = order
        self._view = view
        self._kept = kept
        self._base, self._base_size_bytes = -1, 0
        self.lost = self._open_base()
        self._everything = EverythingTracker(view, self.lost)

    @property
    def trust(self) -> Trust:
        """As the port says."""
        return "candidates" if self._base >= 0 else "everything"

    def candidates(self) -> Iterator[Candidate]:
        """As the port says.

        Raises:
            SourceError: the file system does not tell where the clones' blocks are.
        """
        return self._changed() if self._base >= 0 else self._everything.candidates()

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        return AllChanged(tells_zeros=self._base >= 0)

    def finish(self) -> None:
        """Keep the clone; where that fails, the next capture compares everything."""
        try:
            self._kept.keep(self._order.volume, self._order.session, self._view)
        except (OSError, BackcastError) as err:
            about = {"volume": str(self._order.volume), "detail": str(err)}
            log.warning("clone not kept: the next capture compares everything", extra=about)

    def settle(self, *, sealed: bool) -> None:
        """Keep the clone of what was sealed, or that of the base."""
        order = self._order
        base = {order.base} if order.base else set()
        self._kept.keep_only(order.volume, {order.session} if sealed else base)

    def close(self) -> None:
        """Close the clone of the base; that of this capture is the view's."""
        if self._base >= 0:
            os.close(self._base)
        self._base = -1

    def _open_base(self) -> TrackingLost | None:
        order = self._order
        if order.base is None:
            return None
        if not order.is_trusted:
            return TrackingLost("distrusted", f"what base {order.base} shares was found untrue")
        found = self._kept.open(order.volume, order.base, self._view)
        if isinstance(found, TrackingLost):
            return found
        self._base, self._base_size_bytes = found
        return None

    def _changed(self) -> Iterator[Candidate]:
        assert self._view.clone is not None
        now, size = self._view.clone.descriptor, self._view.size_bytes
        chunk_count = -(-size // CHUNK_SIZE_BYTES)
        is_btrfs = file_system_of(now).kind == "btrfs"
        resized = min(size, self._base_size_bytes) if size != self._base_size_bytes else None
        pieces = differing(self._base, now, chunk_count * CHUNK_SIZE_BYTES, is_btrfs=is_btrfs)
        try:
            yield from candidates(pieces, chunk_count, resized)
        except OSError as err:
            raise SourceError(
                f"volume {self._order.path}: the file system does not tell where its blocks are: "
                f"{err.strerror}; take the snapshot again, or use the driver `scan`"
            ) from err


_: type[Driver] = ReflinkDriver
