"""Objects of a checkpoint: a head and its parts; bytes in, bytes out (docs/formats/checkpoint.md).

Each object is compressed, encrypted and authenticated under a key that is derived from the
key-encryption key alone, so that a rebuild needs nothing but the bucket and the recovery sheet.

Nonce: zero, because the key of each object is its own, derived from a random salt.
"""

import struct
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.checkpoints.rows import Digest, GoneRow, Row
from libs.errors import BadInputError, DamagedDataError
from libs.keys.kek import FINGERPRINT_SIZE_BYTES, KEK_SIZE_BYTES, KeyEncryptionKey
from libs.store.layout import CheckpointName, checkpoint_object, expect_object

MAGIC = b"BCASTCP\x00"
#: What is written. Version 2 added rows of grants and the groups' lists of domains, version 3
#: rows of sources, version 4 chains of deltas with `GoneRow`, and `PastRow`, version 5 snapshots of
#: consistency `unvouched`, version 6 volumes that moved or were removed, and paused groups.
VERSION = 6
_READABLE_VERSIONS = (1, 2, 3, 4, 5, VERSION)
SALT_SIZE_BYTES = 16
#: So much of an object says which key it is sealed under.
SEALED_UNDER_SIZE_BYTES = 16 + FINGERPRINT_SIZE_BYTES
#: Encoded rows of one part; more begin another part.
PART_PLAIN_SIZE_BYTES = 4 << 20
#: No row is longer, so no part is longer than this and PART_PLAIN_SIZE_BYTES together.
ROW_SIZE_BYTES_MAX = 4 << 20
#: Links of a delta at most; `libs.checkpoints.chain` keeps them below 32.
CHAIN_LENGTH_MAX = 64

#: magic, version, zeros, fingerprint of the KEK, incarnation, number, part, salt, stored and plain
#: length of the body.
_HEADER = struct.Struct(f"<8sH6s{FINGERPRINT_SIZE_BYTES}sQQQ{SALT_SIZE_BYTES}sII")
_ZEROS = bytes(6)
_NONCE = bytes(12)
#: In the header of a head, where a part has its number.
_NO_PART = (1 << 64) - 1
_ZSTD_LEVEL = 3
_ROW_LENGTH = struct.Struct("<I")
#: A part is closed by the row that fills it. A head names its parts by 32 bytes each.
PLAIN_SIZE_BYTES_MAX = PART_PLAIN_SIZE_BYTES + _ROW_LENGTH.size + ROW_SIZE_BYTES_MAX

T = TypeVar("T")


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of the same incarnation that a delta builds on."""

    number: Annotated[int, msgspec.Meta(ge=0)]
    #: BLAKE3 of its head's object.
    digest: Digest


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is written last: with it, and not before, the checkpoint exists."""

    #: ``state``: rows of a catalog. ``claim``: only takes the number of an incarnation.
    kind: Literal["state", "claim"]
    made_at: datetime
    #: Last position per topic in the state's log.
    positions: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    #: BLAKE3 of each part's object, in order.
    parts: tuple[Digest, ...]
    #: What a delta builds on: a base, then other deltas, ascending. Empty in a base, which has all
    #: rows in its own parts.
    chain: Annotated[tuple[Link, ...], msgspec.Meta(max_length=CHAIN_LENGTH_MAX)] = ()


def seal_head(name: CheckpointName, head: Head, kek: KeyEncryptionKey, salt: bytes) -> bytes:
    """The object of a head; the same for the same arguments, and so for `seal_part`.

    Args:
        name: its name, without a part.
        head: what it says.
        kek: the key-encryption key.
        salt: 16 random bytes, drawn once per object.
    """
    return _seal(name, _encoder.encode(head), kek, salt)


def open_head(data: bytes, name: CheckpointName, kek: KeyEncryptionKey) -> Head:
    """Verify and read a head.

    Raises:
        WrongKeyError: it was sealed under another key-encryption key.
        DamagedDataError: bytes were changed, cut, or are those of another object.
    """
    head = _decoded(_head_decoder, _open(data, name, kek), name)
    numbers = [*(link.number for link in head.chain), name.number]
    if numbers != sorted(set(numbers)):
        raise DamagedDataError(f"{_label(name)}: builds on checkpoints {numbers[:-1]}")
    return head


def seal_part(name: CheckpointName, plain: bytes, kek: KeyEncryptionKey, salt: bytes) -> bytes:
    """The object of a part, given what `parts_of` gave."""
    return _seal(name, plain, kek, salt)


