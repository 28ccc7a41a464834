"""Driver `scan`: works on anything that can be read, and reads all of it each time."""

from pathlib import Path
from uuid import UUID

from services.change_capture.drivers.local.gate import LocalGate
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import (
    Driver,
    FrozenView,
    Gate,
    GateOrder,
    SourceOrder,
    Tracker,
)
from services.change_capture.drivers.scan.fingerprints import keep_only
from services.change_capture.drivers.scan.tracker import FingerprintTracker


class ScanDriver:
    """Views of files and block devices, with fingerprints as their tracker.

    Args:
        state_folder: where fingerprint files are.
        roots: what may be opened.
    """

    def __init__(self, state_folder: Path, roots: Roots) -> None:
        self._state_folder = state_folder
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
        """As the port says."""
        return FingerprintTracker(order, view, self._state_folder)

    def forget(self, volume: UUID) -> None:
        """Delete the volume's fingerprint files."""
        keep_only(self._state_folder, volume, set())


_: type[Driver] = ScanDriver
