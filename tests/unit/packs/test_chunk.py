import pytest
from blake3 import blake3
from xxhash import xxh3_128

from libs.errors import BadInputError
from libs.packs.chunk import ZERO_CHUNK, ChunkHasher, Fingerprinter, is_zero
from libs.packs.layout import CHUNK_SIZE_BYTES

KEY = bytes(range(32))


def test_ids_of_a_buffer_are_the_ids_of_its_chunks_in_order() -> None:
    buffer = bytearray(3 * CHUNK_SIZE_BYTES)
    buffer[CHUNK_SIZE_BYTES] = 1
    hasher = ChunkHasher(KEY)
    ids = hasher.chunk_ids(memoryview(buffer))
    chunks = [bytes(buffer[at : at + CHUNK_SIZE_BYTES]) for at in range(0, len(buffer), 1 << 16)]
    assert ids == b"".join(hasher.chunk_id(chunk) for chunk in chunks)
    assert ids[:32] == ids[64:] != ids[32:64]
    assert hasher.chunk_id(chunks[1]) == blake3(chunks[1], key=KEY).digest()


def test_ids_depend_on_the_key_of_the_domain() -> None:
    assert ChunkHasher(KEY).chunk_id(b"x") != ChunkHasher(bytes(32)).chunk_id(b"x")


def test_fingerprints_are_seeded_xxh3_of_each_chunk() -> None:
    fingerprints = Fingerprinter(KEY).fingerprints(bytes(2 * CHUNK_SIZE_BYTES))
    seed = int.from_bytes(KEY[:8], "little")
    assert fingerprints == 2 * xxh3_128(ZERO_CHUNK, seed=seed).digest()
    assert fingerprints != Fingerprinter(bytes(32)).fingerprints(bytes(2 * CHUNK_SIZE_BYTES))


@pytest.mark.parametrize("at", [0, 7, 8, CHUNK_SIZE_BYTES - 1])
def test_chunk_with_one_bit_set_is_not_zero(at: int) -> None:
    chunk = bytearray(CHUNK_SIZE_BYTES)
    assert is_zero(chunk)
    assert is_zero(memoryview(chunk))
    chunk[at] = 1
    assert not is_zero(chunk)
    assert not is_zero(memoryview(chunk))


def test_short_zero_chunks_are_zero() -> None:
    assert all(is_zero(bytes(size)) for size in (1, 7, 8, 9, 1000))


def test_partial_chunks_and_short_keys_are_refused() -> None:
    with pytest.raises(BadInputError, match="whole chunks"):
        ChunkHasher(KEY).chunk_ids(bytes(CHUNK_SIZE_BYTES + 1))
    with pytest.raises(BadInputError, match="whole chunks"):
        Fingerprinter(KEY).fingerprints(bytes(10))
    with pytest.raises(BadInputError, match="expected 32 bytes"):
        ChunkHasher(b"short")
    with pytest.raises(BadInputError, match="expected 32 bytes"):
        Fingerprinter(b"short")
