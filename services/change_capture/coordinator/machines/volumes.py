"""VMs: each is a group, with a volume for its definition and one for each of its disks.

Disks come and go while a VM runs. Before a snapshot of its group the VM is asked for its disks: a
new one becomes a volume of the group, and the volume of one that is gone is removed, which keeps
its history. A disk that comes back takes its volume back. Each of these is one transaction of the
catalog. A crash between two leaves volumes that the next look finds.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.catalogdb.notifications.machines import is_protected
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node, Volume, add_volume, find_node, list_volumes
from libs.catalogdb.volumes.removing import remove
from libs.errors import BadInputError, SourceError, UnavailableError
from libs.ids import check_name
from libs.machines.places import machine_of, machine_path
from services.change_capture.coordinator.agents import Agents
from services.change_capture.drivers.local.roots import ALL_TENANTS
from services.change_capture.drivers.qemu.place import socket_of
from services.change_capture.rpc import MachineAnswer

log = logging.getLogger(__name__)

_DRIVER = "qemu"
#: Ends the name of the volume that is a definition.
_DEFINITION = "-definition"
_UNFIT = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class NewMachine:
    """A VM that is to be protected."""

    tenant: str
    #: Of its group; the names of its volumes begin with it.
    name: str
    node: Node
    #: Path of its QMP socket on the node.
    socket: str
    #: Path of the file with the state of its TPM, or None.
    tpm_state: str | None


@dataclass(frozen=True, slots=True)
class DiscoveredMachine:
    """A VM that an agent has found in a root of the tenant."""

    node: str
    socket: str
    #: Names of the tenant's volumes that lead to it.
    volumes: list[str]


def discover_machines(
    catalog: Catalog, agents: Agents, tenant: str, nodes: Sequence[Node]
) -> tuple[list[DiscoveredMachine], list[str]]:
    """The VMs that are open to a tenant on some nodes; and the nodes that do not answer."""
    volumes = list_volumes(catalog, tenant)
    found, silent = list[DiscoveredMachine](), list[str]()
    for node in nodes:
        try:
            told = agents.found_vms(node)
        except (SourceError, UnavailableError):
            silent.append(node.name)
            continue
        sockets = sorted({one.socket for one in told if one.tenant in (ALL_TENANTS, tenant)})
        for socket in sockets:
            names = [
                one.name
                for one in volumes
                if (one.node, one.driver) == (node.name, _DRIVER)
                and is_protected(socket, [one.path])
            ]
            found.append(DiscoveredMachine(node.name, socket, names))
    return found, silent


def ask_machine(agents: Agents, new: NewMachine) -> MachineAnswer:
    """The disks of a VM that is to be protected.

    Raises:
        BadInputError: a path is relative.
        SourceError: the VM cannot be captured.
        UnavailableError: the agent does not answer.
    """
    return agents.machine(new.node, new.tenant, _definition_path(new))


def add_machine(
    catalog: Catalog, new: NewMachine, told: MachineAnswer, *, again: bool
) -> list[Volume]:
    """Protect a VM; adding it again unchanged returns its volumes, the definition first.

    Args:
        catalog: the catalog.
        new: the VM. Its tenant is there.
        told: what it says.
        again: although other volumes have its disks.

    Raises:
        BadInputError: the names of its volumes would be too long, or alike.
        ConflictError: a name is taken, or a disk is protected already, as of `add_volume`.
    """
    wanted = {new.name + _DEFINITION: _definition_path(new)} | _wanted(new.name, told)
    return [
        add_volume(
            catalog, new.tenant, name, new.name, new.node.name, path, driver=_DRIVER, again=again
        )
        for name, path in wanted.items()
    ]


def follow_disks(catalog: Catalog, agents: Agents, tenant: str, group: str) -> None:
    """Let the volumes of a group be the disks that its VMs have now.

    A VM that cannot be asked, or has a disk that cannot be protected, changes nothing here: the cut
    says so, and rejects the session.

    Raises:
        ConflictError: the name of a new disk's volume is taken, or a session of the group is open.
        BadInputError: a new disk has no name that a volume could have.
    """
    volumes = list_volumes(catalog, tenant, group)
    for definition in volumes:
        if not _is_definition(definition):
            continue
        try:
            node = find_node(catalog, definition.node)
            told = agents.machine(node, tenant, definition.path)
        except (SourceError, UnavailableError) as err:
            about = {"tenant": tenant, "group": group, "detail": str(err)}
            log.warning("disks of a VM not looked at", extra=about)
            continue
        removed = list_volumes(catalog, tenant, group, removed=True)
        _remove_gone(catalog, tenant, definition, volumes, told)
        _add_new(catalog, tenant, definition, [*volumes, *removed], told)


def _remove_gone(
    catalog: Catalog,
    tenant: str,
    definition: Volume,
    volumes: list[Volume],
    told: MachineAnswer,
) -> None:
    there = {one.path for one in told.disks}
    for volume in volumes:
        if _is_disk_of(definition, volume) and volume.path not in there:
            remove(catalog, tenant, volume.name, f"vm {_machine_name(definition)}")
            _tell("disk of a VM is gone", tenant, volume.name)


def _add_new(
    catalog: Catalog,
    tenant: str,
    definition: Volume,
    known: list[Volume],
    told: MachineAnswer,
) -> None:
    # One that was there before has its name, whatever it is.
    names = {volume.path: volume for volume in known if _is_disk_of(definition, volume)}
    for name, path in _wanted(_machine_name(definition), told).items():
        was = names.get(path)
        if was is not None and was.removed_at is None:
            continue
        add_volume(
            catalog,
            tenant,
            name if was is None else was.name,
            definition.group,
            definition.node,
            path,
            driver=_DRIVER,
        )
        _tell("disk of a VM joins its group", tenant, name)


def _definition_path(new: NewMachine) -> str:
    for path in filter(None, (new.socket, new.tpm_state)):
        if not path.startswith("/") or ".." in Path(path).parts:
            raise BadInputError(f"path {path!r}: expected an absolute path without '..'")
    return str(machine_path(Path(new.socket), Path(new.tpm_state) if new.tpm_state else None))


def _wanted(machine: str, told: MachineAnswer) -> dict[str, str]:
    """Name of a volume → its path, for each disk of a VM."""
    wanted = dict[str, str]()
    for one in told.disks:
        name = check_name("volume", f"{machine}-{_UNFIT.sub('-', one.name.lower()).strip('-')}")
        if name in wanted or name == machine + _DEFINITION:
            raise BadInputError(
                f"disk {one.name}: another volume of the VM would be {name}, too; give its device "
                f"another id"
            )
        wanted[name] = one.path
    return wanted


def _is_definition(volume: Volume) -> bool:
    return volume.driver == _DRIVER and machine_of(Path(volume.path)) is not None


def _is_disk_of(definition: Volume, volume: Volume) -> bool:
    """Whether a volume is a disk of a VM by the name of its device."""
    devices = socket_of(Path(definition.path)) / "machine"
    return (
        (volume.driver, volume.node) == (_DRIVER, definition.node)
        and Path(volume.path).is_relative_to(devices)
        and not _is_definition(volume)
    )


def _machine_name(definition: Volume) -> str:
    return definition.name.removesuffix(_DEFINITION)


def _tell(what: str, tenant: str, volume: str) -> None:
    log.info(what, extra={"tenant": tenant, "volume": volume})
