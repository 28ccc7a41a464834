"""Whole VMs, from their protection to a start from what was restored."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.process import outer_environ, wait_until
from libs.errors import ConflictError, SourceError
from tests.support.qemu import (
    SECONDS_MAX,
    DiskServer,
    VirtualMachine,
    numbering_program,
    require_virtual_machines,
)
from tests.support.running import TENANT, Answer, RunningSite

MIB = 1 << 20
#: Where the guest numbers its writes: 64 KiB from the second chunk on.
_FIRST_SECTOR, _SECTORS = 128, 128
_FIRMWARE = Path("/usr/share/seabios/bios-256k.bin")
_SOURCE = Path(__file__).parents[3]


class Booting(VirtualMachine):
    """A VM whose first disk boots, with a store of variables if there is firmware to go with it."""

    def __init__(self, folder: Path) -> None:
        options = ["-device", "virtio-scsi-pci,id=scsi"]
        self.variables = folder / "variables"
        if _FIRMWARE.exists():
            self.variables.write_bytes(bytes(range(256)) * 1024)
            for unit, file in enumerate([f"{_FIRMWARE},readonly=on", str(self.variables)]):
                options += ["-drive", f"if=pflash,unit={unit},format=raw,file={file}"]
        super().__init__(folder, 8 * MIB, 4 * MIB, options=options)

    def start(self) -> None:
        program = self.images / "program"
        if not program.exists():
            program.write_bytes(numbering_program(_FIRST_SECTOR, _SECTORS).ljust(8 * MIB, b"\0"))
            convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
            subprocess.run([*convert, str(program), str(self.image(0))], check=True)
        super().start()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Booting]:
    require_virtual_machines()
    made = Booting(tmp_path)
    yield made
    made.close()


def protect(site: RunningSite, name: str, machine: VirtualMachine) -> Answer:
    body = {"name": name, "qmp": str(machine.socket)}
    added: Answer = site.coordinator.post(f"/v1/tenants/{TENANT}/vms", body)
    return added


def backcast(site: RunningSite, *arguments: object) -> str:
    environ = outer_environ() | {"BACKCAST_HOME": str(site.cluster.home.folder)}
    argv = [sys.executable, "-m", "services.cli", *map(str, arguments)]
    run = subprocess.run(
        argv, env=environ, cwd=_SOURCE, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextlib.contextmanager
def started(folder: Path, *options: str) -> Iterator[DiskServer]:
    """A VM that a restored script has started."""
    server = DiskServer(folder)
    try:
        qmp = f"unix:{server.socket},server=on,wait=off"
        server.begin(str(folder / "start"), "-qmp", qmp, *options)
        yield server
    finally:
        server.close()


def volumes_of(site: RunningSite, name: str) -> dict[str, Any]:
    return {part["volume"]: part for part in site.take(name)["parts"]}


def test_a_vm_is_restored_and_starts(site: RunningSite, machine: Booting, tmp_path: Path) -> None:
    added = protect(site, "web", machine)
    assert [one["name"] for one in added["disks"]] == ["web-vd0", "web-vd1"]
    assert added == protect(site, "web", machine)
    machine.write(1, 65536, 65536, 0x5A)
    taken = site.take("web")
    assert taken["state"] == "sealed", taken
    parts = {part["volume"]: part for part in taken["parts"]}
    assert {*parts} == {"web-definition", "web-vd0", "web-vd1"}
    assert parts["web-vd0"]["consistency"] == "frozen"
    expected = "quiet" if _FIRMWARE.exists() else "frozen"
    assert parts["web-definition"]["consistency"] == expected
    again = volumes_of(site, "web")
    assert again["web-definition"]["tracking"] == "exact"
    assert again["web-definition"]["changed_bytes"] == 0
    assert again["web-vd1"]["read_bytes"] == 0

    # The root of this agent is `/`, where it looks in /run alone.
    assert str(machine.socket) not in backcast(site, "vm", "discover", "--json")
    folder = tmp_path / "restored"
    said = backcast(site, "vm", "restore", "web@1", "--to", folder)
    assert "2 disks" in said
    if _FIRMWARE.exists():
        assert (folder / "flash1").read_bytes() == machine.variables.read_bytes()
    machine.kill()
    with started(folder, "-S") as vm:
        device = "/machine/peripheral/vd1/virtio-backend"
        read = f'qemu-io -d {device} "read -P 0x5a 65536 65536"'
        assert not vm.do("human-monitor-command", command_line=read)
    image = folder / "web-vd0.img"
    numbered = _FIRST_SECTOR * 512
    with image.open("r+b") as file:
        file.seek(numbered)
        file.write(bytes(_SECTORS * 512))

    def has_booted() -> bool:
        with image.open("rb") as file:
            file.seek(numbered + 512)
            return file.read(512) != bytes(512)

    with started(folder):
        assert wait_until(has_booted, SECONDS_MAX)


def test_disks_come_and_go(site: RunningSite, machine: Booting, tmp_path: Path) -> None:
    protect(site, "moving", machine)
    assert {*volumes_of(site, "moving")} == {"moving-definition", "moving-vd0", "moving-vd1"}
    machine.plug_in(7, MIB)
    with_it = volumes_of(site, "moving")
    assert {*with_it} == {"moving-definition", "moving-vd0", "moving-vd1", "moving-vd7"}
    assert with_it["moving-vd0"]["tracking"] == "candidates"
    # The group's head is its base, and has nothing of it.
    assert with_it["moving-vd7"]["tracking"] == "lost"
    assert with_it["moving-vd7"]["logical_bytes"] == MIB
    machine.pull_out(7)
    assert {*volumes_of(site, "moving")} == {"moving-definition", "moving-vd0", "moving-vd1"}
    removed = site.restore.get(f"/v1/tenants/{TENANT}/volumes", {"removed": "true"})
    gone = {one["name"]: one["removed_by"] for one in removed}
    assert gone["moving-vd7"] == "vm moving"
    folder = tmp_path / "restored"
    backcast(site, "vm", "restore", "moving@2", "--to", folder)
    assert (folder / "moving-vd7.img").stat().st_size == MIB
    with started(folder, "-S") as vm:
        assert "vd7" in str(vm.do("query-block"))


def test_a_disk_that_grows_is_compared_once(site: RunningSite, machine: Booting) -> None:
    protect(site, "growing", machine)
    site.take("growing")

    def grows() -> bool:
        """QEMU refuses it until the view is let go, which nobody waits for."""
        try:
            machine.do("block_resize", node_name="disk1", size=6 * MIB)
        except SourceError as err:
            if "backcast-" not in str(err):
                raise
            return False
        return True

    assert wait_until(grows, SECONDS_MAX)
    machine.write(1, 5 * MIB, 65536, 0x5B)
    grown = volumes_of(site, "growing")["growing-vd1"]
    assert (grown["tracking"], grown["logical_bytes"]) == ("lost", 6 * MIB)
    machine.write(1, 0, 65536, 0x5C)
    after = volumes_of(site, "growing")["growing-vd1"]
    assert (after["tracking"], after["read_bytes"]) == ("candidates", 65536)


def test_a_new_disk_whose_name_is_taken_is_not_left_out(
    site: RunningSite, machine: Booting
) -> None:
    protect(site, "taken", machine)
    site.volume("taken-vd7", MIB)
    machine.plug_in(7, MIB)
    with pytest.raises(ConflictError, match="taken-vd7"):
        site.begin("taken")


def test_what_is_no_vm_is_refused(site: RunningSite, tmp_path: Path) -> None:
    for odd in (tmp_path / "nothing.qmp", Path("/dev/log")):
        with pytest.raises(SourceError):
            site.coordinator.post(f"/v1/tenants/{TENANT}/vms", {"name": "odd", "qmp": str(odd)})
    assert list(tmp_path.iterdir()) == []
