import os
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import DamagedDataError, InvariantViolation
from libs.packs.frame import Codec, CompressedFrame, FrameCipher, compress
from libs.packs.layout import FRAME_PLAIN_SIZE_BYTES_MAX

GENERATION = uuid.UUID(int=7)
CIPHER = FrameCipher(GENERATION, b"k" * 32)


def seal(plain: bytes, number: int = 3, cipher: FrameCipher = CIPHER) -> bytes:
    return seal_frame(compress(plain), number, cipher)


def seal_frame(frame: CompressedFrame, number: int = 3, cipher: FrameCipher = CIPHER) -> bytes:
    out = bytearray(frame.stored_size_bytes)
    cipher.seal_into(number, frame, memoryview(out))
    return bytes(out)


@given(st.binary(min_size=1, max_size=4000), st.integers(0, 2046))
def test_frame_opens_to_what_was_sealed(plain: bytes, number: int) -> None:
    assert CIPHER.open(number, seal(plain, number), len(plain)) == plain


def test_compressible_data_is_compressed_and_random_data_stored_as_it_is() -> None:
    assert compress(bytes(FRAME_PLAIN_SIZE_BYTES_MAX)).codec == Codec.ZSTD
    noise = memoryview(os.urandom(FRAME_PLAIN_SIZE_BYTES_MAX))
    frame = compress(noise)
    assert frame.codec == Codec.RAW
    assert frame.body is noise
    assert CIPHER.open(3, seal_frame(frame), len(noise)) == noise


def test_retry_seals_identical_bytes() -> None:
    assert seal(b"data" * 100) == seal(b"data" * 100)


@pytest.mark.parametrize("size", [0, FRAME_PLAIN_SIZE_BYTES_MAX + 1])
def test_frame_of_impossible_size_is_a_broken_invariant(size: int) -> None:
    with pytest.raises(InvariantViolation):
        compress(bytes(size))


def test_every_flipped_bit_and_every_truncation_of_a_frame_is_found() -> None:
    plain = b"some words some words some words"
    for sealed in (seal(plain), seal_frame(CompressedFrame(Codec.RAW, plain, len(plain)))):
        for bit in range(len(sealed) * 8):
            flipped = bytearray(sealed)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedDataError):
                CIPHER.open(3, flipped, len(plain))
        for length in range(len(sealed)):
            with pytest.raises(DamagedDataError):
                CIPHER.open(3, sealed[:length], len(plain))


def test_frame_opens_only_at_its_place_in_its_pack_with_its_length() -> None:
    plain = b"some words some words some words"
    sealed = seal(plain)
    with pytest.raises(DamagedDataError, match=f"frame 4 of pack {GENERATION.hex}"):
        CIPHER.open(4, sealed, len(plain))
    with pytest.raises(DamagedDataError):
        CIPHER.open(3, sealed, len(plain) + 1)
    with pytest.raises(DamagedDataError):
        FrameCipher(uuid.UUID(int=8), b"k" * 32).open(3, sealed, len(plain))
    with pytest.raises(DamagedDataError):
        FrameCipher(GENERATION, b"w" * 32).open(3, sealed, len(plain))


def test_frame_that_would_expand_beyond_its_declared_length_is_never_expanded() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    sealed = seal_frame(CompressedFrame(Codec.ZSTD, bomb, FRAME_PLAIN_SIZE_BYTES_MAX))
    with pytest.raises(DamagedDataError, match="expands to 268435456 bytes"):
        CIPHER.open(3, sealed, FRAME_PLAIN_SIZE_BYTES_MAX)


def test_zstd_frame_without_content_size_is_refused() -> None:
    body = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(DamagedDataError, match="expands to"):
        CIPHER.open(3, seal_frame(CompressedFrame(Codec.ZSTD, body, 1000)), 1000)


def test_zstd_frame_with_a_forged_content_size_is_refused() -> None:
    body = bytearray(zstandard.ZstdCompressor().compress(bytes(1000)))
    where = body.index(struct.pack("<H", 1000 - 256))
    body[where : where + 2] = struct.pack("<H", 2000 - 256)
    with pytest.raises(DamagedDataError, match="zstd says"):
        CIPHER.open(3, seal_frame(CompressedFrame(Codec.ZSTD, bytes(body), 2000)), 2000)


def test_threads_share_a_cipher_and_compress_at_once() -> None:
    plains = [bytes([number]) * 50_000 + os.urandom(50_000) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        sealed = list(pool.map(seal, plains, range(40)))
        opened = list(pool.map(CIPHER.open, range(40), sealed, map(len, plains)))
    assert opened == plains
