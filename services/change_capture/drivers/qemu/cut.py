"""Freezes a disk without holding its guest: copy-before-write, beside it a bitmap.

Order: the bitmap of what is written since → the scratch file's node → the link, and on it the
filter → the guest's writes go through the filter, **which is the cut** → the access node → its
export. What was written between the bitmap and the cut is in the frozen bytes and in the bitmap, so
the next capture reads it once more. A crash of this process leaves what there was, and `let_go`
removes any part of it. A crash of QEMU leaves nothing, as all of this is in its memory.

A disk may have several views at once, one on the other. The link is there for that: QEMU can put
another node below a link, and cannot below a filter.

If a copy fails (the scratch file has no room), the filter fails all reads of the frozen bytes from
then on, and none of the guest's writes. The scratch file has no name once QEMU has it open, so it
is freed with the node, or with the process.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from libs.errors import OutOfSpaceError, SourceError, UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.graph import Graph, Node, graph_of, node_of_device
from services.change_capture.drivers.qemu.names import ViewNames, view_of
from services.change_capture.drivers.qemu.place import DiskPlace
from services.change_capture.drivers.qemu.process import delete_exports
from services.change_capture.drivers.qemu.qmp import QmpConnection


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it is found in its process."""

    #: Device or node whose writes are led through a filter: what the guest has.
    top: str
    #: Name of the node that `top` reads through now.
    under: str
    #: The node that has bytes and bitmaps.
    node: Node


def find_disk(graph: Graph, place: DiskPlace) -> Disk:
    """Find a disk.

    Raises:
        SourceError: it is not there, or nothing can be put between it and its guest.
    """
    what = f"disk {place.disk} of {place.socket}"
    if place.is_device:
        under = node_of_device(graph, place.disk)
    else:
        top = graph.nodes.get(place.disk)
        under = graph.below.get(place.disk, "")
        if top is None:
            raise SourceError(f"{what}: the process has no node of this name")
        if top.driver != "raw" or under not in graph.nodes:
            raise SourceError(
                f"{what}: it is of the driver {top.driver}; give a node of the driver `raw` that "
                f"lies on the disk's node and that the guest uses, or a device of the VM"
            )
    node = graph.disk_below(under)
    if node is None or not node.name:
        raise SourceError(f"{what}: its own node cannot be told among the filters on it")
    if not place.is_device and graph.nodes[place.disk].size_bytes != node.size_bytes:
        raise SourceError(f"{what}: it shows a part of {node.name}; expected all of it")
    return Disk(place.disk, under, node)


def freeze(qmp: QmpConnection, disk: Disk, names: ViewNames, scratch: Path) -> None:
    """Cut a disk, and export its frozen bytes.

    Args:
        qmp: the process.
        disk: as it is now, without what an earlier view has left on it.
        names: of what is made.
        scratch: where the file of what the guest overwrites is made.

    Raises:
        SourceError: QEMU refuses a step.
        OutOfSpaceError: there is no room for the scratch file.
        UnavailableError: it cannot be made, or QEMU does not answer.
    """
    graph = graph_of(qmp)
    qmp.execute(
        "block-dirty-bitmap-add",
        node=disk.node.name,
        name=names.since_cut,
        granularity=CHUNK_SIZE_BYTES,
    )
    _make_scratch(scratch, disk.node.size_bytes, qmp.user)
    try:
        qmp.execute(
            "blockdev-add", driver="file", node_name=names.scratch, filename=str(scratch),
            discard="unmap",
        )  # fmt: skip
    finally:
        scratch.unlink(missing_ok=True)
    qmp.execute(
        "blockdev-add", driver="raw", node_name=names.link, file=disk.under, discard="unmap"
    )
    qmp.execute(
        "blockdev-add", driver="copy-before-write", node_name=names.filter, file=names.link,
        target=names.scratch, on_cbw_error="break-snapshot", discard="unmap",
    )  # fmt: skip
    _lead(qmp, graph, disk.top, names.filter)
    qmp.execute("blockdev-add", driver="snapshot-access", node_name=names.access, file=names.filter)
    add_export(qmp, names.export, names.access)


