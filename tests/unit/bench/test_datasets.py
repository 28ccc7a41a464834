from pathlib import Path

import pytest

from bench import ext4
from bench.datasets import data_extents, identical, prepare, range_offset
from bench.synthetic import SparseShape, Text, build_mixed, build_sparse

MIB = 1 << 20


def sparse_file(path: Path, size: int, data: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data.items():
            file.seek(offset)
            file.write(content)
    return path


def test_files_with_the_same_bytes_and_other_holes_are_identical(tmp_path: Path) -> None:
    first = sparse_file(tmp_path / "a", 4 * MIB, {MIB: b"x" * 5000})
    second = sparse_file(tmp_path / "b", 4 * MIB, {0: bytes(MIB), MIB: b"x" * 5000})
    assert identical(first, second)


@pytest.mark.parametrize("other", [{MIB: b"y"}, {MIB: b"x", 3 * MIB: b"z"}, {}])
def test_a_difference_is_seen_in_data_and_in_either_files_holes(
    tmp_path: Path, other: dict[int, bytes]
) -> None:
    first = sparse_file(tmp_path / "a", 4 * MIB, {MIB: b"x"})
    second = sparse_file(tmp_path / "b", 4 * MIB, other)
    assert not identical(first, second)
    assert not identical(second, first)


def test_a_shorter_file_is_not_identical(tmp_path: Path) -> None:
    first, second = (sparse_file(tmp_path / str(size), size, {}) for size in (MIB, MIB - 1))
    assert not identical(first, second)


def test_the_range_lies_in_data_after_three_quarters(tmp_path: Path) -> None:
    data = {0: b"x" * MIB, 14 * MIB: b"x" * (2 * MIB)}
    image = sparse_file(tmp_path / "a", 16 * MIB, data)
    offset = range_offset(image, MIB)
    assert offset == 14 * MIB
    assert any(start <= offset and offset + MIB <= end for start, end in data_extents(image))


def test_the_range_is_taken_before_three_quarters_if_nothing_follows(tmp_path: Path) -> None:
    image = sparse_file(tmp_path / "a", 16 * MIB, {4 * MIB: b"x" * (2 * MIB)})
    assert range_offset(image, MIB) == 5 * MIB


def test_seeded_images_are_the_same_every_time(tmp_path: Path) -> None:
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
        build_mixed(folder, size_mib=8)
    for name in ("golden", "day2", "clone"):
        first, second = (folder / f"{name}.raw" for folder in folders)
        assert identical(first, second)
    assert not identical(folders[0] / "golden.raw", folders[0] / "day2.raw")


def test_a_sparse_image_has_as_much_data_as_its_shape_says(tmp_path: Path) -> None:
    build_sparse(tmp_path, SparseShape(1 << 30, 4 * MIB, 64 << 10))
    image = tmp_path / "golden.raw"
    assert image.stat().st_size == 1 << 30
    assert sum(end - start for start, end in data_extents(image)) == 4 * MIB


def test_text_has_exactly_the_size_asked_for() -> None:
    text = Text(1)
    assert [len(text.make(size)) for size in (0, 1, 4096, 1_000_003)] == [0, 1, 4096, 1_000_003]


def test_images_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = prepare("synthetic", 8, cache)
    inode = made.golden.stat().st_ino
    again = prepare("synthetic", 8, cache)
    assert again.golden.stat().st_ino == inode
    assert again.manifest["golden"]["logical_bytes"] == 8 * MIB
    assert cache.stat().st_mode & 0o077 == 0


def test_who_cannot_mount_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ext4, "can_build", lambda: False)
    with pytest.raises(SystemExit, match="--datasets synthetic"):
        prepare("real", 64, tmp_path)
