"""Checkpoints: what is read is what was written, in this order, under this key; nothing else."""

import dataclasses
from pathlib import Path

import pytest

from libs.checkpoints.checkpoint import (
    PART_PLAIN_SIZE_BYTES,
    Head,
    object_digest,
    open_head,
    open_part,
    parts_of,
)
from libs.checkpoints.rows import HoldRow, PastRow, RejectedRow, Row, SnapshotRow, TenantRow
from libs.checkpoints.shelf import CheckpointShelf
from libs.errors import BadInputError, DamagedDataError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.store.folder import FolderStore
from libs.store.layout import CheckpointName, checkpoint_object
from tests.golden import make_formats as golden

FIRST_PART = dataclasses.replace(golden.CHECKPOINT, part=0)


def read(path: str) -> bytes:
    return (golden.FOLDER / "checkpoints" / path).read_bytes()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, golden.CHECKPOINT_ROWS_V1),
        (2, golden.CHECKPOINT_ROWS_V2),
        (3, golden.CHECKPOINT_ROWS_V4),
        (4, golden.CHECKPOINT_ROWS_V4),
        (5, golden.CHECKPOINT_ROWS_V5),
        (6, golden.CHECKPOINT_ROWS),
    ],
)
def test_the_golden_checkpoint_reads_back(version: int, expected: tuple[Row, ...]) -> None:
    part = read(f"part-v{version}.bin")
    head = open_head(read(f"head-v{version}.bin"), golden.CHECKPOINT, golden.KEK)
    assert head == golden.checkpoint_head(part)
    rows = open_part(part, FIRST_PART, head.parts[0], golden.KEK)
    assert tuple(rows) == expected


def test_the_golden_delta_is_applied_to_its_golden_base(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    shelf = CheckpointShelf(store, golden.KEK)
    for name, file in ((golden.CHECKPOINT, ""), (golden.DELTA, "delta-")):
        first = dataclasses.replace(name, part=0)
        store.put(checkpoint_object(first), read(f"{file}part-v6.bin"))
        store.put(checkpoint_object(name), read(f"{file}head-v6.bin"))
    newest = shelf.newest_state()
    assert newest is not None
    assert newest.name == golden.DELTA
    gone = (SnapshotRow, HoldRow)
    kept = [row for row in golden.CHECKPOINT_ROWS if not isinstance(row, gone)]
    (past,) = (row for row in golden.DELTA_ROWS if isinstance(row, PastRow))
    after = next(n for n, row in enumerate(kept) if isinstance(row, RejectedRow))
    assert list(shelf.rows(newest)) == [*kept[:after], past, *kept[after:]]


def test_every_changed_bit_of_a_head_is_found() -> None:
    data = bytearray(read("head-v1.bin"))
    for position in range(len(data)):
        data[position] ^= 1
        with pytest.raises(DamagedDataError):
            open_head(bytes(data), golden.CHECKPOINT, golden.KEK)
        data[position] ^= 1
    for length in range(len(data)):
        with pytest.raises(DamagedDataError):
            open_head(bytes(data[:length]), golden.CHECKPOINT, golden.KEK)


def test_a_head_at_another_place_or_under_another_key_is_refused() -> None:
    data = read("head-v1.bin")
    with pytest.raises(DamagedDataError, match=r"says that it is .*/0{18}30;"):
        open_head(data, CheckpointName(2, 31), golden.KEK)
    with pytest.raises(WrongKeyError):
        open_head(data, golden.CHECKPOINT, KeyEncryptionKey(b"x" * 32))


def test_a_part_is_what_the_head_names_and_nothing_else() -> None:
    data = read("part-v1.bin")
    with pytest.raises(DamagedDataError, match="head names"):
        list(open_part(data, FIRST_PART, b"d" * 32, golden.KEK))
    changed = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(DamagedDataError, match="altered"):
        list(open_part(changed, FIRST_PART, object_digest(changed), golden.KEK))


def test_parts_are_bounded_and_so_are_rows() -> None:
    row = TenantRow(name="t" * 4000, domain=golden.KEYS.domain)
    parts = list(parts_of(row for _ in range(3000)))
    assert len(parts) == 3
    assert all(len(part) < PART_PLAIN_SIZE_BYTES + 5000 for part in parts)
    with pytest.raises(BadInputError):
        list(parts_of([TenantRow(name="t" * (5 << 20), domain=golden.KEYS.domain)]))


def test_the_newest_state_is_found_and_old_ones_are_thinned_out(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    shelf = CheckpointShelf(store, golden.KEK)
    assert shelf.newest_state() is None
    names = [CheckpointName(0, 1), CheckpointName(0, 10), CheckpointName(1, 2)]
    for name in names:
        digest = shelf.put_part(dataclasses.replace(name, part=0), golden.CHECKPOINT_PART)
        shelf.put_head(name, _head(digest))
    shelf.put_head(
        CheckpointName(2, 0),
        Head(kind="claim", made_at=golden.MANIFEST.created_at, positions={}, parts=()),
    )
    shelf.put_part(CheckpointName(0, 3, 0), b"")  # its head was never written
    newest = shelf.newest_state()
    assert newest is not None
    assert newest.name == names[-1]
    assert tuple(shelf.rows(newest)) == golden.CHECKPOINT_ROWS
    shelf.thin_out(1)
    left = {stat.key for stat in store.list("checkpoints/")}
    kept = (names[2], dataclasses.replace(names[2], part=0), CheckpointName(2, 0))
    assert left == {checkpoint_object(name) for name in kept}


def _head(digest: bytes) -> Head:
    return Head(kind="state", made_at=golden.MANIFEST.created_at, positions={}, parts=(digest,))
