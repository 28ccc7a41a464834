"""What a QEMU process says of its nodes, as far as this driver needs it. Values only.

Which node lies on which is told by `x-debug-query-block-graph` alone, which QEMU has had since 4.0
and calls experimental. What of an answer is missing or odd makes the disk unknown, never another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from libs.errors import SourceError
from services.change_capture.drivers.qemu.names import is_made
from services.change_capture.drivers.qemu.qmp import Document, QmpConnection, understanding

#: Drivers that hand each byte on, so that the bytes are those of the node below.
_FILTERS = frozenset(
    {"copy-before-write", "backup-top", "throttle", "copy-on-read", "preallocate", "compress"}
)


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of a node."""

    name: str
    #: Whether it notes writes.
    is_recording: bool
    #: Whether it was not saved, so that nobody knows what it has.
    is_inconsistent: bool
    #: Whether something uses it now.
    is_busy: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the block graph."""

    name: str
    driver: str
    size_bytes: int
    allocated_bytes: int
    filename: str
    #: Whether its format can keep bitmaps.
    keeps_bitmaps: bool
    bitmaps: tuple[Bitmap, ...]
    detect_zeroes: str
    is_direct: bool
    is_unflushed: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of a process, and the one on which each lies."""

    nodes: dict[str, Node]
    #: Name of a node → name of the node that it reads through.
    below: dict[str, str]
    #: Device → name of its node.
    devices: dict[str, str]

    def disk_below(self, name: str) -> Node | None:
        """The node that has the bytes of ``name``, below all filters."""
        for _ in range(len(self.nodes)):
            node = self.nodes.get(name)
            if node is None or not (node.driver in _FILTERS or is_made(name)):
                return node
            name = self.below.get(name, "")
        return None


def graph_of(qmp: QmpConnection) -> Graph:
    """The graph as it is now.

    Raises:
        SourceError: QEMU refuses to tell.
        UnavailableError: it does not answer.
        DamagedDataError: the answer is not what it should be.
    """
    with understanding("nodes"):
        nodes = {one.name: one for one in _nodes(qmp.execute("query-named-block-nodes", flat=True))}
        below = dict(_below(qmp.execute("x-debug-query-block-graph")))
        devices = dict(_devices(qmp.execute("query-block")))
        return Graph(nodes, below, devices)


def node_of_device(graph: Graph, device: str) -> str:
    """The name of the node that a device has.

    Raises:
        SourceError: there is no such device, or it has no node with a name.
    """
    for path in (device, f"{device}/virtio-backend"):
        if name := graph.devices.get(path):
            return name
    known = ", ".join(sorted(graph.devices)) or "none"
    raise SourceError(f"device {device}: the VM has no such device with a disk; it has {known}")


def _nodes(told: list[Document]) -> Iterator[Node]:
    for one in told:
        image, cache = one["image"], one["cache"]
        data = image.get("format-specific", {}).get("data", {})
        yield Node(
            name=str(one["node-name"]),
            driver=str(one["drv"]),
            size_bytes=int(image["virtual-size"]),
            allocated_bytes=int(image.get("actual-size", image["virtual-size"])),
            filename=str(image["filename"]),
            # The first version of qcow2 has no place for them.
            keeps_bitmaps=one["drv"] == "qcow2" and data.get("compat") != "0.10" and not one["ro"],
            bitmaps=tuple(_bitmaps(one.get("dirty-bitmaps", []))),
            detect_zeroes=str(one.get("detect_zeroes", "off")),
            is_direct=bool(cache["direct"]),
            is_unflushed=bool(cache["no-flush"]),
        )


def _bitmaps(told: list[Document]) -> Iterator[Bitmap]:
    for one in told:
        if "name" in one:  # those of jobs have none
            yield Bitmap(
                name=str(one["name"]),
                is_recording=bool(one["recording"]),
                is_inconsistent=bool(one.get("inconsistent", False)),
                is_busy=bool(one["busy"]),
            )


def _below(told: Document) -> Iterator[tuple[str, str]]:
    names = {one["id"]: one["name"] for one in told["nodes"] if one["type"] == "block-driver"}
    for edge in told["edges"]:
        if edge["name"] == "file" and edge["parent"] in names and edge["child"] in names:
            yield names[edge["parent"]], names[edge["child"]]


def _devices(told: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for one in told:
        if one.get("qdev") and one.get("inserted", {}).get("node-name"):
            # A device is told by its path, or by its id alone (`-device scsi-hd,id=ID`).
            told_as = str(one["qdev"])
            path = told_as if told_as.startswith("/") else f"/machine/peripheral/{told_as}"
            yield path, str(one["inserted"]["node-name"])
