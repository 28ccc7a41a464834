"""What is particular to a folder: durability order, leftovers, and the errors of a file system."""

import errno
import os
from pathlib import Path

import pytest

from libs.errors import (
    BackcastError,
    BadInputError,
    ConfigurationError,
    ForbiddenError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.store.folder import FolderStore


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        FolderStore(tmp_path / "not-mounted")


def test_what_a_crash_left_behind_is_never_an_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / ".partial" / "0123").write_bytes(b"half")
    store.put("whole", b"x")
    assert [entry.key for entry in store.list("")] == ["whole"]


def test_an_object_cannot_be_the_folder_of_another(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a", b"x")
    with pytest.raises(BadInputError):
        store.put("a/b", b"x")
    store.put("c/d", b"x")
    with pytest.raises(BadInputError):
        store.put("c", b"x")
    assert store.get("a") == b"x"


def test_bytes_are_flushed_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("flush " + ("bytes" if target.is_file() else target.name))
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    store.put("one/two/key", b"x")
    made = [f"flush {tmp_path.name}", "flush one"]
    assert steps == ["flush bytes", *made, "rename", "flush two"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, OutOfSpaceError),
        (errno.EDQUOT, OutOfSpaceError),
        (errno.EIO, UnavailableError),
        (errno.EACCES, ForbiddenError),
    ],
)
def test_a_failed_put_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[BackcastError],
) -> None:
    def failing_fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    store = FolderStore(tmp_path)
    monkeypatch.setattr(os, "fsync", failing_fsync)
    with pytest.raises(BackcastError) as raised:
        store.put("key", b"x")
    assert type(raised.value) is expected
    assert store.stat("key") is None
    assert list((tmp_path / ".partial").iterdir()) == []


def test_nothing_is_missing_from_a_medium_that_is_not_there(tmp_path: Path) -> None:
    """An empty mount point has no objects, and says so of everything."""
    medium, mount_point = tmp_path / "medium", tmp_path / "mount-point"
    mount_point.mkdir()
    store = FolderStore(mount_point)
    store.put("packs/one", b"x")
    mount_point.rename(medium)
    mount_point.mkdir()
    for call in (
        lambda: store.stat("packs/one"),
        lambda: store.get("packs/one"),
        lambda: list(store.list("packs/")),
    ):
        with pytest.raises(UnavailableError, match="mounted"):
            call()
    mount_point.rmdir()
    medium.rename(mount_point)
    assert store.get("packs/one") == b"x"
    assert store.stat("packs/two") is None