def open_part(
    data: bytes, name: CheckpointName, digest: bytes, kek: KeyEncryptionKey
) -> Iterator[Row | GoneRow]:
    """Verify a part and read its rows.

    Args:
        data: the object.
        name: what it was asked for as.
        digest: what the head says of it.
        kek: the key-encryption key.

    Raises:
        WrongKeyError: it was sealed under another key-encryption key.
        DamagedDataError: bytes were changed, cut, or are those of another object.
    """
    if object_digest(data) != digest:
        raise DamagedDataError(f"{_label(name)}: not the bytes that its head names")
    plain = _open(data, name, kek)
    at = 0
    while at < len(plain):
        if at + _ROW_LENGTH.size > len(plain):
            raise DamagedDataError(f"{_label(name)}: cut off within a row")
        (length,) = _ROW_LENGTH.unpack_from(plain, at)
        at += _ROW_LENGTH.size
        yield _decoded(_row_decoder, plain[at : at + length], name)
        at += length


def object_digest(data: bytes) -> bytes:
    """What a head names a part by, and a link a head."""
    return blake3(data).digest()


def is_sealed_under(data: bytes, kek: KeyEncryptionKey) -> bool:
    """Whether an object, or its beginning, says that it is sealed under this very key; not proved.

    Args:
        data: `SEALED_UNDER_SIZE_BYTES` of it at least.
        kek: the key-encryption key; the previous one does not count.
    """
    return data[16:SEALED_UNDER_SIZE_BYTES] == kek.fingerprint


def parts_of(rows: Iterable[Row | GoneRow]) -> Iterator[bytes]:
    """Rows as the plain bytes of parts, one in memory at a time.

    Raises:
        BadInputError: a row is longer than ROW_SIZE_BYTES_MAX.
    """
    part = bytearray()
    for row in rows:
        encoded = _encoder.encode(row)
        if len(encoded) > ROW_SIZE_BYTES_MAX:
            raise BadInputError(
                f"row of a checkpoint: {len(encoded)} bytes, at most {ROW_SIZE_BYTES_MAX} fit"
            )
        part += _ROW_LENGTH.pack(len(encoded)) + encoded
        if len(part) >= PART_PLAIN_SIZE_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_head_decoder = msgspec.msgpack.Decoder(Head)
_row_decoder: msgspec.msgpack.Decoder[Row | GoneRow] = msgspec.msgpack.Decoder(Row | GoneRow)


def _seal(name: CheckpointName, plain: bytes, kek: KeyEncryptionKey, salt: bytes) -> bytes:
    if len(plain) > PLAIN_SIZE_BYTES_MAX:
        raise BadInputError(
            f"{_label(name)}: {len(plain)} bytes, expected fewer; it cannot be kept"
        )
    compressed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        _ZEROS,
        kek.fingerprint,
        name.incarnation,
        name.number,
        _NO_PART if name.part is None else name.part,
        salt,
        len(compressed) + 16,
        len(plain),
    )
    return header + _cipher(kek, salt).encrypt(_NONCE, compressed, header)


def _open(data: bytes, name: CheckpointName, kek: KeyEncryptionKey) -> bytes:
    label = _label(name)
    if len(data) < _HEADER.size:
        raise DamagedDataError(f"{label}: {len(data)} bytes, cut off within its header")
    header = data[: _HEADER.size]
    magic, version, zeros, fingerprint, incarnation, number, part, salt, stored, plain_size = (
        _HEADER.unpack(header)
    )
    if (magic, zeros) != (MAGIC, _ZEROS) or version not in _READABLE_VERSIONS:
        raise DamagedDataError(
            f"{label}: expected {MAGIC!r} version 1 to {VERSION}, got {magic!r} version {version}"
        )
    opener = kek.opening(label, fingerprint)
    said = CheckpointName(incarnation, number, None if part == _NO_PART else part)
    expect_object(checkpoint_object(name), checkpoint_object(said))
    if len(data) != _HEADER.size + stored or plain_size > PLAIN_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"{label}: {len(data)} bytes; its header says {stored} of body, {plain_size} when "
            f"expanded"
        )
    try:
        compressed = _cipher(opener, salt).decrypt(_NONCE, data[_HEADER.size :], header)
        # zstandard allocates what the zstd header says: look before.
        if zstandard.frame_content_size(compressed) != plain_size:
            raise DamagedDataError(f"{label}: its body does not expand to {plain_size} bytes")
        return zstandard.ZstdDecompressor().decompress(compressed, allow_extra_data=False)
    except (InvalidTag, zstandard.ZstdError) as err:
        raise DamagedDataError(f"{label}: the object is damaged or was altered") from err


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", data: bytes, name: CheckpointName) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise DamagedDataError(f"{_label(name)}: cannot be read: {err}") from err


def _label(name: CheckpointName) -> str:
    part = "" if name.part is None else f" part {name.part}"
    return f"checkpoint {name.incarnation}/{name.number}{part}"


def _cipher(kek: KeyEncryptionKey, salt: bytes) -> AESGCM:
    info = b"backcast checkpoint 1"
    return AESGCM(HKDF(hashes.SHA256(), KEK_SIZE_BYTES, salt, info).derive(kek.secret))
