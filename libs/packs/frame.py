"""Frames: up to 1 MiB of chunks compressed and encrypted together.

A sealed frame is codec (1 byte, in clear), AES-256-GCM ciphertext, tag (16 bytes). The key belongs
to one generation and is used for nothing else, the nonce is the frame number, and the associated
data binds generation, frame number, codec and plain length: a frame opens only at its own place in
its own pack.
"""

import struct
import threading
import uuid
from enum import IntEnum
from typing import NamedTuple

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.errors import DamagedDataError, InvariantViolation
from libs.packs.layout import (
    FRAME_NUMBER_TRAILER,
    FRAME_OVERHEAD_SIZE_BYTES,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    GCM_TAG_SIZE_BYTES,
    Buffer,
)

#: Level 2 stores 5 % less than level 1 for 20 % more time; level 3 costs 40 % more than 2 for 4 %
#: (ADR 2).
ZSTD_LEVEL = 2

#: purpose, generation, frame number, codec, plain length.
_ASSOCIATED = struct.Struct("<8s16sIBI")
_FRAME_PURPOSE = b"BCframe1"


class Codec(IntEnum):
    """How the plain bytes of a frame are stored."""

    RAW = 0
    ZSTD = 1


class CompressedFrame(NamedTuple):
    """A frame before encryption; ``body`` may be a view of the caller's plain buffer."""

    codec: Codec
    body: Buffer
    plain_size_bytes: int

    @property
    def stored_size_bytes(self) -> int:
        """Bytes that the sealed frame takes in its pack."""
        return len(self.body) + FRAME_OVERHEAD_SIZE_BYTES


def compress(plain: Buffer) -> CompressedFrame:
    """Compress one frame, or leave it as it is where that saves less than 1/32 of it.

    No sampling decides that beforehand: zstd itself gives up on random data at 8 GiB/s. A raw
    result refers to ``plain``, which the caller must leave unchanged until the frame is sealed.
    Thread-safe: each thread has its own compressor.

    Raises:
        InvariantViolation: ``plain`` is empty or longer than 1 MiB.
    """
    size = len(plain)
    if not 0 < size <= FRAME_PLAIN_SIZE_BYTES_MAX:
        raise InvariantViolation(
            f"frame of {size} plain bytes: expected 1 to {FRAME_PLAIN_SIZE_BYTES_MAX}"
        )
    body = _codecs.compressor.compress(plain)
    if len(body) > size - size // 32:
        return CompressedFrame(Codec.RAW, plain, size)
    return CompressedFrame(Codec.ZSTD, body, size)


