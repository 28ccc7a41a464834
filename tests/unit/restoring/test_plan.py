import base64
import json
import struct
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import DamagedDataError, UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES, place_of
from libs.ranges import pack_runs, runs_of
from libs.restoring.fetch import FETCH_SIZE_BYTES_MAX, Fetch, fetches_of
from libs.restoring.plan import (
    PlannedPoint,
    PlanStart,
    decode_start,
    decode_window,
    encode,
    following_chunk,
    named_runs,
    pieces_of,
)

GENERATION = UUID(int=5)
_FRAME_STORED_BYTES = 400_000
_FRAME_PLAIN_BYTES = 16 * CHUNK_SIZE_BYTES


def window_of(wanted: dict[int, tuple[int, int]], frame_count: int) -> dict[str, Any]:
    """A window on one pack of equal frames: chunk index → (frame number, slot in the frame)."""
    ordered = sorted(wanted.items())
    return {
        "first_chunk": 0,
        "chunk_count": 32_768,
        "packs": [
            {
                "generation": GENERATION.hex,
                "url": "http://s3/pack",
                "size_bytes": 64 + frame_count * _FRAME_STORED_BYTES + 5000,
                "key": _text(bytes(32)),
                "frames": [
                    [n, 64 + n * _FRAME_STORED_BYTES, _FRAME_STORED_BYTES, _FRAME_PLAIN_BYTES]
                    for n in sorted({frame for frame, _ in wanted.values()})
                ],
            }
        ],
        "runs": _text(pack_runs(runs_of(index for index, _ in ordered))),
        "ids": _text(b"".join(index.to_bytes(32, "big") for index, _ in ordered)),
        "pack_ordinals": _text(bytes(2 * len(ordered))),
        "places": _text(
            b"".join(
                struct.pack("<I", place_of(frame, slot * CHUNK_SIZE_BYTES))
                for _, (frame, slot) in ordered
            )
        ),
    }


def fetches_from(document: object) -> list[Fetch]:
    window = decode_window(json.dumps(document).encode(), 0, 2**47)
    return fetches_of(window, named_runs(window))


@given(
    st.dictionaries(
        st.integers(0, 5000), st.tuples(st.integers(0, 79), st.integers(0, 15)), max_size=60
    )
)
def test_every_chunk_is_fetched_once_by_gets_of_bounded_size(
    wanted: dict[int, tuple[int, int]],
) -> None:
    fetches = fetches_from(window_of(wanted, 80))
    fetched = {}
    for fetch in fetches:
        assert fetch.byte_range.length <= FETCH_SIZE_BYTES_MAX
        for frame in fetch.frames:
            assert fetch.byte_range.start <= frame.entry.offset
            assert frame.entry.byte_range.end <= fetch.byte_range.end
            for index, position, id_ in frame.chunks:
                assert index not in fetched
                assert int.from_bytes(id_, "big") == index
                fetched[index] = (frame.number, position // CHUNK_SIZE_BYTES)
    assert fetched == wanted
    numbers = [frame.number for fetch in fetches for frame in fetch.frames]
    assert len(numbers) == len(set(numbers))


def test_most_of_a_pack_is_read_through_its_gaps_and_little_of_it_is_not() -> None:
    most = {n: (frame, 0) for n, frame in enumerate(f for f in range(20) if f % 3)}
    (only,) = fetches_from(window_of(most, 20))
    assert len(only.frames) == 13
    little = {0: (0, 0), 1: (10, 0), 2: (11, 0)}
    fetches = fetches_from(window_of(little, 80))
    assert [[frame.number for frame in fetch.frames] for fetch in fetches] == [[0], [10, 11]]


def test_a_window_of_zeros_fetches_nothing() -> None:
    assert fetches_from(window_of({}, 1)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", ""),
        ("ids", "not base64!"),
        ("places", ""),
        ("pack_ordinals", "AQA="),
        ("runs", ""),
        ("runs", "AAAA"),
        ("packs", []),
        ("packs", None),
        ("first_chunk", "x"),
        ("first_chunk", 1),
        ("chunk_count", 0),
        ("chunk_count", 32_769),
    ],
)
def test_a_window_that_contradicts_itself_is_damaged(name: str, value: object) -> None:
    document = window_of({0: (0, 0)}, 1)
    fetches_from(document)
    with pytest.raises(DamagedDataError, match="no window of a plan"):
        fetches_from(document | {name: value})


