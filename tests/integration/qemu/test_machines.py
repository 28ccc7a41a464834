"""The definition of a running VM, as a volume that is cut with its disks."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from libs.errors import SourceError
from libs.machines.archive import unpack_archive
from libs.machines.definition import Definition
from libs.machines.places import machine_path
from services.change_capture.drivers.local.roots import Root, Roots
from services.change_capture.drivers.port import FrozenView, GateOrder
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.qemu.view import QemuView
from services.change_capture.drivers.scan.driver import ScanDriver
from tests.support.driver_sites import VOLUME, Site
from tests.support.qemu import StorageDaemon, VirtualMachine, require_virtual_machines
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Taken

MIB = 1 << 20
SECRET = "hush-hush"


def options_of(folder: Path) -> list[str]:
    """A store of variables, a controller for more disks, and a secret."""
    variables = folder / "variables"
    variables.write_bytes(bytes(range(256)) * 2048)
    firmware = folder / "firmware"
    firmware.write_bytes(bytes(2 * MIB))
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware}",
        "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
        "-device", "virtio-scsi-pci,id=scsi",
        "-object", f"secret,id=s,data={SECRET}",
    ]  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[VirtualMachine]:
    require_virtual_machines()
    made = VirtualMachine(tmp_path, 8 * MIB, options=options_of(tmp_path))
    yield made
    made.close()


@pytest.fixture
def driver(tmp_path: Path) -> QemuDriver:
    return QemuDriver(tmp_path / "state", EVERYTHING)


class DefinitionSite(Site):
    """The definition alone, as a volume."""

    def __init__(self, machine: VirtualMachine, driver: QemuDriver) -> None:
        super().__init__()
        self.driver = driver
        self.path = machine_path(machine.socket, None)

    def write_bytes(self, offset: int, content: bytes) -> None:
        raise NotImplementedError("what a definition says follows from the VM")

    def resize(self, size_bytes: int) -> None:
        raise NotImplementedError("a definition is as long as it is")

    def replace(self) -> None:
        raise NotImplementedError("a definition is that of its VM")


def bytes_of(view: FrozenView) -> bytes:
    with contextlib.closing(view):
        buffer = bytearray(-(-view.size_bytes // 65536) * 65536)
        view.read_into(0, memoryview(buffer))
        return bytes(buffer[: view.size_bytes])


def told(driver: QemuDriver, path: Path) -> tuple[Definition, dict[str, bytes]]:
    return unpack_archive(bytes_of(driver.view(TENANT, path)))


def test_a_definition_says_what_the_vm_is(
    machine: VirtualMachine, driver: QemuDriver, tmp_path: Path
) -> None:
    definition, files = told(driver, machine_path(machine.socket, None))
    assert (definition.architecture, definition.memory_bytes) == ("x86_64", 32 * MIB)
    assert definition.machine.startswith("pc-q35")
    assert [(one.device, one.kind) for one in definition.disks] == [
        ("/machine/peripheral/vd0", "virtio-blk-pci")
    ]
    assert ("device", "virtio-scsi-pci,id=scsi") in definition.options
    assert {"drive", "object", "qmp", "blockdev"} <= {*definition.withheld}
    assert files["flash1"] == (tmp_path / "variables").read_bytes()
    assert SECRET not in str(definition)
    assert told(driver, machine_path(machine.socket, None)) == (definition, files)


def test_the_state_of_its_tpm_is_kept(
    machine: VirtualMachine, driver: QemuDriver, tmp_path: Path
) -> None:
    (tmp_path / "tpm").write_bytes(b"sealed")
    definition, files = told(driver, machine_path(machine.socket, tmp_path / "tpm"))
    assert definition.tpm_state == str(tmp_path / "tpm")
    assert files["tpm-state"] == b"sealed"


def test_disks_and_definition_are_of_one_moment(
    machine: VirtualMachine, driver: QemuDriver
) -> None:
    cut = driver.cut(TENANT, [machine_path(machine.socket, None), machine.volume(0)], is_all=True)
    assert [view.consistency() for view in cut] == ["quiet", "frozen"]
    for view in cut:
        view.close()


def test_a_store_that_is_written_at_the_cut_is_said(
    machine: VirtualMachine, driver: QemuDriver, tmp_path: Path
) -> None:
    """Written after the disks are cut and before it is read again."""
    variables = tmp_path / "variables"

    class Writing(QemuDriver):
        def _cut_disks(self, *arguments: Any) -> Sequence[QemuView]:
            cut = super()._cut_disks(*arguments)
            variables.write_bytes(b"x" * variables.stat().st_size)
            return cut

    writing = Writing(tmp_path / "state", EVERYTHING)
    cut = writing.cut(TENANT, [machine_path(machine.socket, None), machine.volume(0)], is_all=True)
    assert cut[0].consistency() == "fuzzy"
    for view in cut:
        view.close()


def test_what_did_not_change_is_not_sent_again(
    machine: VirtualMachine, driver: QemuDriver, tmp_path: Path
) -> None:
    site = DefinitionSite(machine, driver)
    base = Taken(site, None).settle(sealed=True)
    assert base.chunks == base.truth
    # What drivers of other volumes forget is theirs.
    ScanDriver(tmp_path / "state", EVERYTHING).forget(VOLUME)
    again = Taken(site, base).settle(sealed=True)
    assert (again.trust, again.named) == ("exact", set())
    (tmp_path / "variables").write_bytes(os.urandom(1 << 19))
    changed = Taken(site, again)
    assert changed.named
    assert changed.chunks == changed.truth
    driver.forget(VOLUME)
    assert Taken(site, changed).trust == "everything"


def test_all_volumes_of_a_vm_at_a_barrier_are_frozen(
    machine: VirtualMachine, driver: QemuDriver
) -> None:
    """With the definition, the disk is not less certain than alone."""
    session = uuid4()
    gates = [
        driver.gate(
            GateOrder(
                volume=UUID(int=n),
                session=session,
                attempt=1,
                tenant=TENANT,
                path=path,
                is_frozen=False,
                frozen_devices=frozenset(),
                volume_count=2,
            )
        )
        for n, path in enumerate([machine_path(machine.socket, None), machine.volume(0)])
    ]
    for gate in gates:
        gate.hold(60)
    views = [gate.cut() for gate in gates]
    assert all(gate.release(unbroken=True) for gate in gates)
    assert [view.consistency() for view in views] == ["quiet", "frozen"]
    for view in views:
        view.close()
    for gate in gates:
        gate.close()


def test_a_disk_that_was_plugged_in_is_there(machine: VirtualMachine, driver: QemuDriver) -> None:
    machine.plug_in(7, 4 * MIB)
    path = machine_path(machine.socket, None)
    disks = driver.machine(TENANT, path)
    assert [one.device for one in disks] == [
        "/machine/peripheral/vd0",
        "/machine/peripheral/vd7",
    ]
    cut = driver.cut(TENANT, [path, machine.volume(0), machine.volume(7)], is_all=True)
    assert cut[2].size_bytes == 4 * MIB
    for view in cut:
        view.close()
    machine.pull_out(7)
    assert [one.device for one in driver.machine(TENANT, path)] == ["/machine/peripheral/vd0"]


def test_a_vm_with_a_disk_that_nothing_tells_is_refused(tmp_path: Path, driver: QemuDriver) -> None:
    require_virtual_machines()
    image = tmp_path / "more"
    image.write_bytes(bytes(MIB))
    made = VirtualMachine(tmp_path, 8 * MIB, options=["-hda", str(image)])
    try:
        with pytest.raises(SourceError, match="has no id"):
            driver.machine(TENANT, machine_path(made.socket, None))
    finally:
        made.close()


def test_files_outside_of_the_roots_are_refused(machine: VirtualMachine, tmp_path: Path) -> None:
    """Also if QEMU itself names them; and nothing of the cut is left over."""
    narrow = QemuDriver(tmp_path / "state", Roots([Root(TENANT, machine.folder)]))
    path = machine_path(machine.socket, None)
    for refused in (path, machine_path(machine.socket, tmp_path / "variables")):
        with pytest.raises(SourceError, match="this agent has nothing there"):
            narrow.cut(TENANT, [refused, machine.volume(0)], is_all=True)
        with pytest.raises(SourceError, match="this agent has nothing there"):
            narrow.machine(TENANT, refused)
    assert machine.exports() == []
    assert [name for name in machine.nodes() if name.startswith("backcast")] == []


def test_what_fails_after_the_cut_leaves_nothing(
    machine: VirtualMachine, driver: QemuDriver, tmp_path: Path
) -> None:
    variables = tmp_path / "variables"

    class Removing(QemuDriver):
        def _cut_disks(self, *arguments: Any) -> Sequence[QemuView]:
            cut = super()._cut_disks(*arguments)
            variables.unlink()
            return cut

    removing = Removing(tmp_path / "state", EVERYTHING)
    with pytest.raises(SourceError):
        removing.cut(TENANT, [machine_path(machine.socket, None), machine.volume(0)], is_all=True)
    assert machine.exports() == []
    assert machine.bitmaps() == []
    assert [name for name in machine.nodes() if name.startswith("backcast")] == []


def test_a_process_without_a_vm_is_none(tmp_path: Path, driver: QemuDriver) -> None:
    daemon = StorageDaemon(tmp_path, "raw", MIB)
    try:
        with pytest.raises(SourceError, match="has no VM"):
            driver.view(TENANT, machine_path(daemon.socket, None))
    finally:
        daemon.close()