class FrameCipher:
    """Seals and opens the frames of one pack. Thread-safe: it has no state besides the key.

    Args:
        generation: the pack's name.
        pack_key: 32 bytes, derived from the domain's data key for this generation alone.
    """

    __slots__ = ("_aead", "_generation")

    def __init__(self, generation: uuid.UUID, pack_key: bytes) -> None:
        self._generation = generation
        self._aead = AESGCM(pack_key)

    def seal_into(self, frame_number: int, frame: CompressedFrame, out: memoryview) -> None:
        """Encrypt a frame straight to where it belongs.

        Args:
            frame_number: never used twice with different content under one generation.
            frame: what `compress` gave.
            out: exactly ``frame.stored_size_bytes`` writable bytes.
        """
        out[0] = frame.codec
        associated = self._associated(frame_number, frame.codec, frame.plain_size_bytes)
        self._aead.encrypt_into(_nonce(frame_number), frame.body, associated, out[1:])

    def open(self, frame_number: int, sealed: Buffer, plain_size_bytes: int) -> bytes:
        """Decrypt and decompress a frame: exactly ``plain_size_bytes`` bytes.

        Raises:
            DamagedDataError: bytes were changed, cut, moved from elsewhere or sealed under another
                key, or lengths exceed their limits; nothing is allocated before lengths are
                checked.
        """
        codec = self._check_sealed(frame_number, sealed, plain_size_bytes)
        associated = self._associated(frame_number, codec, plain_size_bytes)
        try:
            body = self._aead.decrypt(_nonce(frame_number), memoryview(sealed)[1:], associated)
        except InvalidTag as err:
            raise self._damaged(frame_number, "its authentication tag does not match") from err
        if codec == Codec.RAW:
            return body
        return self._decompress(frame_number, body, plain_size_bytes)

    def seal_trailer_into(self, trailer: Buffer, header: bytes, out: memoryview) -> None:
        """Encrypt a pack's trailer to ``out`` (16 bytes longer), binding the pack's header."""
        self._aead.encrypt_into(_nonce(FRAME_NUMBER_TRAILER), trailer, header, out)

    def open_trailer(self, sealed: Buffer, header: bytes) -> bytes:
        """Decrypt a pack's trailer.

        Raises:
            DamagedDataError: trailer or header were changed, or the key is another pack's.
        """
        if len(sealed) < GCM_TAG_SIZE_BYTES:
            raise DamagedDataError(f"pack {self._generation.hex}: trailer of {len(sealed)} bytes")
        try:
            return self._aead.decrypt(_nonce(FRAME_NUMBER_TRAILER), sealed, header)
        except InvalidTag as err:
            raise DamagedDataError(
                f"pack {self._generation.hex}: the trailer or the header is damaged, was altered, "
                f"or belongs to another pack; restore it from another copy"
            ) from err

    def _check_sealed(self, frame_number: int, sealed: Buffer, plain_size_bytes: int) -> Codec:
        if not 0 < plain_size_bytes <= FRAME_PLAIN_SIZE_BYTES_MAX:
            raise self._damaged(frame_number, f"its plain length is {plain_size_bytes} bytes")
        if (
            not FRAME_OVERHEAD_SIZE_BYTES
            < len(sealed)
            <= plain_size_bytes + FRAME_OVERHEAD_SIZE_BYTES
        ):
            raise self._damaged(
                frame_number, f"it has {len(sealed)} bytes for {plain_size_bytes} plain ones"
            )
        try:
            codec = Codec(sealed[0])
        except ValueError as err:
            raise self._damaged(frame_number, f"its codec is {sealed[0]}") from err
        if codec == Codec.RAW and len(sealed) != plain_size_bytes + FRAME_OVERHEAD_SIZE_BYTES:
            raise self._damaged(
                frame_number, f"it has {len(sealed)} bytes although it is not compressed"
            )
        return codec

    def _decompress(self, frame_number: int, body: bytes, plain_size_bytes: int) -> bytes:
        # zstandard allocates what the zstd header says, whatever limit it is given: look before.
        try:
            parameters = zstandard.get_frame_parameters(body)
            if parameters.content_size != plain_size_bytes or parameters.dict_id:
                raise self._damaged(
                    frame_number,
                    f"it expands to {parameters.content_size} bytes instead of {plain_size_bytes}",
                )
            plain: bytes = _codecs.decompressor.decompress(body, allow_extra_data=False)
        except zstandard.ZstdError as err:
            raise self._damaged(frame_number, f"zstd says: {err}") from err
        if len(plain) != plain_size_bytes:
            raise self._damaged(frame_number, f"it expanded to {len(plain)} bytes")
        return plain

    def _associated(self, frame_number: int, codec: int, plain_size_bytes: int) -> bytes:
        return _ASSOCIATED.pack(
            _FRAME_PURPOSE, self._generation.bytes, frame_number, codec, plain_size_bytes
        )

    def _damaged(self, frame_number: int, reason: str) -> DamagedDataError:
        return DamagedDataError(
            f"frame {frame_number} of pack {self._generation.hex} is damaged, was altered, or "
            f"belongs to another key: {reason}; restore the pack from another copy"
        )


class _Codecs(threading.local):
    """zstd contexts are not thread-safe and cost a megabyte to make: one of each per thread."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=FRAME_PLAIN_SIZE_BYTES_MAX)


_codecs = _Codecs()


def _nonce(frame_number: int) -> bytes:
    return frame_number.to_bytes(12, "big")
