"""Several disks of one process are cut at one instant, while their guest writes to all of them."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.process import wait_until
from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.barrier.barrier import Barriers, Member
from services.change_capture.drivers.port import Driver, FrozenView
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.scan.driver import ScanDriver
from tests.integration.qemu.test_kept_bitmaps import AT_REST
from tests.support.driver_sites import QemuSite
from tests.support.qemu import SECONDS_MAX, VirtualMachine, require_virtual_machines
from tests.support.roots import EVERYTHING, TENANT

_CUTS = 25
_RECORD_SIZE_BYTES = 4096


@pytest.fixture
def other(site: QemuSite, tmp_path: Path) -> Iterator[NbdConnection]:
    """A second disk of the same process, as its guest has it."""
    site.resize(CHUNK_SIZE_BYTES)
    image = tmp_path / "other"
    image.write_bytes(bytes(CHUNK_SIZE_BYTES))
    do = site.daemon.do
    do("blockdev-add", driver="file", node_name="disk2", filename=str(image))
    do("blockdev-add", driver="raw", node_name="top2", file="disk2")
    do("block-export-add", type="nbd", id="guest2", node_name="top2", name="top2", writable=True)
    with NbdConnection(NbdAddress(f"unix:{site.daemon.socket}.nbd"), "top2") as guest:
        yield guest


def number_in(view: FrozenView) -> int:
    buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
    view.read_into(0, buffer)
    return int.from_bytes(buffer[:8], "little")


def test_no_effect_is_in_a_cut_without_its_cause(site: QemuSite, other: NbdConnection) -> None:
    """Each number is written to the first disk, and to the second when the first has it."""
    assert isinstance(site.driver, QemuDriver)
    ends = threading.Event()
    done = [0]

    def write() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            record = number.to_bytes(8, "little") * (_RECORD_SIZE_BYTES // 8)
            site.daemon.guest.write(0, record)
            other.write(0, record)
            done[0] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        paths = [site.daemon.socket / name for name in ("top", "top2")]
        seen = [0]
        for n in range(_CUTS):
            assert wait_until(lambda: done[0] > seen[-1], SECONDS_MAX)
            # Whichever is named first, it must not be cut first.
            views = site.driver.cut(TENANT, paths if n % 2 else paths[::-1], is_all=True)
            found = [number_in(view) for view in views]
            for view in views:
                view.close()
            cause, effect = found if n % 2 else found[::-1]
            assert effect <= cause <= effect + 1, (n, found)
            seen.append(cause)
    finally:
        ends.set()
        writer.join()
    assert seen == sorted(set(seen))


def test_a_cut_of_which_one_disk_fails_is_none(site: QemuSite, other: NbdConnection) -> None:
    assert isinstance(site.driver, QemuDriver)
    for bad in ("nothing", "disk2"):
        with pytest.raises(SourceError):
            site.driver.cut(TENANT, [site.path, site.daemon.socket / bad], is_all=True)
    past = {"type": "nbd", "id": "past", "node_name": "disk2", "name": "past", "writable": True}
    other.close()
    site.daemon.do("block-export-del", id="guest2", mode="hard")
    site.daemon.do("block-export-add", **past)
    with pytest.raises(SourceError):
        site.driver.cut(TENANT, [site.path, site.daemon.socket / "top2"], is_all=True)
    nodes, exports = AT_REST
    assert site.daemon.nodes() == sorted([*nodes, "disk2", "top2"])
    assert site.daemon.exports() == [*exports, "past"]
    assert site.daemon.bitmaps() == []


@pytest.mark.parametrize("mixed", [False, True])
def test_a_barrier_lets_the_driver_cut_its_disks(
    site: QemuSite, other: NbdConnection, tmp_path: Path, mixed: bool
) -> None:
    """Their views are of one moment; with a volume of another kind, nobody vouches for that."""
    assert isinstance(site.driver, QemuDriver)
    drivers: dict[str, Driver] = {
        "qemu": site.driver,
        "scan": ScanDriver(tmp_path / "scan", EVERYTHING),
    }
    barriers = Barriers(drivers, EVERYTHING, tmp_path / "holds", 60)
    session, volumes = uuid4(), [uuid4(), uuid4()]
    names = zip(volumes, ("top", "top2"), strict=True)
    count = 3 if mixed else 2
    members = [Member(one, site.daemon.socket / name, None, "qemu", count) for one, name in names]
    if mixed:
        (tmp_path / "file").write_bytes(b"x")
        members.append(Member(uuid4(), tmp_path / "file", None, "scan", count))
    for guest in (site.daemon.guest, other):
        guest.write(0, b"\x07" * 4096)
    barriers.prepare(session, 1, TENANT, members, 10)
    barriers.hold(session, 1)
    barriers.cut(session, 1)
    for guest in (site.daemon.guest, other):
        guest.write(0, b"\x08" * 4096)
    assert barriers.release(session, 1, abandoned=False).unbroken
    view = barriers.take_view(session, 1, volumes[0])
    assert number_in(view) == int.from_bytes(b"\x07" * 8, "little")
    assert view.consistency() == ("unvouched" if mixed else "frozen")
    view.close()
    barriers.close()  # nobody has taken the other one
    assert [name for name in site.daemon.nodes() if name.startswith("backcast")] == []
    bad = Member(uuid4(), site.daemon.socket / "nothing", None, "qemu")
    with pytest.raises(SourceError):
        barriers.prepare(uuid4(), 1, TENANT, [bad], 10)


def test_the_disks_of_a_running_vm_are_cut_together(tmp_path: Path) -> None:
    require_virtual_machines()
    machine = VirtualMachine(tmp_path, 1 << 20, 1 << 20)
    with contextlib.closing(machine):
        driver = QemuDriver(tmp_path / "state", EVERYTHING)
        for n in range(2):
            machine.write(n, 0, 4096, 7)
        views = driver.cut(TENANT, [machine.volume(n) for n in range(2)], is_all=True)
        for n in range(2):
            machine.write(n, 0, 4096, 8)
        assert {number_in(view) for view in views} == {int.from_bytes(b"\x07" * 8, "little")}
        for view in views:
            view.close()
        assert machine.nodes() == ["disk0", "disk1"]
        assert machine.exports() == []
