"""Holds of real file systems: whoever is killed, none stays frozen."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import HoldBrokenError, SourceError
from services.change_capture.barrier import freezer
from services.change_capture.barrier.hold import (
    Hold,
    journal_path,
    thaw_leftovers,
)
from tests.support.file_systems import is_done, mounted, needs_mounts, run
from tests.support.pausing import pause
from tests.support.roots import mount_point

pytestmark = needs_mounts


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "image", tmp_path / "mount") as mount:
        yield mount


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return journal_path(tmp_path / "state", "session-1")


def is_frozen(mount: Path) -> bool:
    """Whether a write has to wait."""
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(mount / 'probe')!r}, 'w')"])
    try:
        writer.wait(1)
    except subprocess.TimeoutExpired:
        writer.kill()
        # Reaped once the file system is thawed: it waits inside the kernel.
        threading.Thread(target=writer.wait, daemon=True).start()
        return True
    return False


def test_a_hold_keeps_writes_waiting_until_the_release(mount: Path, journal: Path) -> None:
    hold = Hold([mount_point(mount)], 10, journal)
    assert not is_frozen(mount)
    hold.freeze()
    assert is_frozen(mount)
    assert hold.is_unbroken
    assert journal.exists()
    assert hold.release() is True
    assert not is_frozen(mount)
    assert not journal.exists()


def test_a_hold_ends_by_its_own_deadline_and_says_so(mount: Path, journal: Path) -> None:
    hold = Hold([mount_point(mount)], 0.3, journal)
    hold.freeze()
    assert wait_until(lambda: not hold.is_unbroken, 5)
    assert not is_frozen(mount)
    assert hold.release() is False


def test_a_hold_that_somebody_else_ended_is_broken(mount: Path, journal: Path) -> None:
    hold = Hold([mount_point(mount)], 10, journal)
    hold.freeze()
    run("fsfreeze", "--unfreeze", str(mount))
    assert hold.release() is False


def test_what_somebody_else_has_frozen_is_refused_and_left_alone(
    mount: Path, journal: Path
) -> None:
    run("fsfreeze", "--freeze", str(mount))
    hold = Hold([mount_point(mount)], 10, journal)
    with pytest.raises(SourceError, match="somebody else has frozen it"):
        hold.freeze()
    hold.end()
    assert is_frozen(mount)


def test_what_is_no_mount_point_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=str(tmp_path)):
        mount_point(tmp_path)


def test_of_several_file_systems_none_stays_frozen_when_one_fails(
    mount: Path, tmp_path: Path, journal: Path
) -> None:
    with mounted(tmp_path / "second", tmp_path / "second-mount") as second:
        run("fsfreeze", "--freeze", str(second))
        hold = Hold([mount_point(mount), mount_point(second)], 10, journal)
        with pytest.raises(SourceError, match=str(second)):
            hold.freeze()
        assert not is_frozen(mount)
        hold.end()


def test_a_file_system_that_is_mounted_over_the_path_meanwhile_is_not_frozen(
    mount: Path, tmp_path: Path, journal: Path
) -> None:
    """Whoever may mount, or exchange a link on the way, does not choose what is frozen."""
    judged = mount_point(mount)
    with mounted(tmp_path / "other", mount):
        hold = Hold([judged], 10, journal)
        hold.freeze()
        assert not is_frozen(mount)
        assert hold.release() is True


def test_a_hold_that_is_over_lets_its_file_system_be_unmounted(tmp_path: Path) -> None:
    with mounted(tmp_path / "image", tmp_path / "mount") as mount:
        hold = Hold([mount_point(mount)], 0.1, journal_path(tmp_path, "session-1"))
        hold.freeze()
        assert wait_until(lambda: not hold.is_unbroken, 5)
        assert wait_until(lambda: is_done("umount", str(mount)), 10)
        run("mount", "-o", "loop", str(tmp_path / "image"), str(mount))
    hold.end()


def test_a_killed_freezer_is_noticed_and_its_file_system_thawed(mount: Path, journal: Path) -> None:
    hold = Hold([mount_point(mount)], 30, journal)
    hold.freeze()
    os.kill(hold.pid, signal.SIGKILL)
    assert wait_until(lambda: not hold.is_unbroken, 5)
    assert wait_until(lambda: not is_frozen(mount), 10)
    assert hold.release() is False
    assert not journal.exists()


_AGENT = """
import sys, time
from pathlib import Path
from services.change_capture.barrier.hold import Hold
from tests.support.pausing import pause
from tests.support.roots import mount_point
hold = Hold([mount_point(Path(sys.argv[1]))], 60, Path(sys.argv[2]))
hold.freeze()
print("frozen", hold.pid, flush=True)
time.sleep(60)
"""


def held_by_another_process(mount: Path, journal: Path) -> tuple[subprocess.Popen[str], int]:
    """An agent that holds, and the id of its freezer."""
    command = [sys.executable, "-c", _AGENT, str(mount), str(journal)]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    word, number = agent.stdout.readline().split()
    assert word == "frozen"
    return agent, int(number)


def test_a_killed_agent_leaves_nothing_frozen(mount: Path, journal: Path) -> None:
    agent, _ = held_by_another_process(mount, journal)
    assert is_frozen(mount)
    agent.kill()
    agent.wait()
    assert wait_until(lambda: not is_frozen(mount), 10)


def test_a_freezer_that_is_asked_to_end_thaws_only_when_its_agent_says_so(
    mount: Path, journal: Path
) -> None:
    """Whoever stops a service sends SIGTERM to all of its processes: the hold still stands."""
    hold = Hold([mount_point(mount)], 30, journal)
    hold.freeze()
    os.kill(hold.pid, signal.SIGTERM)
    assert is_frozen(mount)
    assert hold.release() is True


def test_when_agent_and_freezer_are_killed_the_next_agent_thaws(mount: Path, journal: Path) -> None:
    agent, freezer_pid = held_by_another_process(mount, journal)
    pause(agent.pid)  # or it would thaw in the place of its freezer
    os.kill(freezer_pid, signal.SIGKILL)
    agent.kill()
    agent.wait()
    assert is_frozen(mount)
    assert thaw_leftovers(journal.parent) == [str(mount)]
    assert not is_frozen(mount)
    assert not journal.exists()
    assert thaw_leftovers(journal.parent) == []


def test_a_journal_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    journal_path(tmp_path, "torn").write_bytes(b'["/mnt')
    assert thaw_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_freezer_that_takes_longer_than_the_hold_may_last_breaks_it(
    mount: Path, journal: Path
) -> None:
    hold = Hold([mount_point(mount)], 1e-9, journal)
    with pytest.raises(HoldBrokenError, match=str(mount)):
        hold.freeze()
    hold.end()
    assert not is_frozen(mount)


def test_the_freezer_starts_without_packages() -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-S", freezer.__file__, "1"],
        input=b"",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"ready\n"
    assert time.monotonic() - begun < 10


def test_an_agent_without_the_capability_says_what_it_lacks(mount: Path) -> None:
    """Not when a snapshot is taken, but when the volume is added."""
    check = f"from {mount_point.__module__} import mount_point; mount_point({str(mount)!r})"
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    refused = subprocess.run(
        [*without, sys.executable, "-c", check], check=False, capture_output=True, text=True
    )
    assert "without CAP_SYS_ADMIN" in refused.stderr
    assert "k8s/components/freeze" in refused.stderr


def test_a_freezer_that_the_kernel_refuses_says_why(mount: Path) -> None:
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    refused = subprocess.run(
        [*without, sys.executable, freezer.__file__, "1", str(mount)],
        check=False,
        capture_output=True,
        input=b"H",
    )
    assert b"needs CAP_SYS_ADMIN" in refused.stdout
    assert not is_frozen(mount)


def test_a_folder_that_is_mounted_elsewhere_is_no_file_system_to_freeze(
    mount: Path, tmp_path: Path
) -> None:
    """As in a container, where every folder of the node that it sees is a mount point."""
    (mount / "a folder").mkdir()
    inside = tmp_path / "inside of it"
    inside.mkdir()
    run("mount", "--bind", str(mount / "a folder"), str(inside))
    try:
        with pytest.raises(SourceError, match="only the folder /a folder of its file system"):
            mount_point(inside).close()
    finally:
        run("umount", str(inside))
    run("mount", "--bind", str(mount), str(inside))
    try:
        mount_point(inside).close()
    finally:
        run("umount", str(inside))
