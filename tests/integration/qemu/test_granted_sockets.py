"""Which sockets an agent reaches: those that its roots open to the tenant, and no others."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from services.change_capture.drivers.local.roots import Root, Roots
from services.change_capture.drivers.qemu.driver import QemuDriver
from tests.support.driver_sites import QemuSite
from tests.support.roots import TENANT


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="roots", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def listener(folder: Path) -> Iterator[socket.socket]:
    """A socket outside of the root that notices who connects."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "outside"))
        made.listen()
        made.setblocking(False)
        yield made


@pytest.mark.parametrize("path", ["outside", "root/link", "root/../outside", "root/folder/outside"])
def test_nobody_connects_to_a_socket_outside_of_the_roots(
    folder: Path, listener: socket.socket, path: str
) -> None:
    root = folder / "root"
    root.mkdir()
    (root / "link").symlink_to(folder / "outside")
    (root / "folder").symlink_to(folder)
    driver = QemuDriver(folder / "state", Roots([Root(TENANT, root)]))
    with pytest.raises(SourceError, match="nothing there for tenant"):
        driver.view(TENANT, folder / path / "top")
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("made", ["file", "folder", "link"])
def test_what_is_no_socket_is_refused(folder: Path, made: str) -> None:
    thing = folder / "thing"
    match made:
        case "file":
            thing.write_text("x")
        case "folder":
            thing.mkdir()
        case "link":
            thing.symlink_to(folder / "nothing")
    driver = QemuDriver(folder / "state", Roots([Root(TENANT, folder)]))
    with pytest.raises(SourceError):
        driver.view(TENANT, thing / "top")


def test_a_socket_is_open_to_its_tenant_alone(site: QemuSite) -> None:
    roots = Roots([Root("acme", site.daemon.folder)])
    driver = QemuDriver(site.state, roots)
    driver.view("acme", site.path).close()
    with pytest.raises(SourceError, match="nothing there for tenant"):
        driver.view("beta", site.path)
    assert site.daemon.bitmaps() == []
