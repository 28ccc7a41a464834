"""Clones that are kept: what a crash after each step leaves, and what makes a clone useless."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.errors import SourceError
from services.change_capture.barrier.barrier import Member
from services.change_capture.drivers.local.file_systems import file_system_of
from services.change_capture.drivers.reflink import keeping
from services.change_capture.drivers.reflink.driver import ReflinkDriver
from tests.integration.reflink.conftest import site_on
from tests.support.conducting import node_barriers
from tests.support.driver_sites import VOLUME, ReflinkSite
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Taken, settle_by_the_next_order

#: One capture of a volume that is killed at a call; arguments: volume, state folder, call, number.
_CAPTURER = """
import os, signal, sys
from pathlib import Path
from tests.support.driver_sites import ReflinkSite
from tests.support.taking import Taken
from uuid import UUID
folder, state, base, call, number = sys.argv[1:]
site = ReflinkSite(Path(folder), Path(state))
left = int(number)
def killing(done):
    def called(*arguments, **named):
        global left
        answer = done(*arguments, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return called
setattr(os, call, killing(getattr(os, call)))
if call == "replace":
    Path.replace = killing(Path.replace)
taken = Taken(site, None, named=UUID(base))
taken.settle(sealed=True)
"""


def clones(site: ReflinkSite) -> list[Path]:
    folder = site.folder / ".backcast-clones"
    return sorted(folder.iterdir()) if folder.exists() else []


def records(site: ReflinkSite) -> list[Path]:
    return sorted((site.state / "clones").rglob("*.json"))


def restarted(site: ReflinkSite) -> None:
    """Another agent process begins."""
    site.driver = ReflinkDriver(site.state, EVERYTHING)


def test_one_clone_is_kept_and_its_folder_is_the_agent_s_alone(site: ReflinkSite) -> None:
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    for _ in range(3):
        site.write(1, 1)
        base = Taken(site, base).settle(sealed=True)
        assert [path.name for path in clones(site)] == [f"{VOLUME}.{base.session}"]
        assert len(records(site)) == 1
    folder = clones(site)[0].parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert clones(site)[0].stat().st_mode & 0o777 == 0o600
    site.driver.forget(VOLUME)
    assert (clones(site), records(site)) == ([], [])


def test_a_session_that_failed_leaves_the_clone_of_its_base(site: ReflinkSite) -> None:
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    before = clones(site)
    Taken(site, base, finishes=False)
    assert clones(site) == before
    Taken(site, base).settle(sealed=False)
    assert clones(site) == before


def test_what_nobody_settled_is_settled_by_the_next_order(site: ReflinkSite) -> None:
    settle_by_the_next_order(
        site,
        lambda: restarted(site),
        lambda: {UUID(path.name.removeprefix(f"{VOLUME}.")) for path in clones(site)},
    )


@pytest.mark.parametrize(
    ("call", "numbers"),
    [("setxattr", 2), ("link", 1), ("fsync", 6), ("replace", 2), ("unlink", 1)],
)
def test_a_kill_after_each_step_costs_a_capture_at_most(
    site: ReflinkSite, call: str, numbers: int
) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    killed = 0
    for number in range(1, numbers + 1):
        site.write(2, 1)
        arguments = [str(site.folder), str(site.state), str(base.session), call, str(number)]
        ended = subprocess.run([sys.executable, "-c", _CAPTURER, *arguments], check=False)
        killed += ended.returncode == -signal.SIGKILL
        restarted(site)
        site.write(5, 1)
        taken = Taken(site, base)
        # Only after the outcome was acted on the base's clone may be gone.
        assert taken.trust == "candidates" or call == "unlink"
        assert taken.chunks == taken.truth
        base = taken.settle(sealed=True)
        assert [path.name for path in clones(site)] == [f"{VOLUME}.{base.session}"]
        assert len(records(site)) == 1
    assert killed == numbers


def damaged(site: ReflinkSite, how: str) -> str:
    """Damage what is kept, and say what must come of it."""
    (clone,), (record,) = clones(site), records(site)
    fields = json.loads(record.read_bytes())
    match how:
        case "clone deleted":
            clone.unlink()
            return "unknown"
        case "record deleted":
            record.unlink()
            return "unknown"
        case "record cut off":
            record.write_bytes(record.read_bytes()[:-9])
            return "unknown"
        case "record of a later release":
            record.write_text(json.dumps(fields | {"version": 2}))
            return "unknown"
        case "folder deleted":
            shutil.rmtree(clone.parent)
            return "unknown"
        case "clone written to":
            with clone.open("r+b") as file:
                file.write(b"x")
        case "clone made anew from the image":
            run_cp(site.path, clone)
        case "clone replaced by a copy":
            run_cp(clone, clone.with_suffix(".copy"))
            clone.with_suffix(".copy").replace(clone)
        case "another token":
            os.setxattr(clone, keeping.CLONE_MARK, b"another")
    return "unclean"


def run_cp(source: Path, target: Path) -> None:
    options = ["--reflink=always", "--preserve=all"]
    subprocess.run(["cp", *options, str(source), str(target)], check=True)


@pytest.mark.parametrize(
    "how",
    [
        "clone deleted",
        "record deleted",
        "record cut off",
        "record of a later release",
        "folder deleted",
        "clone written to",
        "clone made anew from the image",
        "clone replaced by a copy",
        "another token",
    ],
)
def test_what_was_touched_is_not_believed(site: ReflinkSite, how: str) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.write(3, 1)
    expected = damaged(site, how)
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.lost.reason == expected
    assert taken.chunks == taken.truth
    again = Taken(site, taken.settle(sealed=True))
    assert (again.trust, again.named) == ("candidates", set())


def test_a_renamed_folder_keeps_its_clones(site: ReflinkSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    moved = site.folder.with_name(site.folder.name + " moved")
    site.folder.rename(moved)
    site.folder, site.path = moved, moved / site.path.name
    site.file.path = site.path
    site.write(3, 1)
    taken = Taken(site, base)
    assert (taken.trust, taken.named) == ("candidates", {3})
    taken.settle(sealed=True)
    assert [path.name for path in clones(site)] == [f"{VOLUME}.{taken.session}"]


def test_two_images_of_one_folder_do_not_know_each_other(site: ReflinkSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    mine = site.path
    other = site.folder / "other"
    run_cp(mine, other)
    site.path = other
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.lost.reason == "another-device"


def test_what_is_too_old_is_let_go(site: ReflinkSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    restarted(site)
    assert len(clones(site)) == 1
    monkeypatch.setattr(keeping, "KEPT_SECONDS_MAX", -1.0)
    restarted(site)
    assert (clones(site), records(site)) == ([], [])
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.chunks == taken.truth


def test_records_wait_for_a_file_system_that_is_away(site: ReflinkSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    away = site.folder.with_name(site.folder.name + " away")
    site.folder.rename(away)
    restarted(site)
    away.rename(site.folder)
    restarted(site)
    taken = Taken(site, base)
    assert taken.trust == "candidates"


def test_a_full_state_folder_costs_the_next_capture_and_not_this_one(
    site: ReflinkSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(0, 8)
    (site.state / "clones").mkdir(parents=True, exist_ok=True)
    (site.state / "clones" / str(VOLUME)).write_bytes(b"in the way")
    taken = Taken(site, None).settle(sealed=True)
    assert "clone not kept" in caplog.text
    assert clones(site) == []
    (site.state / "clones" / str(VOLUME)).unlink()
    again = Taken(site, taken)
    assert again.lost is not None
    assert again.chunks == again.truth


def test_another_s_folder_is_left_alone(site: ReflinkSite) -> None:
    """Whoever may write beside an image may have made a folder of this name."""
    theirs = site.folder / ".backcast-clones"
    theirs.mkdir(mode=0o755)
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    assert list(theirs.iterdir()) == []
    assert Taken(site, base).lost is not None


def test_what_cannot_be_cloned_is_compared_whole(tmp_path: Path) -> None:
    """This folder is on no file system that clones, or the driver would say so."""
    with (tmp_path / "volume").open("wb") as file:
        if file_system_of(file.fileno()).kind in keeping.UNDERSTOOD:
            pytest.skip("the folder of tests can clone")
    site = ReflinkSite(tmp_path, tmp_path / "state")
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    taken = Taken(site, base)
    assert taken.lost is not None
    assert taken.chunks == taken.truth
    assert clones(site) == []
    view = site.driver.view(TENANT, site.path)
    with contextlib.closing(view), pytest.raises(SourceError, match="XFS"):
        site.driver.require_tracking(view)


def test_before_a_volume_is_protected_it_is_seen_that_clones_can_be_kept(
    site: ReflinkSite,
) -> None:
    site.write(0, 4)
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        site.driver.require_tracking(view)
        assert clones(site) == []
        (site.folder / ".backcast-clones").chmod(0o755)
        with pytest.raises(SourceError, match="agent's alone"):
            site.driver.require_tracking(view)


def test_an_order_for_an_unknown_base_removes_what_no_order_will_name(
    cloning: Path, tmp_path: Path
) -> None:
    site = site_on(cloning, tmp_path)
    site.write(0, 4)
    Taken(site, None).settle(sealed=True)
    taken = Taken(site, None, named=uuid4())
    assert [path.name for path in clones(site)] == [f"{VOLUME}.{taken.session}"]


def test_the_clone_that_a_barrier_cut_is_kept(site: ReflinkSite, tmp_path: Path) -> None:
    site.write(0, 8)
    barriers, order = node_barriers(tmp_path / "holds"), site.order(None)
    barriers.prepare(order.session, 1, TENANT, [Member(VOLUME, site.path, None)], 10)
    barriers.hold(order.session, 1)
    barriers.cut(order.session, 1)
    barriers.release(order.session, 1, abandoned=False)
    site.write(5, 1)  # after the cut
    view = barriers.take_view(order.session, 1, VOLUME)
    tracker = site.driver.tracker(order, view)
    assert [*tracker.candidates()]
    tracker.finish()
    tracker.close()
    view.close()
    tracker.settle(sealed=True)
    taken = Taken(site, None, named=order.session)
    assert (taken.trust, taken.named) == ("candidates", {5})
    barriers.close()


def test_a_full_file_system_refuses_or_captures_and_damages_nothing(site: ReflinkSite) -> None:
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.write(3, 1)
    os.sync()
    before = site.path.read_bytes()
    filler = site.folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            for piece in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while file.write(bytes(piece)) == piece:
                        pass
                os.fsync(file.fileno())
        for _ in range(3):
            with contextlib.suppress(SourceError):
                taken = Taken(site, base)
                assert taken.chunks == taken.truth
                taken.settle(sealed=False)
        assert site.path.read_bytes() == before
    finally:
        filler.unlink(missing_ok=True)
    restarted(site)
    taken = Taken(site, base)
    assert taken.chunks == taken.truth
    assert taken.trust == "candidates"
    assert taken.named == {3}
