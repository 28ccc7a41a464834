"""Reads the definition of a VM around the cut of its disks.

QEMU is asked just before the cut, in the conversation that cuts: nobody else can change the VM by
this socket meanwhile. Files that the guest writes to are read before and after the cut. If they are
the same and were not changed in between, they are as they were at the cut.
"""

from collections.abc import Mapping

from libs.errors import BadInputError, SourceError
from libs.machines.archive import pack_archive
from libs.machines.definition import Definition, Flash
from libs.machines.places import MachinePlace
from services.change_capture.drivers.local.cloned import Consistency
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.qemu.machine.command_line import command_line
from services.change_capture.drivers.qemu.machine.files import FileRead, files_of, is_kept
from services.change_capture.drivers.qemu.machine.telling import told_machine
from services.change_capture.drivers.qemu.machine.view import MachineView
from services.change_capture.drivers.qemu.qmp import QmpConnection


class MachineReading:
    """The definition of a VM, of the moment in which this is made.

    Args:
        roots: what may be opened.
        tenant: for whom.
        place: the VM.
        qmp: a conversation with it.

    Raises:
        SourceError: there is no VM, or a file of it is not open to the tenant.
        BackcastError: as `told_machine`.
    """

    def __init__(self, roots: Roots, tenant: str, place: MachinePlace, qmp: QmpConnection) -> None:
        self._roots = roots
        self._tenant = tenant
        self._place = place
        self._told = told_machine(qmp)
        self._options = command_line(qmp.process, qmp.user, place.socket)
        self._files = self._read()

    def view(self, *, is_frozen: bool) -> MachineView:
        """Its view, after the cut.

        Args:
            is_frozen: whether all that was cut with it is of the same moment.

        Raises:
            SourceError: QEMU has said what no VM has.
        """
        contents = {name: file.content for name, file in self._files.items()}
        try:
            packed = pack_archive(self._definition(), contents)
        except BadInputError as err:
            raise SourceError(f"QMP socket {self._place.socket}: {err}") from err
        identity = f"qemu-vm:{self._place.socket}"
        return MachineView(packed, identity, self._consistency(is_frozen=is_frozen))

    def _consistency(self, *, is_frozen: bool) -> Consistency:
        if not is_frozen:
            return "unvouched"
        if not self._files:
            return "frozen"
        return "quiet" if self._read() == self._files else "fuzzy"

    def _read(self) -> Mapping[str, FileRead]:
        return files_of(self._told.flash, self._place.tpm_state, self._roots, self._tenant)

    def _definition(self) -> Definition:
        told, (options, withheld) = self._told, self._options
        flash = [
            Flash(
                unit=one.unit,
                is_read_only=one.is_read_only,
                format="qcow2" if one.format == "qcow2" else "raw",
                file=one.file,
                is_kept=is_kept(one),
            )
            for one in told.flash
        ]
        state = self._place.tpm_state
        return Definition(
            qemu=told.qemu,
            architecture=told.architecture,
            machine=told.machine,
            memory_bytes=told.memory_bytes,
            cpu_count=told.cpu_count,
            uuid=told.uuid,
            name=told.name,
            options=options,
            withheld=withheld,
            disks=told.disks,
            flash=tuple(flash),
            tpm_state=None if state is None else str(state),
        )
