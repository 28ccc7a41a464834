"""What a QEMU process says of its VM. A guest may have taken over whoever answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from libs.errors import DamagedDataError, SourceError
from libs.machines.definition import DISK_COUNT_MAX, MachineDisk
from services.change_capture.drivers.qemu.graph import Graph, graph_of, node_of_device
from services.change_capture.drivers.qemu.place import is_device
from services.change_capture.drivers.qemu.qmp import Document, QmpConnection, understanding

_FLASH = "/machine/system.flash"
_BACKEND = "/virtio-backend"
_PERIPHERAL = ("/machine/peripheral/", "/machine/peripheral-anon/")


@dataclass(frozen=True, slots=True)
class FlashTold:
    """A flash device."""

    unit: int
    file: str
    format: str
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class MachineTold:
    """What a process says of its VM."""

    qemu: str
    architecture: str
    machine: str
    memory_bytes: int
    cpu_count: int
    uuid: str
    name: str
    disks: tuple[MachineDisk, ...]
    flash: tuple[FlashTold, ...]


def told_machine(qmp: QmpConnection) -> MachineTold:
    """Ask for a VM.

    Raises:
        SourceError: the process has none, or one that cannot be protected as a whole.
        UnavailableError: it does not answer.
        DamagedDataError: the answer is not as QEMU's.
    """
    try:
        processors = qmp.execute("query-cpus-fast")
    except SourceError as err:
        raise SourceError(
            f"the process has no VM ({err}); add disks of `qemu-storage-daemon` one by one, with "
            f"`backcast volume add`"
        ) from err
    with understanding("the VM"):
        version = qmp.execute("query-version")
        qemu = version["qemu"]
        memory = qmp.execute("query-memory-size-summary")
        return MachineTold(
            qemu=f"{int(qemu['major'])}.{int(qemu['minor'])}.{int(qemu['micro'])}",
            architecture=str(qmp.execute("query-target")["arch"]),
            machine=str(qmp.execute("qom-get", path="/machine", property="type")),
            memory_bytes=int(memory["base-memory"]) + int(memory.get("plugged-memory", 0)),
            cpu_count=len(processors),
            uuid=str(qmp.execute("query-uuid")["UUID"]),
            name=str(qmp.execute("query-name").get("name", "")),
            disks=told_disks(qmp),
            flash=tuple(_flash(qmp.execute("query-block"))),
        )


def told_disks(qmp: QmpConnection) -> tuple[MachineDisk, ...]:
    """The disks that the guest can write to.

    Raises:
        SourceError: one of them cannot be told by a name that lasts, or there are too many.
        BackcastError: as `told_machine`.
    """
    with understanding("disks"):
        found = tuple(_disks(qmp, graph_of(qmp), qmp.execute("query-block")))
    if len(found) > DISK_COUNT_MAX:
        raise SourceError(f"the VM has {len(found)} disks; expected at most {DISK_COUNT_MAX}")
    return found


def _disks(qmp: QmpConnection, graph: Graph, told: list[Document]) -> Iterator[MachineDisk]:
    for one in told:
        inserted = one.get("inserted")
        if not inserted or inserted["ro"] or not one.get("qdev"):
            continue
        named = str(one["qdev"])
        if named.startswith(_FLASH):
            continue
        device = (named if is_device(named) else f"{_PERIPHERAL[0]}{named}").removesuffix(_BACKEND)
        if not device.startswith(_PERIPHERAL):
            raise SourceError(
                f"disk {inserted.get('file') or inserted['node-name']}: its device {device} has no "
                f"id, so nothing tells it from others; give it to the VM by `-device …,id=ID`"
            )
        if not _is_there(qmp, device):  # unplugged, and QEMU has not freed it yet
            continue
        node = graph.disk_below(node_of_device(graph, device))
        if node is None:
            raise SourceError(f"device {device}: its disk cannot be told among its filters")
        kind = str(qmp.execute("qom-get", path=device, property="type"))
        disk = MachineDisk(
            device=device,
            kind=kind,
            size_bytes=node.size_bytes,
            format=node.driver,
            file=node.filename,
        )
        yield _checked(disk)


def _is_there(qmp: QmpConnection, device: str) -> bool:
    folder, _, name = device.rpartition("/")
    return any(one["name"] == name for one in qmp.execute("qom-list", path=folder))


def _checked(disk: MachineDisk) -> MachineDisk:
    """A disk with fields within their bounds: its device is asked for and becomes a name."""
    try:
        return msgspec.convert(msgspec.to_builtins(disk), MachineDisk)
    except msgspec.ValidationError as err:
        raise DamagedDataError(f"QMP: the answer about disks is not as QEMU's: {err}") from err


def _flash(told: list[Document]) -> Iterator[FlashTold]:
    for one in told:
        inserted = one.get("inserted")
        if not inserted or not str(one.get("qdev", "")).startswith(_FLASH):
            continue
        is_qcow2 = inserted["drv"] == "qcow2"
        yield FlashTold(
            unit=int(str(one["qdev"]).removeprefix(_FLASH)),
            file=str(inserted["image"]["filename"]),
            format="qcow2" if is_qcow2 else "raw",
            is_read_only=bool(inserted["ro"]),
        )
