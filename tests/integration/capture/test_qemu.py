"""Disks that QEMU serves, from the request to the restore."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from tests.integration.capture.test_tracking import notices, part_of
from tests.support.qemu import StorageDaemon, require_storage_daemon
from tests.support.running import TENANT, Answer, RunningSite, shown_barrier

CHUNK = 1 << 16
MIB = 1 << 20


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StorageDaemon]:
    """A disk in a raw file, so that its bytes can be compared with those that are restored."""
    require_storage_daemon()
    made = StorageDaemon(tmp_path, "raw", 16 * MIB)
    yield made
    made.close()


def protect(site: RunningSite, name: str, daemon: StorageDaemon) -> None:
    body = {"name": name, "path": str(daemon.volume), "driver": "qemu"}
    added: Answer = site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
    assert (added["driver"], added["size_bytes"]) == ("qemu", daemon.size_bytes)


def write(daemon: StorageDaemon, first: int, count: int) -> None:
    daemon.guest.write(first * CHUNK, os.urandom(count * CHUNK))


def test_bitmaps_tell_what_changed_and_are_read(site: RunningSite, daemon: StorageDaemon) -> None:
    write(daemon, 0, 256)
    protect(site, "served", daemon)
    first = site.take("served")
    assert (part_of(first)["tracking"], part_of(first)["consistency"]) == ("none", "frozen")
    write(daemon, 10, 3)
    write(daemon, 200, 1)
    daemon.guest.write_zeroes(100 * CHUNK, 50 * CHUNK)
    second = site.take("served")
    assert part_of(second)["tracking"] == "candidates", second
    assert site.matches("served", daemon.image)
    empty = site.take("served")
    assert (part_of(empty)["tracking"], part_of(empty)["read_bytes"]) == ("candidates", 0)
    daemon.quit()
    daemon.start()
    write(daemon, 7, 1)
    lost = site.take("served")
    assert part_of(lost)["tracking"] == "lost"
    assert site.matches("served", daemon.image)
    assert notices(site, "served") == ["warning"]
    write(daemon, 8, 1)
    assert part_of(site.take("served"))["read_bytes"] == CHUNK
    assert site.matches("served", daemon.image)


def test_disks_of_one_vm_are_a_group_with_one_moment(
    site: RunningSite, daemon: StorageDaemon, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.write_bytes(os.urandom(4 * MIB))
    do = daemon.do
    do("blockdev-add", driver="file", node_name="disk2", filename=str(second))
    do("blockdev-add", driver="raw", node_name="top2", file="disk2")
    write(daemon, 0, 64)
    for name, node in (("first-disk", "top"), ("second-disk", "top2")):
        path = str(daemon.socket / node)
        body = {"name": name, "path": path, "driver": "qemu", "group": "two-disks"}
        site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
    for expected in ("none", "candidates"):
        taken = site.take("two-disks")
        assert {part["tracking"] for part in taken["parts"]} == {expected}, taken
        assert {part["consistency"] for part in taken["parts"]} == {"frozen"}
        assert site.matches("first-disk", daemon.image)
        assert site.matches("second-disk", second)
        (said,) = shown_barrier(site, "first-disk")
        assert (said.means, said.unbroken) == ("none", "True")
        assert said.held_at <= said.cut_at <= said.released_at
        write(daemon, 7, 1)


def test_an_agent_that_was_killed_knows_what_changed_since(
    site: RunningSite, daemon: StorageDaemon
) -> None:
    write(daemon, 0, 64)
    protect(site, "qemu-agent-killed", daemon)
    site.take("qemu-agent-killed")
    write(daemon, 5, 1)
    site.kill("agent")
    site.start("agent")
    taken = site.take("qemu-agent-killed")
    assert (part_of(taken)["tracking"], part_of(taken)["read_bytes"]) == ("candidates", CHUNK)
    assert site.matches("qemu-agent-killed", daemon.image)


def test_a_bitmap_that_lies_is_found_out(site: RunningSite, tmp_path: Path) -> None:
    """Somebody clears it after a write: of 16 chunks, 16 are read."""
    require_storage_daemon()
    daemon = StorageDaemon(tmp_path, "raw", 16 * CHUNK)
    try:
        write(daemon, 0, 16)
        protect(site, "lied-to", daemon)
        site.take("lied-to")
        write(daemon, 9, 1)
        (name,) = daemon.bitmaps()
        daemon.do("block-dirty-bitmap-clear", node="disk", name=name)
        caught = site.take("lied-to")
        assert (caught["state"], caught["code"]) == ("rejected", "tracking-lost"), caught
        assert notices(site, "lied-to") == ["error"]
        again = site.take("lied-to")
        assert part_of(again)["tracking"] == "lost"
        assert site.matches("lied-to", daemon.image)
    finally:
        daemon.close()


def test_what_is_no_disk_of_a_vm_is_refused(site: RunningSite, daemon: StorageDaemon) -> None:
    for odd in (daemon.socket / "nothing", daemon.image, Path("/dev/log/disk")):
        body = {"name": "odd", "path": str(odd), "driver": "qemu"}
        with pytest.raises(SourceError):
            site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
    assert daemon.bitmaps() == []
