"""Disks of a running VM: what its devices have is led through the filter, and back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.driver import QemuDriver
from tests.support.driver_sites import Site
from tests.support.qemu import VirtualMachine, require_virtual_machines
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Taken, chunks_of


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
        raise NotImplementedError

    def resize(self, size_bytes: int) -> None:
        self.machine.do("block_resize", node_name="disk0", size=size_bytes)

    def replace(self) -> None:
        raise NotImplementedError

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
