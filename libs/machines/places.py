"""Where a VM is: the path of the volume that is its definition leads through its QMP socket.

``/run/vms/web.qmp/machine`` is the VM at ``/run/vms/web.qmp``;
``/run/vms/web.qmp/machine/tpm/srv/tpm/web`` is the same with the state of its TPM, which is in the
file ``/srv/tpm/web``.
"""

from dataclasses import dataclass
from pathlib import Path

_MACHINE = "machine"
_TPM = "tpm"


@dataclass(frozen=True, slots=True)
class MachinePlace:
    """A VM."""

    socket: Path
    #: The file with the state of its TPM, or None.
    tpm_state: Path | None


def machine_path(socket: Path, tpm_state: Path | None) -> Path:
    """The path of the volume that is the definition of a VM."""
    return socket / _MACHINE / _TPM / tpm_state.relative_to("/") if tpm_state else socket / _MACHINE


def machine_of(path: Path) -> MachinePlace | None:
    """The VM that a volume's path leads to; None: it is a disk, or no path of this driver."""
    parts = path.parts
    if parts[-1:] == (_MACHINE,):
        return MachinePlace(path.parent, None)
    for at in range(1, len(parts) - 2):
        if parts[at : at + 2] == (_MACHINE, _TPM):
            return MachinePlace(Path(*parts[:at]), Path("/", *parts[at + 2 :]))
    return None
