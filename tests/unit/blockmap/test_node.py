import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from libs.blockmap.node import (
    FAN_OUT,
    NODE_SIZE_BYTES_MAX,
    NodeHasher,
    NodeId,
    decode_node,
    encode_node,
)
from libs.blockmap.tree import MapReader, MapRoot, level_for, span_chunks
from libs.errors import BadInputError, DamagedDataError
from libs.ranges import ChunkRun

HASHER = NodeHasher(b"i" * 32)
slots = st.integers(0, FAN_OUT - 1)


@given(st.dictionaries(slots, st.binary(min_size=33, max_size=33), min_size=1))
def test_leaf_reads_back(entries: dict[int, bytes]) -> None:
    assert decode_node(encode_node(0, entries)).entries() == entries


@given(st.dictionaries(slots, st.binary(min_size=32, max_size=32), min_size=1), st.integers(1, 5))
def test_upper_node_reads_back(entries: dict[int, bytes], level: int) -> None:
    node = decode_node(encode_node(level, entries))
    assert node.level == level
    assert node.entries() == entries


@given(st.sets(slots, min_size=1))
def test_runs_of_a_leaf_are_its_present_slots(present: set[int]) -> None:
    node = decode_node(encode_node(0, {slot: bytes([slot % 256]) * 33 for slot in present}))
    found = [run.first + at for run in node.runs(1000) for at in range(run.chunk_count)]
    assert found == [1000 + slot for slot in sorted(present)]
    assert all(run.ids[:1] == bytes([(run.first - 1000) % 256]) for run in node.runs(1000))


def test_equal_entries_give_equal_bytes_whatever_their_order() -> None:
    entries = {5: b"a" * 33, 2: b"b" * 33}
    assert encode_node(0, entries) == encode_node(0, dict(sorted(entries.items())))
    assert len(encode_node(0, dict.fromkeys(range(FAN_OUT), b"x" * 33))) == NODE_SIZE_BYTES_MAX


def test_node_id_is_never_the_chunk_id_of_the_same_bytes() -> None:
    encoded = encode_node(0, {0: b"x" * 33})
    assert HASHER.node_id(encoded) != blake3(encoded, key=b"i" * 32).digest()


@pytest.mark.parametrize("level", [0, 1])
def test_every_flipped_bit_and_every_truncation_of_a_node_is_found(level: int) -> None:
    encoded = encode_node(level, {0: b"x" * (33 - (level > 0)), 9: b"y" * (33 - (level > 0))})
    node_id = HASHER.node_id(encoded)
    damaged = [encoded[:length] for length in range(len(encoded))] + [encoded + b"\0"]
    for bit in range(len(encoded) * 8):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        reader = MapReader(HASHER, {node_id: data}.__getitem__)
        with pytest.raises(DamagedDataError):
            reader.node(node_id, level)


@given(st.binary(max_size=200))
def test_decoding_anything_gives_a_node_or_a_damaged_data_error(data: bytes) -> None:
    try:
        decode_node(b"BCmn\x01" + data)
    except DamagedDataError:
        return


def test_node_of_another_level_is_refused_so_that_no_map_can_loop() -> None:
    nodes: dict[NodeId, bytes] = {}
    leaf = encode_node(0, {0: b"x" * 33})
    nodes[HASHER.node_id(leaf)] = leaf
    top = encode_node(2, {0: HASHER.node_id(leaf)})
    nodes[HASHER.node_id(top)] = top
    reader = MapReader(HASHER, nodes.__getitem__)
    with pytest.raises(DamagedDataError, match="expected level 1, got 0"):
        list(reader.lookup(MapRoot(HASHER.node_id(top), 2), ChunkRun(0, 1)))


def test_lookup_gives_just_the_wanted_part_of_runs() -> None:
    leaf = encode_node(0, {slot: bytes([slot]) * 33 for slot in (3, 4, 5, 6, 9)})
    reader = MapReader(HASHER, lambda _: leaf)
    runs = list(reader.lookup(MapRoot(HASHER.node_id(leaf), 0), ChunkRun(4, 6)))
    assert [(run.first, run.tags) for run in runs] == [(4, b"\4\5\6"), (9, b"\x09")]
    assert runs[0].ids == b"\4" * 32 + b"\5" * 32 + b"\6" * 32


def test_level_is_the_lowest_that_covers_the_volume() -> None:
    assert [level_for(size) for size in (0, 1, 512, 513, 512**2, 512**2 + 1)] == [0, 0, 0, 1, 1, 2]
    with pytest.raises(BadInputError, match="holds at most"):
        level_for(span_chunks(5) + 1)
