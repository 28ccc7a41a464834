"""The gate of a volume behind a filter: the filter holds its writes."""

import contextlib
from pathlib import Path

from libs.errors import BackcastError, HoldBrokenError
from libs.events.fields import HoldMeans
from services.change_capture.drivers.filter.view import FilterView
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import (
    FrozenView,
    Gate,
    GateOrder,
    SharedCut,
    SharedGate,
)
from services.change_capture.filter.places import control_path


class FilterGate:
    """One volume's side of a barrier, done by its filter.

    Args:
        order: the volume.
        roots: what may be opened.
        folder: of the control sockets of this node's filters.

    Raises:
        SourceError: the volume cannot be opened, or no filter is in front of it.
    """

    def __init__(self, order: GateOrder, roots: Roots, folder: Path) -> None:
        self._order = order
        self._view: FilterView | None = opened_view(roots, folder, order.tenant, order.path)
        self._is_cut = False

    @property
    def means(self) -> HoldMeans:
        """As the port says; a frozen file system holds what the filter holds, and more."""
        return "fsfreeze" if self._order.is_frozen else "filter"

    def hold(self, seconds: float) -> None:
        """As the port says."""
        self.standing().hold(seconds)

    def cut(self) -> FrozenView:
        """As the port says."""
        view = self.standing()
        view.cut()
        self._is_cut = True
        return view

    def release(self, *, unbroken: bool) -> bool:
        """As the port says; a hold that was broken elsewhere takes the cut back."""
        view, self._view = self._view, None
        if view is None:
            return False
        if not (unbroken and self._is_cut):
            self._end(view)
            return False
        try:
            return view.release()
        except BackcastError:
            self._end(view)  # its connection is of no use, and with it the hold and the cut end
            return False

    def close(self) -> None:
        """As the port says; a cut that was not released is taken back."""
        view, self._view = self._view, None
        if view is not None:
            self._end(view)

    def standing(self) -> FilterView:
        """The view, until the release.

        Raises:
            HoldBrokenError: the volume is not held any more.
        """
        if self._view is None:
            raise HoldBrokenError(f"volume {self._order.path}: it is not held any more")
        return self._view

    @staticmethod
    def _end(view: FilterView) -> None:
        with contextlib.suppress(BackcastError):
            view.close()


class SharedFilterGate(FilterGate):
    """One node's side of the barrier of a volume that other nodes write, too.

    Args:
        order: the volume.
        shared: what this node is in it.
        roots: what may be opened.
        folder: of the control sockets of this node's filters.

    Raises:
        SourceError: also if the filter can share nothing.
    """

    def __init__(self, order: GateOrder, shared: SharedCut, roots: Roots, folder: Path) -> None:
        super().__init__(order, roots, folder)
        self._shared = shared
        self._is_following = False
        self._address = ""
        if shared.followers:
            try:
                self._address = self.standing().lead(shared)
            except BaseException:
                self.close()
                raise

    @property
    def address(self) -> str:
        """As the port says."""
        return self._address

    def follow(self, address: str) -> None:
        """As the port says."""
        if not self._is_following:
            self.standing().follow(self._shared, address)
            self._is_following = True


def opened_view(roots: Roots, folder: Path, tenant: str, path: Path) -> FilterView:
    """The filter of a tenant's volume, which has no cut yet.

    Raises:
        SourceError: the volume cannot be opened, or no filter is in front of it.
        UnavailableError: the filter fails.
    """
    opened = roots.open(tenant, path)
    source = LocalView(opened)
    try:
        return FilterView(source, control_path(folder, opened.descriptor))
    finally:
        source.close()


_: type[Gate] = FilterGate
_shared: type[SharedGate] = SharedFilterGate
