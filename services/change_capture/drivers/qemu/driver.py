"""Driver `qemu`: disks that a QEMU process serves, whose dirty bitmaps tell what changed.

The frozen view is copy-before-write in the process (`cut`). A bitmap is begun just before each cut.
When the capture is complete, it becomes the bitmap that is kept, in one transaction of QEMU, and
named after volume, session and device. It goes on to record, whatever becomes of later captures. So
a capture reads what a copy of its base's bitmap has, and a capture that fails has changed nothing.

The definition of a VM is a volume, too, which is cut with the disks of its process (`machine`).
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from libs.errors import BackcastError, SourceError
from libs.machines.definition import MachineDisk
from libs.machines.places import machine_of
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.port import (
    Driver,
    FrozenView,
    Gate,
    GateOrder,
    SourceOrder,
    Tracker,
)
from services.change_capture.drivers.qemu.bitmaps import BitmapTracker, keep_only
from services.change_capture.drivers.qemu.cut import Freezing, find_disk, freeze
from services.change_capture.drivers.qemu.gate import DisksTogether, QemuGate
from services.change_capture.drivers.qemu.graph import graph_of
from services.change_capture.drivers.qemu.identity import identity_of
from services.change_capture.drivers.qemu.machine.reading import MachineReading
from services.change_capture.drivers.qemu.machine.telling import told_disks
from services.change_capture.drivers.qemu.machine.view import MachineView
from services.change_capture.drivers.qemu.names import ViewNames
from services.change_capture.drivers.qemu.own_views import OwnViews
from services.change_capture.drivers.qemu.place import place_of, socket_of
from services.change_capture.drivers.qemu.process import DiskProcess
from services.change_capture.drivers.qemu.qmp import QmpConnection
from services.change_capture.drivers.qemu.records import DiskRecord, DiskRecords
from services.change_capture.drivers.qemu.view import DiskFacts, QemuView
from services.change_capture.drivers.scan.fingerprints import (
    keep_only as keep_only_fingerprints,
)
from services.change_capture.drivers.scan.tracker import FingerprintTracker

log = logging.getLogger(__name__)

#: A process that does not answer holds up the start of an agent for so long, once.
_START_PATIENCE_SECONDS = 5.0


class QemuDriver:
    """Views of disks of QEMU processes, with dirty bitmaps as their tracker. Thread-safe.

    What agent processes before this one have left is removed at once, where it can be reached.

    Args:
        state_folder: where records and scratch files are.
        roots: what may be reached.
    """

    def __init__(self, state_folder: Path, roots: Roots) -> None:
        self._roots = roots
        self._records = DiskRecords(state_folder)
        self._views = OwnViews(self._records)
        #: Disks at barriers, of one attempt of one session and of one process.
        self._together: dict[tuple[UUID, int, Path], DisksTogether] = {}
        self._lock = threading.Lock()
        self._settle()

    def view(self, tenant: str, path: Path) -> FrozenView:
        """As the port says.

        Raises:
            OutOfSpaceError: also if there is no room for a scratch file.
            UnavailableError: also if the process does not answer.
            DamagedDataError: what answers is no QEMU.
        """
        return self.cut(tenant, [path], is_all=True)[0]

    def gate(self, order: GateOrder) -> Gate:
        """As the port says: the disks of one process are cut at one instant, without a hold.

        Raises:
            BackcastError: also if the process does not answer, or is no QEMU.
        """
        process = DiskProcess(self._roots, order.tenant, socket_of(order.path))
        with process.qmp() as qmp:
            process.require_served_safely(qmp)
            if machine_of(order.path):
                told_disks(qmp)
            else:
                find_disk(graph_of(qmp), place_of(order.path))
        key = (order.session, order.attempt, process.socket)
        with self._lock:
            together = self._together.get(key)
            if together is None:
                together = DisksTogether(
                    lambda paths, is_all: self._cut(process, paths, is_all),
                    order.volume_count,
                    lambda: self._forget(key),
                )
                self._together[key] = together
            together.join(order.volume, order.path)
        return QemuGate(order, together)

    def cut(self, tenant: str, paths: Sequence[Path], *, is_all: bool) -> Sequence[FrozenView]:
        """Views of disks of one process that are cut at one instant, in the order of their paths.

        The definition of its VM may be among them.

        Args:
            tenant: whose.
            paths: of the volumes.
            is_all: whether nothing else must be of the same moment.

        Raises:
            BackcastError: as `view`; nothing is cut then.
        """
        process = DiskProcess(self._roots, tenant, socket_of(paths[0]))
        return self._cut(process, paths, is_all)

    def machine(self, tenant: str, path: Path) -> Sequence[MachineDisk]:
        """The disks of a VM, as long as all of it can be protected.

        Args:
            tenant: whose.
            path: of the volume that is its definition.

        Raises:
            BackcastError: as `view`.
        """
        place = machine_of(path)
        if place is None:
            raise SourceError(f"volume {path}: it is no VM; expected SOCKET/machine")
        process = DiskProcess(self._roots, tenant, place.socket)
        with process.qmp() as qmp:
            process.require_served_safely(qmp)
            MachineReading(self._roots, tenant, place, qmp).view(is_frozen=True)
            return told_disks(qmp)

    def _forget(self, key: tuple[UUID, int, Path]) -> None:
        with self._lock:
            self._together.pop(key, None)

    def _cut(
        self, process: DiskProcess, paths: Sequence[Path], is_frozen: bool
    ) -> Sequence[FrozenView]:
        """Views of disks of one process, which are cut at one instant, and of its VM."""
        if len({*paths}) < len(paths):
            raise SourceError(
                f"disks of {process.socket}: two volumes of the group are one disk; remove one"
            )
        disks = [path for path in paths if machine_of(path) is None]
        with self._views.changing(process.socket), process.qmp() as qmp:
            process.require_served_safely(qmp)
            readings = {
                path: MachineReading(self._roots, process.tenant, place, qmp)
                for path in paths
                if (place := machine_of(path))
            }
            cut: Sequence[QemuView] = self._cut_disks(process, qmp, disks, is_frozen)
            views: dict[Path, FrozenView] = dict(zip(disks, cut, strict=True))
            try:
                for path, reading in readings.items():
                    views[path] = reading.view(is_frozen=is_frozen)
            except BaseException:
                for view in cut:
                    view.hang_up()
                    self._views.end(view.names)
                self._undo(process, qmp)
                for view in cut:
                    self._views.close_scratch(view.names)
                raise
            return [views[path] for path in paths]

    def _cut_disks(
        self, process: DiskProcess, qmp: QmpConnection, paths: Sequence[Path], is_frozen: bool
    ) -> Sequence[QemuView]:
        with contextlib.ExitStack() as undone:
            self._views.remove(process, qmp)
            if not paths:
                return []
            graph = graph_of(qmp)
            places = [place_of(path) for path in paths]
            disks = [find_disk(graph, place) for place in places]
            undone.callback(self._undo, process, qmp)
            freezing = list[Freezing]()
            for path, disk in zip(paths, disks, strict=True):
                names = self._views.begin(process.tenant, path)
                undone.callback(self._views.close_scratch, names)
                undone.callback(self._views.end, names)
                make_scratch = functools.partial(self._views.make_scratch, names)
                freezing.append(Freezing(disk, names, make_scratch))
            if process.start_nbd(qmp):
                self._views.note_nbd(freezing[0].names)
            freeze(process, qmp, freezing)
            views = list[QemuView]()
            for place, one in zip(places, freezing, strict=True):
                facts = DiskFacts(one.names, process, place, one.disk.node, is_frozen)
                identity = identity_of(qmp, place, one.disk.node)
                views.append(QemuView(facts, identity, self._let_go))
                undone.callback(views[-1].hang_up)
            undone.pop_all()
            return views

    def _undo(self, process: DiskProcess, qmp: QmpConnection) -> None:
        """Remove what a cut that failed has made; what cannot be removed now is left over."""
        with contextlib.suppress(BackcastError):
            self._views.remove(process, qmp)

    def require_tracking(self, view: FrozenView) -> None:
        """Whatever can be cut has bitmaps."""

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        """As the port says.

        Raises:
            BackcastError: the process does not answer, or refuses a step.
        """
        if isinstance(view, MachineView):  # small, so all of it is compared
            return FingerprintTracker(order, view, self._records.folder)
        assert isinstance(view, QemuView)
        self._records.write(
            "volumes", order.volume, DiskRecord(view.process.tenant, str(order.path))
        )
        return BitmapTracker(order, view)

    def forget(self, volume: UUID) -> None:
        """Remove the volume's bitmaps, where its process can be reached, and its fingerprints."""
        keep_only_fingerprints(self._records.folder, volume, set())
        record = self._records.read("volumes", volume)
        if record is None:
            return
        process = DiskProcess(self._roots, record.tenant, place_of(Path(record.path)).socket)
        try:
            with process.qmp() as qmp:
                keep_only(qmp, volume, set())
        except BackcastError as err:
            log.warning("bitmaps not removed", extra={"volume": str(volume), "detail": str(err)})
            return
        self._records.remove("volumes", volume)

    def _let_go(self, process: DiskProcess, names: ViewNames, node: str) -> None:
        """Remove what was made for a view."""
        self._views.end(names)
        try:
            with self._views.changing(process.socket), process.qmp() as qmp:
                with contextlib.suppress(BackcastError):  # it only spares the guest a wait
                    process.flush(qmp, node, names)
                self._views.remove(process, qmp)
        finally:
            self._views.close_scratch(names)

    def _settle(self) -> None:
        """Remove what processes before this one have left; what cannot be reached stays noted."""
        for tenant, socket in self._views.left_over():
            process = DiskProcess(self._roots, tenant, socket, _START_PATIENCE_SECONDS)
            try:
                with process.qmp() as qmp:
                    self._views.remove(process, qmp)
            except BackcastError as err:
                about = {"path": str(socket), "detail": str(err)}
                log.warning("disks of a VM not let go; the next capture does it", extra=about)


_: type[Driver] = QemuDriver
