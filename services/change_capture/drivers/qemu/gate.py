"""Gates of disks that QEMU serves: they hold nothing, and cut a process's disks at one instant."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from libs.errors import HoldBrokenError
from libs.events.fields import HoldMeans
from services.change_capture.drivers.port import FrozenView, Gate, GateOrder

#: Cuts the disks of some paths; whether all that is cut at the barrier is among them.
CutDisks = Callable[[Sequence[Path], bool], Sequence[FrozenView]]


class DisksTogether:
    """The disks of one process at one barrier. Thread-safe.

    The first gate that is cut cuts the disks of all gates.

    Args:
        cut: cuts disks.
        volume_count: volumes that the barrier's session has on all nodes.
        forget: called when the last gate is gone.
    """

    def __init__(self, cut: CutDisks, volume_count: int, forget: Callable[[], None]) -> None:
        self._cut = cut
        self._volume_count = volume_count
        self._forget = forget
        self._lock = threading.Lock()
        self._paths: dict[UUID, Path] = {}
        self._views: dict[UUID, FrozenView] = {}
        self._is_cut = False

    def join(self, volume: UUID, path: Path) -> None:
        """Add a gate's disk."""
        with self._lock:
            self._paths[volume] = path

    def view_of(self, volume: UUID) -> FrozenView:
        """The view of a disk, once.

        Raises:
            HoldBrokenError: the disk was not there when the others were cut.
            BackcastError: the disks cannot be cut.
        """
        with self._lock:
            if not self._is_cut:
                self._is_cut = True
                paths = list(self._paths.values())
                views = self._cut(paths, len(paths) == self._volume_count)
                self._views = dict(zip(self._paths, views, strict=True))
            view = self._views.pop(volume, None)
        if view is None:
            raise HoldBrokenError(
                f"volume {volume}: its disk was not cut with the others; take the snapshot again"
            )
        return view

    def leave(self, volume: UUID) -> None:
        """Let go of a gate's disk; harmless when repeated."""
        with self._lock:
            left = self._views.pop(volume, None)
            was_here = self._paths.pop(volume, None) is not None
            is_over = was_here and not self._paths
        if left:
            left.close()
        if is_over:
            self._forget()


class QemuGate:
    """A disk at a barrier.

    Args:
        order: the volume.
        together: it and the others of its process, which it has joined.
    """

    def __init__(self, order: GateOrder, together: DisksTogether) -> None:
        self._volume = order.volume
        self._together = together

    @property
    def means(self) -> HoldMeans:
        """``none``: its guest writes on."""
        return "none"

    def hold(self, seconds: float) -> None:
        """Nothing is held."""

    def cut(self) -> FrozenView:
        """As the port says."""
        return self._together.view_of(self._volume)

    def release(self, *, unbroken: bool) -> bool:
        """As the port says."""
        return unbroken

    def close(self) -> None:
        """Let go of a disk whose view nobody has taken."""
        self._together.leave(self._volume)


_: type[Gate] = QemuGate