@pytest.mark.parametrize(
    "frame",
    [
        [1, 64, 400_000, _FRAME_PLAIN_BYTES],
        [0, -1, 400_000, _FRAME_PLAIN_BYTES],
        [0, 1 << 40, 400_000, _FRAME_PLAIN_BYTES],
        [0, 64, 2_000_000, _FRAME_PLAIN_BYTES],
        [0, 64, 17, _FRAME_PLAIN_BYTES],
        [0, 64, 400_000, 1 << 30],
        [0, 64, 30_000, 32_768],
        [0, 64, 400_000],
    ],
)
def test_frames_out_of_bounds_are_refused_before_anything_is_read(frame: list[int]) -> None:
    document = window_of({0: (0, 0)}, 1)
    document["packs"][0]["frames"] = [frame]
    with pytest.raises(DamagedDataError):
        fetches_from(document)


def test_what_is_no_json_comes_from_somebody_else() -> None:
    with pytest.raises(UnavailableError, match="without JSON"):
        decode_window(b"<html>", 0, 1)


def test_neither_urls_nor_keys_are_shown() -> None:
    window = decode_window(json.dumps(window_of({0: (0, 0)}, 1)).encode(), 0, 2**47)
    assert window.packs[0].url not in repr(window)
    assert repr(window.packs[0].key) not in repr(window.packs)


def test_a_start_is_read_back_as_it_was_written_and_its_bounds_are_checked() -> None:
    point = PlannedPoint(
        volume="vm", sequence=7, session=UUID(int=2), sealed_at=datetime.now(UTC), size_bytes=70_000
    )
    start = PlanStart(
        restore=UUID(int=1),
        point=point,
        chunk_size_bytes=CHUNK_SIZE_BYTES,
        chunk_count=2,
        window_chunk_count_max=32_768,
        deadline_seconds=300.0,
        id_key=bytes(32),
    )
    assert decode_start(encode(start)) == start
    for wrong in ({"chunk_count": -1}, {"id_key": ""}, {"window_chunk_count_max": 0}):
        with pytest.raises(DamagedDataError):
            decode_start(json.dumps(json.loads(encode(start)) | wrong).encode())


def _text(column: bytes) -> str:
    return base64.b64encode(column).decode()


def test_a_window_says_where_the_next_one_begins() -> None:
    document = window_of({0: (0, 0)}, 1)
    chunk_count = document["chunk_count"] + 100
    first = document["chunk_count"]
    window = decode_window(json.dumps(document).encode(), 0, chunk_count)
    assert following_chunk(window) == first
    for next_chunk in (first, first + 7, chunk_count):
        body = json.dumps(document | {"next_chunk": next_chunk}).encode()
        assert following_chunk(decode_window(body, 0, chunk_count)) == next_chunk
    for next_chunk in (0, first - 1, chunk_count + 1):
        body = json.dumps(document | {"next_chunk": next_chunk}).encode()
        with pytest.raises(DamagedDataError, match="no window of a plan"):
            decode_window(body, 0, chunk_count)


@given(
    st.sets(st.integers(0, 300), max_size=80),
    st.integers(1, 120),
)
def test_pieces_of_a_window_fetch_what_the_window_does(wanted: set[int], size: int) -> None:
    places = {index: (number // 16, number % 16) for number, index in enumerate(sorted(wanted))}
    document = window_of(places, 8) | {"chunk_count": 301}
    window = decode_window(json.dumps(document).encode(), 0, 301)
    whole = [
        chunk
        for fetch in fetches_of(window, named_runs(window))
        for frame in fetch.frames
        for chunk in frame.chunks
    ]
    parts, at = [], 0
    for piece, runs in pieces_of(window, named_runs(window), size):
        assert piece.first_chunk == at
        assert piece.chunk_count <= size
        assert runs == named_runs(piece)
        at = piece.chunks.end
        for fetch in fetches_of(piece, runs):
            chunks = [chunk for frame in fetch.frames for chunk in frame.chunks]
            assert all(piece.first_chunk <= index < at for index, _, _ in chunks)
            parts += chunks
    assert at == 301
    assert sorted(parts) == sorted(whole)
