"""What files of hints say: three origins, and what is none of them."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from libs.errors import BadInputError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import HINTS_SIZE_BYTES_MAX, ChunkRun, unpack_runs
from services.cli import hints
from services.cli.hints import read_hints

MIB = 1 << 20


def runs_in(folder: Path, document: Any) -> list[ChunkRun]:
    path = folder / "hints.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return unpack_runs(read_hints(path), 2**60)


@pytest.mark.parametrize(
    "document",
    [
        [
            {"offset": 4 * MIB, "length": MIB, "exists": "true"},
            {"offset": 0, "length": 100, "exists": "false"},
        ],
        [{"offset": 0, "length": 100}, {"offset": 4 * MIB, "length": MIB}],
        {
            "block_metadata_type": 1,
            "volume_capacity_bytes": 1 << 30,
            "block_metadata": [
                {"size_bytes": 100},
                {"byte_offset": 4 * MIB, "size_bytes": MIB},
            ],
        },
        [
            {"blockMetadata": [{"sizeBytes": "100"}]},
            {"blockMetadata": [{"byteOffset": str(4 * MIB), "sizeBytes": str(MIB)}]},
            {"blockMetadata": []},
        ],
    ],
    ids=["rbd", "plain", "csi", "protojson"],
)
def test_each_form_says_the_same_chunks(tmp_path: Path, document: Any) -> None:
    assert runs_in(tmp_path, document) == [ChunkRun(0, 1), ChunkRun(64, 16)]


def test_extents_are_sorted_merged_and_widened_to_chunks(tmp_path: Path) -> None:
    rng = random.Random(11)
    extents = [(rng.randrange(1 << 24), rng.randrange(1, 1 << 18)) for _ in range(200)]
    document = [{"offset": offset, "length": length} for offset, length in extents]
    wanted = {
        index
        for offset, length in extents
        for index in range(offset // CHUNK_SIZE_BYTES, -(-(offset + length) // CHUNK_SIZE_BYTES))
    }
    runs = runs_in(tmp_path, document)
    assert {index for run in runs for index in range(run.first, run.end)} == wanted
    assert all(one.end < two.first for one, two in itertools.pairwise(runs))


def test_nothing_changed_is_an_answer(tmp_path: Path) -> None:
    assert runs_in(tmp_path, []) == []
    assert runs_in(tmp_path, [{"offset": 5, "length": 0}]) == []


def test_more_runs_than_a_request_takes_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "_RUN_COUNT_MAX", 10)
    rng = random.Random(12)
    wanted = sorted(rng.sample(range(10_000), 300))
    document = [{"offset": n * CHUNK_SIZE_BYTES, "length": 1} for n in wanted]
    runs = runs_in(tmp_path, document)
    assert len(runs) <= 10
    assert {*wanted} <= {index for run in runs for index in range(run.first, run.end)}
    assert HINTS_SIZE_BYTES_MAX % 12 == 0


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "expected the JSON"),
        ("{", "expected the JSON"),
        ("\xff", "expected the JSON"),
        ("[" * 100_000, "expected the JSON"),
        ("null", "expected the JSON"),
        ("3", "expected the JSON"),
        ("{}", "no offset or length"),
        ([{"foo": 1}], "no offset or length"),
        ([{"offset": 1}], "no offset or length"),
        ([{"length": 1}], "no offset or length"),
        ([{"offset": -1, "length": 5}], "negative"),
        ([{"offset": 1, "length": -5}], "negative"),
        ([{"offset": 2**63 - 1, "length": 1}], "beyond"),
        ([{"offset": 1.5, "length": 1}], "expected the JSON"),
        ([{"offset": True, "length": 1}], "expected the JSON"),
        ([{"offset": "0x10", "length": 1}], "no number"),
        ([{"offset": "9" * 5000, "length": 1}], "no number"),
        ('[{"offset": 1e400, "length": 1}]', "expected the JSON"),
        ('[{"offset": 99999999999999999999999, "length": 1}]', "hints"),
        ([{"block_metadata": [{"block_metadata": [{"offset": -1, "length": 1}]}]}], "negative"),
    ],
    ids=str,
)
def test_what_is_none_is_refused_with_a_reason(tmp_path: Path, document: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        runs_in(tmp_path, document)


def test_a_file_that_is_missing_or_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="check the path"):
        read_hints(tmp_path / "none.json")
    with pytest.raises(BadInputError, match="hints"):
        read_hints(tmp_path)
    long = tmp_path / "long.json"
    with long.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(BadInputError, match="at most"):
        read_hints(long)
