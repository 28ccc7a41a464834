"""The gate of a file or block device that this node's kernel reads: a clone, or a watch."""

from libs.errors import HoldBrokenError
from libs.events.fields import HoldMeans
from services.change_capture.drivers.local.cut_view import CutView
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import FrozenView, Gate, GateOrder


class LocalGate:
    """Holds nothing itself: a file system that is frozen meanwhile does, or nobody does.

    Args:
        order: the volume.
        roots: what may be opened.

    Raises:
        SourceError: the volume cannot be opened.
    """

    def __init__(self, order: GateOrder, roots: Roots) -> None:
        self._order = order
        self._roots = roots
        self._source: LocalView | None = None
        self._view: CutView | None = None
        self._opened().close()  # who cannot be read shall not hold anybody up

    @property
    def means(self) -> HoldMeans:
        """As the port says."""
        return "fsfreeze" if self._order.is_frozen else "none"

    def hold(self, seconds: float) -> None:
        """Watch: what writes from here on is seen."""
        self._source = self._opened()

    def cut(self) -> FrozenView:
        """As the port says."""
        source = self._source
        if source is None:
            raise HoldBrokenError(f"volume {self._order.path}: it is not held any more")
        # A file on a file system that is frozen takes no clone: that would wait for the thaw.
        may_clone = source.device not in self._order.frozen_devices
        self._view = CutView(source, held=self._order.is_frozen, may_clone=may_clone)
        self._source = None  # it is the view's
        return self._view

    def release(self, *, unbroken: bool) -> bool:
        """As the port says."""
        if self._view:
            self._view.released(unbroken=unbroken)
        return unbroken

    def close(self) -> None:
        """Let go of a volume that was not cut."""
        source, self._source = self._source, None
        if source:
            source.close()

    def _opened(self) -> LocalView:
        return LocalView(self._roots.open(self._order.tenant, self._order.path))


_: type[Gate] = LocalGate
