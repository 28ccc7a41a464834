"""Bitmaps that are kept from capture to capture, and the tracker that reads them."""

import contextlib
import logging
from collections.abc import Iterator
from uuid import UUID

from libs.errors import BackcastError, SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.export import STATE_DIRTY, dirty_bitmap
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.everything import AllChanged, EverythingTracker
from services.change_capture.drivers.port import (
    Candidate,
    Comparison,
    SourceOrder,
    Tracker,
    TrackingLost,
    Trust,
)
from services.change_capture.drivers.qemu.cut import remove_bitmap
from services.change_capture.drivers.qemu.graph import graph_of
from services.change_capture.drivers.qemu.names import KeptName, device_digest, kept_name
from services.change_capture.drivers.qemu.process import add_export, delete_exports
from services.change_capture.drivers.qemu.qmp import QmpConnection
from services.change_capture.drivers.qemu.view import QemuView

log = logging.getLogger(__name__)

#: Of a stretch at least so long it is asked whether it is zeros; shorter ones are just read.
_ASKED_SIZE_BYTES_MIN = 4 << 20


class BitmapTracker:
    """Names the chunks that a copy of the base's bitmap has.

    Args:
        order: what is captured.
        view: its view.
    """

    def __init__(self, order: SourceOrder, view: QemuView) -> None:
        self._order = order
        self._view = view
        self._changes: NbdConnection | None = None
        self.lost = self._open_base()
        self._everything = EverythingTracker(view, self.lost)

    @property
    def trust(self) -> Trust:
        """As the port says."""
        return "candidates" if self._changes else "everything"

    def candidates(self) -> Iterator[Candidate]:
        """As the port says.

        Raises:
            SourceError: the process does not tell.
        """
        return self._dirty(self._changes) if self._changes else self._everything.candidates()

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        return AllChanged(tells_zeros=self._changes is not None)

    def finish(self) -> None:
        """Keep the bitmap of this cut; where that fails, the next capture compares everything."""
        order, view = self._order, self._view
        try:
            with view.process.qmp() as qmp:
                _keep(qmp, view, KeptName(order.volume, order.session, _device(view)))
        except BackcastError as err:
            self._warn("bitmap not kept: the next capture compares everything", err)

    def settle(self, *, sealed: bool) -> None:
        """Keep the bitmap of what was sealed, or that of the base."""
        order = self._order
        base = {order.base} if order.base else set()
        try:
            with self._view.process.qmp() as qmp:
                keep_only(qmp, order.volume, {order.session} if sealed else base)
        except BackcastError as err:
            self._warn("bitmaps not removed; the next capture removes them", err)

    def close(self) -> None:
        """End the export of the copy, and remove it."""
        changes, self._changes = self._changes, None
        if changes is None:
            return
        changes.close()
        view = self._view
        try:
            with view.process.qmp() as qmp:
                delete_exports(qmp, [view.names.changes])
                remove_bitmap(qmp, view.node, view.names.changes)
        except BackcastError as err:  # it is removed with the view
            self._warn("copy of a bitmap not removed", err)

    def _open_base(self) -> TrackingLost | None:
        order, view = self._order, self._view
        if order.base is None:
            return None
        with view.process.qmp() as qmp:
            keep_only(qmp, order.volume, {order.base, order.session})
            if not order.is_trusted:
                text = f"the bitmap since base {order.base} was found untrue"
                return TrackingLost("distrusted", text)
            found = base_bitmap(qmp, order.volume, order.base, view)
            if isinstance(found, TrackingLost):
                return found
            _export_copy(qmp, view, found)
        name = view.names.changes
        self._changes = view.process.read_export(name, [dirty_bitmap(name)])
        return None

    def _dirty(self, changes: NbdConnection) -> Iterator[Candidate]:
        size_bytes = self._view.size_bytes
        done = 0
        for extent in changes.extents(dirty_bitmap(self._view.names.changes)):
            if not extent.flags & STATE_DIRTY:
                continue
            first = max(done, extent.offset // CHUNK_SIZE_BYTES * CHUNK_SIZE_BYTES)
            done = -(-min(extent.end, size_bytes) // CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES
            if done > first:
                yield from self._split(ByteRange(first, done))

    def _split(self, dirty: ByteRange) -> Iterator[Candidate]:
        """A stretch, without reading what of it was discarded."""
        if dirty.length < _ASKED_SIZE_BYTES_MIN:
            yield Candidate(dirty)
            return
        at = dirty.start
        for data in self._view.data(dirty.start, dirty.end):
            if data.start > at:
                yield Candidate(ByteRange(at, data.start), is_hole=True)
            yield Candidate(data)
            at = data.end
        if at < dirty.end:
            yield Candidate(ByteRange(at, dirty.end), is_hole=True)

    def _warn(self, what: str, err: BackcastError) -> None:
        log.warning(what, extra={"volume": str(self._order.volume), "detail": str(err)})


def base_bitmap(
    qmp: QmpConnection, volume: UUID, base: UUID, view: QemuView
) -> KeptName | TrackingLost:
    """The bitmap of what was written since a base; or why it is of no use.

    Raises:
        BackcastError: the process does not tell.
    """
    node = graph_of(qmp).nodes.get(view.node)
    bitmaps = {} if node is None else {bitmap.name: bitmap for bitmap in node.bitmaps}
    kept = [name for text in bitmaps if (name := kept_name(text)) and name.volume == volume]
    found = next((name for name in kept if name.session == base), None)
    disk = f"disk {view.place.disk} of {view.place.socket}"
    if found is None:
        return TrackingLost(
            "unknown",
            f"{disk} has no bitmap of base {base}; was the VM restarted? Only a disk in a qcow2 "
            f"file keeps bitmaps then",
        )
    if found.device != _device(view):
        return TrackingLost(
            "another-device",
            f"{disk} is another one than at base {base}, or was resized: {view.identity} now",
        )
    bitmap = bitmaps[str(found)]
    if bitmap.is_inconsistent:
        with contextlib.suppress(SourceError):  # nothing else can be done with it
            remove_bitmap(qmp, view.node, bitmap.name)
        return TrackingLost("unclean", f"{disk}: its process did not end cleanly since base {base}")
    if not bitmap.is_recording:
        return TrackingLost("unclean", f"{disk}: somebody disabled the bitmap of base {base}")
    return found


def keep_only(qmp: QmpConnection, volume: UUID, sessions: set[UUID]) -> None:
    """Remove a volume's bitmaps of other sessions, on all disks of the process.

    Raises:
        BackcastError: the process does not answer.
    """
    for node in graph_of(qmp).nodes.values():
        for bitmap in node.bitmaps:
            name = kept_name(bitmap.name)
            if name and name.volume == volume and name.session not in sessions:
                with contextlib.suppress(
                    SourceError
                ):  # in use by somebody; the next one removes it
                    remove_bitmap(qmp, node.name, bitmap.name)


def _export_copy(qmp: QmpConnection, view: QemuView, kept: KeptName) -> None:
    """Export a copy of a bitmap that goes on to record.

    What was written before the cut had been noted before it, as the cut let all writes end.
    """
    copy = view.names.changes
    added = {"node": view.node, "name": copy, "granularity": CHUNK_SIZE_BYTES, "disabled": True}
    merged = {"node": view.node, "target": copy, "bitmaps": [str(kept)]}
    actions = [
        {"type": "block-dirty-bitmap-add", "data": added},
        {"type": "block-dirty-bitmap-merge", "data": merged},
    ]
    qmp.execute("transaction", actions=actions)
    add_export(qmp, copy, view.names.access, {"node": view.node, "name": copy})


def _keep(qmp: QmpConnection, view: QemuView, kept: KeptName) -> None:
    """Let the bitmap of the cut be the kept one; both record until all of it is copied."""
    node = graph_of(qmp).nodes.get(view.node)
    added = {
        "node": view.node,
        "name": str(kept),
        "granularity": CHUNK_SIZE_BYTES,
        "persistent": node is not None and node.keeps_bitmaps,
    }
    merged = {"node": view.node, "target": str(kept), "bitmaps": [view.names.since_cut]}
    removed = {"node": view.node, "name": view.names.since_cut}
    actions = [
        {"type": "block-dirty-bitmap-add", "data": added},
        {"type": "block-dirty-bitmap-merge", "data": merged},
        {"type": "block-dirty-bitmap-remove", "data": removed},
    ]
    qmp.execute("transaction", actions=actions)


def _device(view: QemuView) -> str:
    return device_digest(view.identity)


_: type[Tracker] = BitmapTracker
