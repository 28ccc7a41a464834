"""VMs that an agent finds in its roots."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.change_capture.agent.vms import VmWatch, found_vms
from services.change_capture.drivers.local.roots import Root, Roots
from services.change_capture.drivers.qemu.machine.discovery import FOUND_COUNT_MAX


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name, as sockets have."""
    with tempfile.TemporaryDirectory(prefix="found", dir="/tmp") as made:
        yield Path(made)


def listening(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def found(folder: Path, *own: Path) -> list[tuple[str, str]]:
    roots = Roots([Root("a", folder / "a"), Root("b", folder / "b")], own)
    return [(one.tenant, one.socket) for one in found_vms(roots)]


def test_sockets_at_which_somebody_listens_are_vms(folder: Path) -> None:
    with (
        listening(folder / "a/web.qmp"),
        listening(folder / "b/deep/er/db.qmp"),
        listening(folder / "a/other.sock"),
        listening(folder / "beside.qmp"),
    ):
        (folder / "a/file.qmp").touch()
        listening(folder / "a/dead.qmp").close()
        (folder / "a/link.qmp").symlink_to(folder / "beside.qmp")
        (folder / "b/loop").symlink_to(folder / "b")
        expected = [("a", str(folder / "a/web.qmp")), ("b", str(folder / "b/deep/er/db.qmp"))]
        assert found(folder) == expected
        assert found(folder, folder / "b/deep") == expected[:1]


def test_nothing_is_said_to_whoever_listens(folder: Path) -> None:
    with listening(folder / "a/web.qmp") as server:
        assert found(folder)
        server.settimeout(30)
        client, _ = server.accept()
        with client:
            assert client.recv(100) == b""


def test_one_tenant_does_not_crowd_out_another(folder: Path) -> None:
    servers = [listening(folder / f"a/{n:03}.qmp") for n in range(FOUND_COUNT_MAX + 9)]
    servers.append(listening(folder / "b/db.qmp"))
    try:
        tenants = [tenant for tenant, _ in found(folder)]
        assert (tenants.count("a"), tenants.count("b")) == (FOUND_COUNT_MAX, 1)
    finally:
        for one in servers:
            one.close()


def test_folders_without_end_hold_nobody_up(folder: Path) -> None:
    deep = folder / "a" / "/".join("x" * 20)
    deep.mkdir(parents=True)
    (folder / "b").mkdir()
    here = os.open(deep, os.O_PATH)
    try:
        with listening(Path(f"/proc/self/fd/{here}/deep.qmp")):
            assert found(folder) == []
    finally:
        os.close(here)


def test_a_root_that_is_a_file_or_gone_has_none(folder: Path) -> None:
    (folder / "a").touch()
    assert found(folder) == []


def test_what_was_not_heard_is_told_again(folder: Path) -> None:
    watch = VmWatch(Roots([Root("a", folder)]))
    with watch.told() as told:
        assert told is None
    with listening(folder / "web.qmp"):
        watch.look()
    expected = [{"tenant": "a", "socket": str(folder / "web.qmp")}]

    def lost() -> None:
        with watch.told():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        lost()
    with watch.told() as told:
        assert told == expected
    with watch.told() as told:
        assert told is None
