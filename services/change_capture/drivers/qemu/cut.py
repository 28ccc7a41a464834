"""Freezes disks without holding their guest: copy-before-write, beside it a bitmap.

Order, for each disk: the bitmap of what is written since → the scratch file's node → the link, and
on it the filter → a top node for a device. Then the writes of all disks are led through their
filters, **which is the cut**. Then, for each disk: the access node → its export. What was written
between the bitmap and the cut is in the frozen bytes and in the bitmap, so the next capture reads
it once more. A crash of this process leaves what there was, and `let_go` removes any part of it. A
crash of QEMU leaves nothing, as all of this is in its memory.

Several disks of one process are cut at one instant, by one `blockdev-reopen` of all top nodes. It
lets the writes of all of them end before it changes the first, and none begin before it has changed
the last.

A disk may have several views at once, one on the other. The link is there for that: QEMU can put
another node below a link, and cannot below a filter.

If a copy fails (the scratch file has no room, or is too slow), the filter fails all reads of the
frozen bytes from then on, and none of the guest's writes. The scratch file has no name once QEMU
has it open. It is freed when QEMU and the agent have closed it; the agent comes last, as freeing
takes a while and QEMU would let the guest wait (measured: 0.13 s).
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.graph import Graph, Node, graph_of, node_of_device
from services.change_capture.drivers.qemu.names import ViewNames, view_of
from services.change_capture.drivers.qemu.place import DiskPlace, is_device
from services.change_capture.drivers.qemu.process import (
    DiskProcess,
    add_export,
    delete_exports,
    exports_of,
)
from services.change_capture.drivers.qemu.qmp import QmpConnection, understanding

#: A copy that takes longer has failed: a guest waits for a slow scratch file no longer than that.
_COPY_SECONDS_MAX = 10
#: Of the scratch file, which nobody needs after a crash; else its guest waits for it at the end.
_NEVER_FLUSHED = {"no-flush": True}


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


@dataclass(frozen=True, slots=True)
class Freezing:
    """A disk that is to be cut."""

    #: As it is now.
    disk: Disk
    #: Of what is made.
    names: ViewNames
    #: Makes the file of what the guest overwrites, of a size and for a user; where it is.
    make_scratch: Callable[[int, int], Path]


def freeze(process: DiskProcess, qmp: QmpConnection, disks: Sequence[Freezing]) -> None:
    """Cut disks of one process at one instant, and export their frozen bytes.

    Args:
        process: the process, which has an NBD server.
        qmp: a conversation with it.
        disks: what is cut.

    Raises:
        SourceError: QEMU refuses a step.
        OutOfSpaceError: there is no room for a scratch file.
        UnavailableError: it cannot be made, or QEMU does not answer.
    """
    tops = {_prepare(qmp, one): one.names.filter for one in disks}
    for one in disks:
        process.flush(qmp, one.disk.node.name, one.names)
    _lead(qmp, graph_of(qmp), tops)
    for one in disks:
        access = one.names.access
        qmp.execute(
            "blockdev-add", driver="snapshot-access", node_name=access, file=one.names.filter
        )
        add_export(qmp, one.names.export, access)


def _prepare(qmp: QmpConnection, one: Freezing) -> str:
    """All that comes before the cut; the node that is to lie on the filter."""
    disk, names = one.disk, one.names
    qmp.execute(
        "block-dirty-bitmap-add",
        node=disk.node.name,
        name=names.since_cut,
        granularity=CHUNK_SIZE_BYTES,
    )
    scratch = one.make_scratch(disk.node.size_bytes, qmp.user)
    try:
        qmp.execute(
            "blockdev-add", driver="file", node_name=names.scratch, filename=str(scratch),
            discard="unmap", cache=_NEVER_FLUSHED,
        )  # fmt: skip
    finally:
        scratch.unlink(missing_ok=True)
    plain = {"driver": "raw", "file": disk.under, "discard": "unmap"}
    qmp.execute("blockdev-add", node_name=names.link, **plain)
    qmp.execute(
        "blockdev-add", driver="copy-before-write", node_name=names.filter, file=names.link,
        target=names.scratch, on_cbw_error="break-snapshot", cbw_timeout=_COPY_SECONDS_MAX,
        discard="unmap",
    )  # fmt: skip
    if not is_device(disk.top):
        return disk.top
    qmp.execute("blockdev-add", node_name=names.top, **plain)
    _give(qmp, disk.top, names.top)
    return names.top


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

    delete_exports(qmp, filter(goes, exports_of(qmp)))
    nodes = graph_of(qmp).nodes
    for view in sorted({str(view_of(name, agent)) for name in nodes if goes(name)}):
        with understanding("nodes"):
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
    nodes = graph_of(qmp).nodes
    if names.access in nodes:
        qmp.execute("blockdev-del", node_name=names.access)
    _lead_past(qmp, names.filter, names.link)
    _lead_past(qmp, names.top, names.top)
    for name in (names.top, names.filter, names.link, names.scratch):
        if name in nodes:
            qmp.execute("blockdev-del", node_name=name)


def _lead_past(qmp: QmpConnection, upper: str, lower: str) -> None:
    """Let whatever lies on the upper node lie on what is below the lower one."""
    graph = graph_of(qmp)
    if upper not in graph.nodes:
        return
    under = graph.below[lower]
    for device, node in graph.devices.items():
        if node == upper:
            _give(qmp, device, under)
    _lead(qmp, graph, {above: under for above, node in graph.below.items() if node == upper})


def _give(qmp: QmpConnection, device: str, node: str) -> None:
    """Let a device read and write through another node; writes in flight end before."""
    qmp.execute("qom-set", path=device, property="drive", value=node)


def _lead(qmp: QmpConnection, graph: Graph, tops: Mapping[str, str]) -> None:
    """Let top nodes lie on other nodes, all at one instant; writes in flight end before."""
    # What is not said goes back to its default. Whether a discard goes on decides the node below.
    options = [
        {
            "driver": "raw",
            "node-name": top,
            "file": under,
            "discard": "unmap",
            "detect-zeroes": graph.nodes[top].detect_zeroes,
            "cache": {
                "direct": graph.nodes[top].is_direct,
                "no-flush": graph.nodes[top].is_unflushed,
            },
        }
        for top, under in tops.items()
    ]
    if options:
        qmp.execute("blockdev-reopen", options=options)
