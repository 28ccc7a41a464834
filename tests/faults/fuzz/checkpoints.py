"""Targets: the catalog's checkpoints, as objects of the bucket and behind their seal."""

import dataclasses
from pathlib import Path

from libs.checkpoints.checkpoint import (
    object_digest,
    open_head,
    open_part,
    parts_of,
    seal_head,
    seal_part,
)
from libs.errors import DamagedDataError, WrongKeyError
from tests.faults.fuzz.target import Target
from tests.golden.make_formats import (
    CHECKPOINT,
    CHECKPOINT_PART,
    CHECKPOINT_ROWS,
    KEK,
    checkpoint_head,
)

_PART_NAME = dataclasses.replace(CHECKPOINT, part=0)
_PART = Path("tests/golden/checkpoints/part-v3.bin").read_bytes()
_HEAD = seal_head(CHECKPOINT, checkpoint_head(_PART), KEK, b"h" * 16)
_SALT = b"s" * 16


def _read_head(data: bytes) -> None:
    open_head(data, CHECKPOINT, KEK)
    assert data == _HEAD, "a changed head was opened"


def _read_part(data: bytes) -> None:
    """The plain rows, sealed as the writer would."""
    sealed = seal_part(_PART_NAME, data, KEK, _SALT)
    rows = list(open_part(sealed, _PART_NAME, object_digest(sealed), KEK))
    again = seal_part(_PART_NAME, b"".join(parts_of(rows)), KEK, _SALT)
    assert list(open_part(again, _PART_NAME, object_digest(again), KEK)) == rows


def _part_seeds() -> list[bytes]:
    return [CHECKPOINT_PART, *(b"".join(parts_of([row])) for row in CHECKPOINT_ROWS)]


CHECKPOINTS = (
    Target("checkpoint-head", _read_head, lambda: [_HEAD], (DamagedDataError, WrongKeyError)),
    Target("checkpoint-part", _read_part, _part_seeds, (DamagedDataError,), cost=2),
)
