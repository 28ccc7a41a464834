"""Where a disk is: the QMP socket of the process that serves it, and its name there.

A volume's path leads through the socket: ``/run/vms/web.qmp/NODE`` for a node, and
``/run/vms/web.qmp/machine/peripheral/ID`` for a device of a VM. That of a VM itself is told by
`libs.machines.places`.
"""

from dataclasses import dataclass
from pathlib import Path

from libs.machines.places import machine_of

#: Where QEMU has devices: those with an id, and those without.
_DEVICES = ("peripheral", "peripheral-anon")


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """A disk of a process."""

    socket: Path
    #: Name of a node, or absolute path of a device.
    disk: str

    @property
    def is_device(self) -> bool:
        """Whether it is a device of a VM."""
        return is_device(self.disk)


def is_device(disk: str) -> bool:
    """Whether the name of a disk is that of a device of a VM."""
    return disk.startswith("/")


def socket_of(path: Path) -> Path:
    """The QMP socket that a volume's path leads through."""
    machine = machine_of(path)
    return machine.socket if machine else place_of(path).socket


def disk_path(machine: Path, device: str) -> Path:
    """The path of a disk of a VM as a volume.

    Args:
        machine: path of the volume that is the VM's definition.
        device: absolute path of the disk's device.
    """
    return socket_of(machine) / device.removeprefix("/")


def place_of(path: Path) -> DiskPlace:
    """Where the path of a disk leads to."""
    parts = path.parts
    for at in range(len(parts) - 2, 0, -1):
        if parts[at] == "machine" and parts[at + 1] in _DEVICES:
            return DiskPlace(Path(*parts[:at]), "/" + "/".join(parts[at:]))
    return DiskPlace(path.parent, path.name)
