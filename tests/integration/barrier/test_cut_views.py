"""Clones on a real XFS, and views that a node has cut."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import HoldBrokenError, SourceError
from services.change_capture.barrier.barrier import Barriers, Member
from services.change_capture.drivers.local.clone import clone
from services.change_capture.drivers.local.roots import OpenSource
from services.change_capture.drivers.port import FrozenView
from tests.integration.barrier.orders import OTHER, SESSION, VOLUME, through
from tests.support.file_systems import mounted, needs_mounts
from tests.support.roots import EVERYTHING, TENANT, view_of

pytestmark = needs_mounts

MIB = 1 << 20


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("xfs")
    with mounted(folder / "image", folder / "mount", "xfs", 400) as mount:
        yield mount


def used_blocks(mount: Path) -> int:
    os.sync()
    status = os.statvfs(mount)
    return status.f_blocks - status.f_bfree


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


_CLONER = """
import os, signal, sys
from pathlib import Path
from services.change_capture.drivers.local.clone import clone
from tests.support.roots import EVERYTHING, TENANT
path = Path(sys.argv[1])
copy = clone(EVERYTHING.open(TENANT, path))
assert copy is not None
path.write_bytes(b"y" * path.stat().st_size)
os.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""


def clone_of(path: Path) -> OpenSource | None:
    with contextlib.closing(EVERYTHING.open(TENANT, path)) as source:
        return clone(source)


def test_a_clone_keeps_what_is_overwritten_and_has_no_name(xfs: Path) -> None:
    path = xfs / "volume"
    path.write_bytes(b"before" * MIB)
    copy = clone_of(path)
    assert copy is not None
    assert names(xfs) == ["volume"]
    path.write_bytes(b"later")
    assert os.pread(copy.descriptor, 7 * MIB, 0) == b"before" * MIB
    copy.close()
    path.unlink()


def test_a_killed_process_leaves_no_clone(xfs: Path) -> None:
    path = xfs / "volume"
    path.write_bytes(b"x" * MIB)
    empty = used_blocks(xfs)
    done = subprocess.run([sys.executable, "-c", _CLONER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(xfs) == ["volume"]
    assert wait_until(lambda: used_blocks(xfs) <= empty, 20)  # freed in the background
    path.unlink()


def test_what_cannot_be_cloned_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"x")
    with mounted(tmp_path / "image", tmp_path / "mount") as ext4:
        (ext4 / "volume").write_bytes(b"x")
        assert clone_of(ext4 / "volume") is None
    assert clone_of(Path("/dev/loop0")) is None


# ---- a node's barriers, with the views that they make


def content(view: FrozenView) -> bytes:
    buffer = bytearray(-(-view.size_bytes // 4096) * 4096)
    view.read_into(0, memoryview(buffer))
    return bytes(buffer[: view.size_bytes])


def test_a_view_under_an_unbroken_freeze_is_frozen(
    xfs: Path, tmp_path: Path, barriers: Barriers
) -> None:
    """The image lies on XFS; the file system inside it is mounted, frozen, and cloned."""
    image = xfs / "guest"
    with mounted(image, tmp_path / "guest") as guest:
        (guest / "file").write_bytes(b"before the cut")
        status = through(barriers, Member(VOLUME, image, str(guest)))
        assert (status.means, status.unbroken) == ("fsfreeze", True)
        view = barriers.take_view(SESSION, 1, VOLUME)
        at_the_cut = content(view)
        (guest / "file").write_bytes(b"after the cut!")
        os.sync()
        assert image.read_bytes() != at_the_cut
        assert content(view) == at_the_cut
        assert view.consistency() == "frozen"
        with contextlib.closing(view_of(image)) as itself:
            assert view.identity == itself.identity
        view.close()
    image.unlink()


def test_a_clone_without_a_hold_is_quiet_only_if_nothing_wrote_around_the_cut(
    xfs: Path, barriers: Barriers
) -> None:
    quiet, busy = xfs / "quiet", xfs / "busy"
    for path in (quiet, busy):
        path.write_bytes(b"x" * MIB)
    members = (Member(VOLUME, quiet, None), Member(OTHER, busy, None))
    barriers.prepare(SESSION, 1, TENANT, members, 10)
    barriers.hold(SESSION, 1)
    barriers.cut(SESSION, 1)
    os.utime(busy, ns=(1, 1))  # as a write would, within the clock's resolution too
    assert barriers.release(SESSION, 1, abandoned=False).unbroken
    os.utime(quiet, ns=(1, 1))  # later than the release: the clone does not see it
    views = [barriers.take_view(SESSION, 1, volume) for volume in (VOLUME, OTHER)]
    assert [view.consistency() for view in views] == ["quiet", "fuzzy"]
    for view in views:
        view.close()
    quiet.unlink()
    busy.unlink()


def test_an_image_on_the_file_system_that_is_frozen_is_not_cloned(
    xfs: Path, barriers: Barriers
) -> None:
    """A clone would wait for the thaw, and break the hold."""
    path = xfs / "volume"
    path.write_bytes(b"x" * MIB)
    assert through(barriers, Member(VOLUME, path, str(xfs))).unbroken
    view = barriers.take_view(SESSION, 1, VOLUME)
    assert view.consistency() == "quiet"
    view.close()
    path.unlink()


def test_a_hold_whose_time_was_over_gives_no_view(tmp_path: Path, barriers: Barriers) -> None:
    """Scenario 18: it may have written meanwhile."""
    image = tmp_path / "guest"
    with mounted(image, tmp_path / "mount") as guest:
        member = Member(VOLUME, image, str(guest))
        barriers.prepare(SESSION, 1, TENANT, [member], 0.2)
        barriers.hold(SESSION, 1)
        barriers.cut(SESSION, 1)
        time.sleep(0.3)  # its time passes: nothing else ends it
        assert not barriers.release(SESSION, 1, abandoned=False).unbroken
        with pytest.raises(SourceError, match="is gone"):
            barriers.take_view(SESSION, 1, VOLUME)
        barriers.prepare(SESSION, 2, TENANT, [member], 0.2)
        barriers.hold(SESSION, 2)
        time.sleep(0.3)
        with pytest.raises(HoldBrokenError, match=str(guest)):
            barriers.cut(SESSION, 2)


def test_an_abandoned_barrier_thaws_and_gives_no_view(tmp_path: Path, barriers: Barriers) -> None:
    image = tmp_path / "guest"
    with mounted(image, tmp_path / "mount") as guest:
        barriers.prepare(SESSION, 1, TENANT, [Member(VOLUME, image, str(guest))], 60)
        barriers.hold(SESSION, 1)
        assert barriers.release(SESSION, 1, abandoned=True).released_at
        (guest / "file").write_bytes(b"writes go on")
        with pytest.raises(SourceError, match="is gone"):
            barriers.take_view(SESSION, 1, VOLUME)
