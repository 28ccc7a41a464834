"""The name of a restore's target: what it may be, when it appears, and whose it never touches."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from libs.errors import BadInputError, ConflictError, NotFoundError, TargetError
from libs.restoring.target import check_target, open_target
from libs.runtime import libc
from tests.support.loop_devices import LoopDevice

OLD, NEW = b"what was there", b"restored"


def restore(out: Path, *, force: bool = False) -> None:
    """Write NEW to a target."""
    with open_target(out, len(NEW), force=force) as target:
        target.write(0, [memoryview(NEW)])


def interrupted(out: Path, meanwhile: Callable[[], object], *, force: bool = False) -> None:
    """A restore during which somebody does something, and which fails then."""
    with open_target(out, 5, force=force):
        meanwhile()
        raise ZeroDivisionError


def overtaken(out: Path, meanwhile: Callable[[], object], *, force: bool = False) -> None:
    """A restore during which somebody does something."""
    with open_target(out, len(NEW), force=force) as target:
        meanwhile()
        target.write(0, [memoryview(NEW)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def mode_of(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def test_a_file_appears_under_its_name_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_target(out, len(NEW), force=False) as target:
        target.write(0, [memoryview(NEW)])
        assert not out.exists()
        (partial,) = tmp_path.iterdir()
        assert mode_of(partial) == 0o600
    assert names(tmp_path) == {"out"}
    assert out.read_bytes() == NEW


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(OLD)
    for out, force in ((new, False), (old, True)):
        with pytest.raises(ZeroDivisionError):
            interrupted(out, lambda: None, force=force)
    assert names(tmp_path) == {"old"}
    assert old.read_bytes() == OLD


def test_a_failing_restore_leaves_a_file_that_another_put_under_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def put() -> None:
        out.unlink(missing_ok=True)
        out.write_bytes(OLD)

    with pytest.raises(ZeroDivisionError):
        interrupted(out, put)
    assert out.read_bytes() == OLD
    assert names(tmp_path) == {"out"}


def test_a_failing_restore_leaves_a_file_that_another_put_under_its_temporary_name(
    tmp_path: Path,
) -> None:
    def put() -> None:
        (partial,) = tmp_path.iterdir()
        partial.unlink()
        partial.write_bytes(OLD)

    with pytest.raises(ZeroDivisionError):
        interrupted(tmp_path / "out", put)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == OLD


@pytest.mark.parametrize("code", [0, errno.EINVAL])
def test_a_name_that_another_took_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where the file system cannot rename so (EINVAL) a second name does the same."""
    if code:
        monkeypatch.setattr(libc, "_renamed_without_replacing", lambda *_: False)
    out = tmp_path / "out"
    with pytest.raises(ConflictError, match="out: was made by somebody else"):
        overtaken(out, lambda: out.write_bytes(OLD))
    assert out.read_bytes() == OLD
    assert names(tmp_path) == {"out"}
    out.unlink()
    restore(out)
    assert out.read_bytes() == NEW
    assert names(tmp_path) == {"out"}


def test_a_file_that_is_overwritten_is_readable_for_its_owner_alone(tmp_path: Path) -> None:
    out, other_name = tmp_path / "out", tmp_path / "other name"
    out.write_bytes(OLD)
    out.chmod(0o644)
    os.link(out, other_name)
    with out.open("rb") as reader:
        restore(out, force=True)
        assert reader.read() == OLD  # whoever had it open does not see what was restored
    assert mode_of(out) == 0o600
    assert out.read_bytes() == NEW
    assert other_name.read_bytes() == OLD


@pytest.mark.parametrize(
    ("leads_to", "force"),
    [("victim", True), ("victim", False), ("missing", False), ("folder", True), ("folder", False)],
)
def test_a_link_is_not_followed(tmp_path: Path, leads_to: str, *, force: bool) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    out.symlink_to(leads_to)
    before = names(tmp_path)
    with pytest.raises(BadInputError, match="out: is a symbolic link"):
        check_target(out, force=force)
    with pytest.raises(BadInputError, match="out: is a symbolic link"):
        restore(out, force=force)
    assert victim.read_bytes() == OLD
    assert names(tmp_path) == before


def test_a_link_that_comes_later_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Whoever may write to the folder wins no race: what the link leads to stays as it is."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(OLD)
    out.write_bytes(OLD)

    def exchange() -> None:
        out.unlink()
        out.symlink_to(victim)

    overtaken(out, exchange, force=True)
    assert victim.read_bytes() == OLD
    assert not out.is_symlink()
    assert out.read_bytes() == NEW


def test_a_folder_that_is_exchanged_meanwhile_keeps_what_it_has(tmp_path: Path) -> None:
    folder, moved, other = tmp_path / "folder", tmp_path / "moved", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "out").write_bytes(OLD)

    def exchange() -> None:
        folder.rename(moved)
        folder.symlink_to(other)

    overtaken(folder / "out", exchange, force=True)
    assert (other / "out").read_bytes() == OLD
    assert names(other) == {"out"}
    assert (moved / "out").read_bytes() == NEW


def test_a_folder_that_comes_in_the_way_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(OLD)

    def exchange() -> None:
        out.unlink()
        out.mkdir()

    with pytest.raises(TargetError, match="out: cannot be written"):
        overtaken(out, exchange, force=True)
    assert names(tmp_path) == {"out"}


def test_what_cannot_be_a_target_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    fifo, old = tmp_path / "fifo", tmp_path / "old"
    os.mkfifo(fifo)
    old.write_bytes(OLD)
    for out, force, expected in (
        (tmp_path, True, BadInputError),
        (Path("/"), True, BadInputError),
        (fifo, True, BadInputError),
        (Path("/dev/null"), True, BadInputError),
        (Path("/dev/stdout"), True, BadInputError),
        (old / "below", False, BadInputError),
        (tmp_path / "none" / "out", False, NotFoundError),
        (old, False, ConflictError),
    ):
        with pytest.raises(expected):
            check_target(out, force=force)
    assert old.read_bytes() == OLD


def test_a_device_is_found_behind_a_link_of_this_user_or_of_root_alone(
    loop: LoopDevice, tmp_path: Path
) -> None:
    """Names of devices are links that root has made: /dev/disk/by-id, /dev/VG/LV."""
    disk, link = tmp_path / "disk", tmp_path / "link"
    disk.write_bytes(bytes(1 << 20))
    loop.attach(disk)
    link.symlink_to(loop.path)
    with pytest.raises(ConflictError, match="link: exists"):
        check_target(link, force=False)
    restore(link, force=True)
    assert loop.path.read_bytes().startswith(NEW)
    assert link.is_symlink()
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(BadInputError, match="link: is a symbolic link"):
        restore(link, force=True)
