import os
from pathlib import Path

import pytest

from libs.errors import BadInputError, ConflictError, NotFoundError
from libs.ranges import ByteRange
from services.cli.restore_target import RestoreTarget, check_target, open_target


def test_buffers_land_one_after_another_and_are_cut_off_at_the_size(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_target(out, 10, force=False) as target:
        target.write(2, [memoryview(b"abc"), memoryview(b"de")])
        target.write(8, [memoryview(b"xyz")])
    assert out.read_bytes() == b"\0\0abcde\0xy"
    assert out.stat().st_mode & 0o777 == 0o600


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def short(descriptor: int, view: memoryview, offset: int) -> int:
        return real(descriptor, view[:2], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with open_target(tmp_path / "out", 9, force=False) as target:
        target.write(1, [memoryview(b"abc"), memoryview(b""), memoryview(b"defgh")])
    assert (tmp_path / "out").read_bytes() == b"\0abcdefgh"


def test_an_error_removes_the_file_that_was_made_but_not_one_that_was_there(
    tmp_path: Path,
) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(b"old")
    for out, force in ((new, False), (old, True)):
        with pytest.raises(ZeroDivisionError), open_target(out, 5, force=force):
            raise ZeroDivisionError
    assert not new.exists()
    assert old.exists()


def test_what_cannot_be_a_target_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    fifo, old = tmp_path / "fifo", tmp_path / "old"
    os.mkfifo(fifo)
    old.write_bytes(b"old")
    for out, force, expected in (
        (tmp_path, True, BadInputError),
        (fifo, True, BadInputError),
        (Path("/dev/null"), True, BadInputError),
        (old / "below", False, BadInputError),
        (tmp_path / "none" / "out", False, NotFoundError),
        (old, False, ConflictError),
    ):
        with pytest.raises(expected):
            check_target(out, force=force)
    assert old.read_bytes() == b"old"


def test_zeroing_writes_zeros_where_the_device_cannot_do_it_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"\xff" * 3_000_000)
    with out.open("r+b") as file:
        target = RestoreTarget(out, file.fileno(), 2_900_000, is_device=True)
        target.zero(ByteRange(1_000_000, 3_000_000))
        target.sync()
    expected = b"\xff" * 1_000_000 + bytes(1_900_000) + b"\xff" * 100_000
    assert out.read_bytes() == expected
