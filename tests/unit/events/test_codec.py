import dataclasses
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import (
    BadEventError,
    BadInputError,
    MalformedEventError,
    OversizedEventError,
    UnknownEventError,
)
from libs.events.block_changes import CaptureCompleted, ExtentsChanged
from libs.events.codec import EVENT_SIZE_BYTES_MAX, Codec, decode, encode
from libs.events.registry import REGISTRY, Event
from libs.events.snapshots import SnapshotRequested
from tests.golden.make_events import SAMPLES, SESSION, VOLUME
from tests.unit.events.strategies import any_event

REQUESTED = "backcast.snapshots.snapshot_requested"
BY_TYPE: dict[type[Any], Any] = {type(event): event for event in SAMPLES}


@given(any_event())
def test_an_event_comes_back_as_it_was_written(event: Event) -> None:
    name, version = REGISTRY.wire_of(type(event))
    assert decode(name, version, encode(event)) == event


@given(st.binary(max_size=400), st.sampled_from([entry.name for entry in REGISTRY.events]))
def test_random_bytes_are_refused_with_an_error_of_the_tree(value: bytes, name: str) -> None:
    with pytest.raises(BadEventError):
        decode(name, 1, value)


def damaged(value: bytes) -> Iterator[bytes]:
    """Every value with one bit flipped, cut off anywhere, or with something behind it."""
    for at in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[at // 8] ^= 1 << at % 8
        yield bytes(flipped)
    for length in range(len(value)):
        yield value[:length]
    yield value + b"\x00"


def silently_misread(codec: Codec) -> list[tuple[str, bytes]]:
    """Damaged values that a codec accepts although they are not what any event is written as."""
    found = []
    for event in SAMPLES:
        name, version = REGISTRY.wire_of(type(event))
        for value in damaged(codec.encode(event)):
            try:
                read = codec.decode(name, version, value)
            except BadEventError:
                continue
            if read == event or codec.encode(read) != value:
                found.append((name, value))
    return found


def test_no_damaged_value_is_misread_in_silence() -> None:
    assert silently_misread(Codec(REGISTRY)) == []


def test_the_search_for_misread_values_finds_a_codec_that_ignores_unknown_fields() -> None:
    class Lenient(Codec):
        def _check_canonical(self, name: str, content: object, value: bytes) -> None:
            pass

    assert silently_misread(Lenient(REGISTRY))


@pytest.mark.parametrize(
    ("name", "version"), [("backcast.packs.pack_lost", 1), (REQUESTED, 2), (REQUESTED, 0)]
)
def test_unknown_types_and_versions_are_told_from_damage(name: str, version: int) -> None:
    with pytest.raises(UnknownEventError):
        decode(name, version, b"")


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"\xdd\xff\xff\xff\xff" * 3, id="arrays that claim 4 G items"),
        pytest.param(b"\x81\xa5group\xc6\xff\xff\xff\xff", id="bytes that claim 4 GiB"),
        pytest.param(b"\x81\xa1x" + b"\x91" * 100_000, id="nested 100,000 deep"),
        pytest.param(
            b"\x83\xa7session\xc0\xa5group\xc0\xa4base\xc0", id="null where an id must be"
        ),
        pytest.param(b"\xff\xfe", id="not msgpack"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_hostile_values_are_malformed(hostile: bytes) -> None:
    with pytest.raises(MalformedEventError, match=REQUESTED):
        decode(REQUESTED, 1, hostile)


def test_a_field_named_twice_is_malformed() -> None:
    value = encode(SnapshotRequested(session=SESSION, group=VOLUME, base=None))
    twice = b"\x84" + value[1:] + b"\xa4base\xc0"
    with pytest.raises(MalformedEventError, match="repeated"):
        decode(REQUESTED, 1, twice)


def test_an_event_above_the_limit_is_neither_written_nor_read() -> None:
    chunks = EVENT_SIZE_BYTES_MAX // 32
    runs = b"".join([(0).to_bytes(8, "little"), chunks.to_bytes(4, "little")])
    sample = BY_TYPE[ExtentsChanged]
    ids = bytes(32 * chunks)
    event = dataclasses.replace(sample, runs=runs, ids=ids, zero_runs=b"", tags=b"")
    with pytest.raises(OversizedEventError):
        encode(event)
    name, version = REGISTRY.wire_of(ExtentsChanged)
    with pytest.raises(OversizedEventError):
        decode(name, version, bytes(EVENT_SIZE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"batches_digest": bytes(31)},
        {"consistency": "perfect"},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"read_bytes": -1},
        {"read_bytes": 1 << 63},
        {"session": "not an id"},
        {"session": Ellipsis},
        {"read_bytes": 1 << 64},
        {"consistency": "\udcff"},
    ],
    ids=str,
)
def test_an_event_with_a_field_out_of_bounds_is_not_written(wrong: dict[str, Any]) -> None:
    event = dataclasses.replace(BY_TYPE[CaptureCompleted], **wrong)
    with pytest.raises(BadInputError, match="not written"):
        encode(event)


@pytest.mark.parametrize("tags", [b"\1", b"\0\0\0", b"\0\1\0\0"])
def test_a_batch_has_a_domain_tag_for_each_chunk_or_none(tags: bytes) -> None:
    sample = BY_TYPE[ExtentsChanged]
    with pytest.raises(BadInputError, match="expected 3 domain tags"):
        dataclasses.replace(sample, tags=tags)


def test_a_batch_needs_one_id_per_chunk() -> None:
    sample = BY_TYPE[ExtentsChanged]
    with pytest.raises(BadInputError, match="expected 96 bytes of ids"):
        dataclasses.replace(sample, ids=bytes(64))
    name, version = REGISTRY.wire_of(ExtentsChanged)
    fields = msgspec.msgpack.decode(encode(sample)) | {"ids": bytes(64)}
    with pytest.raises(MalformedEventError, match="expected 96 bytes of ids"):
        decode(name, version, msgspec.msgpack.encode(fields))


def test_ids_are_sixteen_bytes_on_the_wire() -> None:
    value = encode(SnapshotRequested(session=SESSION, group=VOLUME, base=None))
    assert UUID(bytes=msgspec.msgpack.decode(value)["session"]) == SESSION
