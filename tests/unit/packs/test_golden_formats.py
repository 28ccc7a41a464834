"""Today's code reads every golden file ever written, and still writes the same bytes."""

from pathlib import Path

import pytest

from libs.blockmap.node import decode_node
from libs.keys.keyring import unwrap
from libs.packs.frame import Codec, FrameCipher
from libs.packs.manifest import open_manifest
from libs.packs.trailer import ItemKind, read_pack_index
from libs.store.layout import DomainKeyName
from tests.golden import make_formats as golden


def read(path: str) -> bytes:
    file = golden.FOLDER / path
    assert file.exists(), f"{file} is missing: restore it from history, or run {golden.COMMAND}"
    return file.read_bytes()


def test_golden_pack_gives_its_chunks_and_nodes() -> None:
    data = read("packs/pack-v1.bin")
    cipher = FrameCipher(golden.GENERATION, golden.KEYS.pack_key(golden.GENERATION))
    index = read_pack_index(len(data), lambda part: data[part.start : part.end], lambda _: cipher)
    assert index.header == (golden.KEYS.domain, golden.GENERATION, golden.KEYS.key_id)
    sealed = [data[frame.byte_range.start : frame.byte_range.end] for frame in index.frames]
    plains = [
        cipher.open(number, sealed[number], frame.plain_size_bytes)
        for number, frame in enumerate(index.frames)
    ]
    assert plains == [*golden.CHUNKS, golden.LEAF]
    assert [frame[0] for frame in sealed[:2]] == [Codec.ZSTD, Codec.RAW]
    kinds = [(item.kind, item.place, item.size_bytes) for item in index.items]
    assert kinds == [
        (ItemKind.CHUNK, 0, 700),
        (ItemKind.CHUNK, 1 << 20, 256),
        (ItemKind.NODE, 2 << 20, len(golden.LEAF)),
    ]
    assert index.items[0].id == golden.HASHER.chunk_id(golden.CHUNKS[0])
    assert index.items[2].id == golden.NODE_HASHER.node_id(golden.LEAF)


def test_golden_nodes_manifest_and_keys_read_back() -> None:
    assert decode_node(read("nodes/leaf-v1.bin")).entries() == golden.LEAF_ENTRIES
    assert decode_node(read("nodes/upper-v1.bin")).level == 1
    name = DomainKeyName(golden.KEYS.domain, golden.KEYS.key_id)
    assert unwrap(read("keys/wrapped-v1.bin"), name, golden.KEK) == golden.KEYS
    for version, expected in ((1, golden.MANIFEST_V1), (2, golden.MANIFEST)):
        data = read(f"manifests/manifest-v{version}.bin")
        manifest = open_manifest(data, golden.KEYS.key_id, golden.KEYS.manifest_key())
        assert manifest == expected


@pytest.mark.parametrize("path", ["nodes/leaf-v1.bin", "nodes/upper-v1.bin"])
def test_nodes_are_written_as_ever_because_their_bytes_are_their_identity(path: str) -> None:
    assert golden.golden_files()[golden.FOLDER / Path(path)] == read(path)
