"""What an agent that is killed leaves: its guest never notices, and the next one removes it."""

import os
import signal
from pathlib import Path

import pytest

from libs.errors import UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.qemu.names import kept_name
from services.change_capture.drivers.qemu.process import DiskProcess
from services.change_capture.drivers.qemu.qmp import QmpConnection
from tests.integration.qemu.test_kept_bitmaps import AT_REST, kept, restarted
from tests.support.driver_sites import QemuSite
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Taken

#: Commands that change nothing.
_QUESTIONS = ("qmp_capabilities", "query-")


def killed_after(site: QemuSite, base: Taken, number: int) -> bool:
    """A process of its own captures, and is killed after so many commands that change something.

    Returns:
        Whether it had so many to give.
    """
    child = os.fork()
    if child == 0:
        left, execute = number, QmpConnection.execute

        def killing(qmp: QmpConnection, command: str, **arguments: object) -> object:
            nonlocal left
            answer = execute(qmp, command, **arguments)
            left -= not command.startswith(_QUESTIONS)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        try:
            QmpConnection.execute = killing  # type: ignore[assignment, method-assign]  # a fault
            Taken(site, base).settle(sealed=False)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_after_each_step_leaves_nothing_for_long(site: QemuSite) -> None:
    """Each command that changes something is the last one of an agent process once."""
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    number = 1
    while killed_after(site, base, number):
        site.write(2, 1)  # whatever is left, the guest writes on
        restarted(site)
        assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST, number
        left = [name for name in site.daemon.bitmaps() if kept_name(name) is None]
        assert left == [], number
        assert [p.name for p in site.state.glob("qemu/views/*")] == [], number
        assert list(site.state.rglob("scratch*")) == [], number
        assert base.session in {one.session for one in kept(site)}, number
        number += 1
    taken = Taken(site, base)
    assert (taken.trust, taken.named) == ("candidates", {2})
    assert taken.chunks == taken.truth
    taken.settle(sealed=True)
    assert [one.session for one in kept(site)] == [taken.session]
    assert number > 15


def test_a_view_that_was_left_is_removed_by_the_next_capture(site: QemuSite) -> None:
    """The process could not be reached when the agent began."""
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    assert killed_after(site, base, 9)
    hidden = site.daemon.socket.with_name("hidden")
    site.daemon.socket.rename(hidden)
    restarted(site)
    hidden.rename(site.daemon.socket)
    assert (site.daemon.nodes(), site.daemon.exports()) != AT_REST
    site.write(1, 1)
    assert Taken(site, base).named == {1}
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST


def test_what_another_agent_makes_is_left_alone(site: QemuSite, tmp_path: Path) -> None:
    site.write(0, 8)
    other = QemuDriver(tmp_path / "other", EVERYTHING)
    view = other.view(TENANT, site.path)
    before = (site.daemon.nodes(), site.daemon.exports(), site.daemon.bitmaps())
    restarted(site)
    base = Taken(site, None).settle(sealed=True)
    site.write(1, 1)
    assert Taken(site, base).settle(sealed=False).named == {1}
    site.driver.forget(site.order(None).volume)
    assert (site.daemon.nodes(), site.daemon.exports(), site.daemon.bitmaps()) == before
    buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
    view.read_into(CHUNK_SIZE_BYTES, buffer)
    assert bytes(buffer) == base.chunks[1]
    view.close()
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST


def test_an_nbd_server_that_was_started_here_is_ended(site: QemuSite) -> None:
    """Also if the agent that started it was killed, and not while others use it."""
    site.write(0, 8)
    site.daemon.do("block-export-del", id="guest", mode="hard")
    site.daemon.do("nbd-server-stop")
    base = Taken(site, None).settle(sealed=True)
    assert not has_nbd(site)
    first = site.driver.view(TENANT, site.path)
    second = site.driver.view(TENANT, site.path)
    first.close()
    second.read_into(0, memoryview(bytearray(CHUNK_SIZE_BYTES)))
    second.close()
    assert not has_nbd(site)
    assert killed_after(site, base, 9)
    assert has_nbd(site)
    restarted(site)
    assert not has_nbd(site)


def has_nbd(site: QemuSite) -> bool:
    return Path(f"{site.daemon.socket}.nbd").exists()


def test_a_process_that_serves_another_client_is_waited_for_and_not_for_ever(
    site: QemuSite,
) -> None:
    site.write(0, 8)
    impatient = DiskProcess(EVERYTHING, TENANT, site.daemon.socket, 0.2)
    with site.daemon.qmp(), pytest.raises(UnavailableError, match="of its own"), impatient.qmp():
        pass
    with DiskProcess(EVERYTHING, TENANT, site.daemon.socket).qmp() as qmp:
        assert qmp.version >= (7, 1)