def add_export(qmp: QmpConnection, name: str, node: str, *bitmaps: dict[str, str]) -> None:
    """Export a node for reading.

    Raises:
        SourceError: QEMU refuses.
    """
    qmp.execute(
        "block-export-add", type="nbd", id=name, name=name, node_name=node, writable=False,
        bitmaps=list(bitmaps),
    )  # fmt: skip


def let_go(qmp: QmpConnection, agent: str, is_left: Callable[[str], bool]) -> None:
    """Remove what was made for views, whatever of it there is; the guest's writes go as before.

    Args:
        qmp: the process.
        agent: whose views.
        is_left: whether a view of this agent is to go.

    Raises:
        SourceError: QEMU refuses a step.
        UnavailableError: it does not answer.
    """

    def goes(name: str) -> bool:
        view = view_of(name, agent)
        return view is not None and is_left(view)

    exports = [str(one["id"]) for one in qmp.execute("query-block-exports")]
    delete_exports(qmp, filter(goes, exports))
    nodes = graph_of(qmp).nodes
    for view in sorted({str(view_of(name, agent)) for name in nodes if goes(name)}):
        _remove_nodes(qmp, ViewNames(agent, view))
    for node in nodes.values():
        for bitmap in node.bitmaps:
            if goes(bitmap.name):
                with contextlib.suppress(SourceError):  # a filter shows those of its disk, too
                    remove_bitmap(qmp, node.name, bitmap.name)


def remove_bitmap(qmp: QmpConnection, node: str, name: str) -> None:
    """Remove a bitmap.

    Raises:
        SourceError: it is in use, or not there.
    """
    qmp.execute("block-dirty-bitmap-remove", node=node, name=name)


def _remove_nodes(qmp: QmpConnection, names: ViewNames) -> None:
    """Remove the nodes of a view from the top down; what lies on its filter lies on its disk then.

    Another view's nodes may be above them, or below.
    """
    graph = graph_of(qmp)
    if names.access in graph.nodes:
        qmp.execute("blockdev-del", node_name=names.access)
    if names.filter in graph.nodes:
        under = graph.below[names.link]
        tops = [device for device, node in graph.devices.items() if node == names.filter]
        tops += [above for above, node in graph.below.items() if node == names.filter]
        for top in tops:
            if top != names.access:
                _lead(qmp, graph, top, under)
    for name in (names.filter, names.link, names.scratch):
        if name in graph.nodes:
            qmp.execute("blockdev-del", node_name=name)


def _lead(qmp: QmpConnection, graph: Graph, top: str, under: str) -> None:
    """Let a device or a node read and write through another node; writes in flight end before."""
    if top.startswith("/"):
        qmp.execute("qom-set", path=top, property="drive", value=under)
        return
    node = graph.nodes[top]
    # What is not said goes back to its default. Whether a discard goes on decides the node below.
    options = {
        "driver": "raw",
        "node-name": top,
        "file": under,
        "discard": "unmap",
        "detect-zeroes": node.detect_zeroes,
        "cache": {"direct": node.is_direct, "no-flush": node.is_unflushed},
    }
    qmp.execute("blockdev-reopen", options=[options])


def _make_scratch(path: Path, size_bytes: int, user: int) -> None:
    """An empty sparse file that QEMU's user may write to."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, size_bytes)
            if user != os.geteuid():
                os.chown(descriptor, user, -1)
        finally:
            os.close(descriptor)
    except OSError as err:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        about = f"scratch file {path}: {err.strerror}"
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpaceError(f"{about}; free space in the agent's state folder") from err
        raise UnavailableError(
            f"{about}; QEMU's user must own it, so run the agent as root"
        ) from err
