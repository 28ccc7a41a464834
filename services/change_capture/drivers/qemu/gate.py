"""The gate of a disk that QEMU serves: it holds nothing, and its view begins with the cut."""

from collections.abc import Callable

from libs.events.fields import HoldMeans
from services.change_capture.drivers.port import FrozenView, Gate


class QemuGate:
    """A disk at a barrier.

    Args:
        cut: begins its frozen view.
    """

    def __init__(self, cut: Callable[[], FrozenView]) -> None:
        self._cut = cut

    @property
    def means(self) -> HoldMeans:
        """``none``: its guest writes on."""
        return "none"

    def hold(self, seconds: float) -> None:
        """Nothing is held."""

    def cut(self) -> FrozenView:
        """As the port says."""
        return self._cut()

    def release(self, *, unbroken: bool) -> bool:
        """As the port says."""
        return unbroken

    def close(self) -> None:
        """There is nothing to let go."""


_: type[Gate] = QemuGate
