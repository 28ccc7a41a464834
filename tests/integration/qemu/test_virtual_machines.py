"""Disks of a running VM: what its devices have is led through the filter, and back."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.driver import QemuDriver
from tests.support.driver_sites import Site
from tests.support.qemu import (
    SECONDS_MAX,
    VirtualMachine,
    numbering_program,
    require_virtual_machines,
)
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Chunks, Taken, chunks_of

#: Where the guest writes: 2 MiB, from the second chunk on.
_FIRST_SECTOR = 128
_SECTORS = 4096


class MachineSite(Site):
    """The first disk of a VM with two."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.machine = VirtualMachine(folder, 8 << 20, 8 << 20)
        self.state = folder / "state"
        self.driver = QemuDriver(self.state, EVERYTHING)
        self.path = self.machine.volume(0)
        self.writes = 0

    def write(self, first: int, count: int) -> None:
        self.writes += 1
        at, length = first * CHUNK_SIZE_BYTES, count * CHUNK_SIZE_BYTES
        self.machine.write(0, at, length, self.writes)

    def write_bytes(self, offset: int, content: bytes) -> None:
        raise NotImplementedError("its guest writes whole chunks by number: `write`")

    def resize(self, size_bytes: int) -> None:
        self.machine.do("block_resize", node_name="disk0", size=size_bytes)

    def replace(self) -> None:
        raise NotImplementedError("a disk is not exchanged while its VM runs")

    def close(self) -> None:
        self.machine.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MachineSite]:
    require_virtual_machines()
    made = MachineSite(tmp_path)
    yield made
    made.close()


def at_rest(site: MachineSite) -> bool:
    devices = {one["qdev"]: one for one in site.machine.do("query-block")}
    node = devices["/machine/peripheral/vd0/virtio-backend"]["inserted"]["node-name"]
    nodes = [name for name in site.machine.nodes() if name.startswith("backcast")]
    return (node, nodes, site.machine.exports()) == ("disk0", [], [])


def test_the_disk_of_a_running_vm_is_cut_and_tracked(site: MachineSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    assert at_rest(site)
    assert not Path(f"{site.machine.socket}.nbd").exists()
    site.write(3, 1)
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        before = chunks_of(view)
        assert not at_rest(site)
        site.write(4, 1)
        assert chunks_of(view) == before
    taken = Taken(site, base).settle(sealed=True)
    assert (taken.trust, taken.named, taken.chunks) == ("candidates", {3, 4}, taken.truth)
    assert at_rest(site)
    site.machine.quit()
    site.machine.start()
    site.write(5, 1)
    after = Taken(site, taken)
    assert (after.trust, after.named, after.chunks) == ("candidates", {5}, after.truth)


def test_a_guest_writes_on_while_its_disk_is_cut(site: MachineSite) -> None:
    """A guest under software emulation, which numbers its writes: each view ends with one of them.

    All that it has written up to that one is there, and nothing that came after it.
    """
    site.machine.quit()
    program = site.machine.images / "program"
    program.write_bytes(numbering_program(_FIRST_SECTOR, _SECTORS).ljust(8 << 20, b"\0"))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, str(program), str(site.machine.image(0))], check=True)
    site.machine.start()
    base: Taken | None = None
    lasts = [0]
    for _ in range(4):
        assert wait_until(lambda: written(site) > lasts[-1], SECONDS_MAX)
        taken = Taken(site, base).settle(sealed=True)
        assert taken.trust == ("candidates" if base else "everything")
        base = taken
        assert base.chunks == base.truth
        sectors = sectors_of(base.truth)
        lasts.append(max(sectors.values()))
        numbers = range(max(1, lasts[-1] - _SECTORS + 1), lasts[-1] + 1)
        assert sectors == {n % _SECTORS: n for n in numbers}
    assert lasts == sorted(set(lasts))
    assert at_rest(site)


def written(site: MachineSite) -> int:
    """A number that the guest has written lately; 0 if there is none yet."""
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        return max(sectors_of(chunks_of(view)).values(), default=0)


def sectors_of(chunks: Chunks) -> dict[int, int]:
    """Sector → the number that it is full of."""
    found = dict[int, int]()
    for sector in range(_SECTORS):
        index, at = divmod((_FIRST_SECTOR + sector) * 512, CHUNK_SIZE_BYTES)
        content = chunks.get(index, b"")[at : at + 512]
        if any(content):
            assert content == content[:4] * 128
            found[sector] = int.from_bytes(content[:4], "little")
    return found


def test_disks_of_one_vm_do_not_know_each_other(site: MachineSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.path = site.machine.volume(1)
    site.machine.write(1, 0, 4096, 9)
    taken = Taken(site, base)
    assert (taken.trust, {*taken.truth}) == ("everything", {0})
    assert taken.lost is not None


def test_a_resize_of_a_running_disk_is_found(site: MachineSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.resize(16 << 20)
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.lost.reason == "another-device"
    assert taken.view.size_bytes == 16 << 20
    assert taken.chunks == taken.truth


def test_another_vm_behind_the_same_socket_is_not_taken_for_the_first(
    site: MachineSite, tmp_path: Path
) -> None:
    """It has a copy of the disk, bitmap and all."""
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.machine.quit()
    copy = tmp_path / "copy"
    copy.write_bytes(site.machine.image(0).read_bytes())
    copy.replace(site.machine.image(0))
    site.machine.start()
    site.write(1, 1)
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.lost.reason == "another-device"
    assert taken.chunks == taken.truth


def test_a_device_that_is_not_there_is_named(site: MachineSite) -> None:
    with pytest.raises(SourceError, match=r"vd7.*vd0"):
        site.driver.view(TENANT, site.machine.volume(7))


def test_a_vm_that_a_client_could_bring_down_is_refused(tmp_path: Path) -> None:
    """With an iothread, QEMU 7.2 of Debian ended when the agent had read a disk."""
    require_virtual_machines()
    machine = VirtualMachine(tmp_path, 1 << 20, has_iothread=True)
    with contextlib.closing(machine):
        if tuple(machine.do("query-version")["qemu"][one] for one in ("major", "minor")) >= (9, 1):
            pytest.skip("this QEMU is said to be safe")
        driver = QemuDriver(tmp_path / "state", EVERYTHING)
        with pytest.raises(SourceError, match="iothreads"):
            driver.view(TENANT, machine.volume(0))
        assert machine.exports() == []
        assert machine.nodes() == ["disk0"]
