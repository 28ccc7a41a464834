"""What a pack says about itself: header, frame table, items, footer; written by `libs.packs.pack`.

The header and the footer are in clear, the trailer between the last frame and the footer is sealed
under the pack's key with the header as associated data. So a pack can be read knowing only its name
and the keys, and a pack whose header, frame table or items were touched does not open.
"""

import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_128_digest

from libs.errors import DamagedDataError
from libs.packs.frame import FrameCipher
from libs.packs.layout import (
    CHUNK_ID_SIZE_BYTES,
    FRAME_COUNT_MAX,
    FRAME_ENTRY,
    FRAME_OVERHEAD_SIZE_BYTES,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    GCM_TAG_SIZE_BYTES,
    ITEM_COUNT_MAX,
    ITEM_SIZE_BYTES,
    PACK_FOOTER,
    PACK_HEADER,
    PACK_MAGIC,
    PACK_SIZE_BYTES_MAX,
    PACK_VERSION,
    RESERVED,
    TRAILER_HEAD,
    TRAILER_SIZE_BYTES_MAX,
    Buffer,
    split_place,
)
from libs.ranges import ByteRange


class ItemKind(IntEnum):
    """What an item of a pack is."""

    CHUNK = 1
    NODE = 2


class Item(NamedTuple):
    """A chunk or a map node in a pack."""

    kind: ItemKind
    #: ChunkId or NodeId: 32 bytes.
    id: bytes
    #: frame number << 20 | byte offset within the plain frame.
    place: int
    size_bytes: int


class FrameEntry(NamedTuple):
    """Where a sealed frame lies in its pack."""

    offset: int
    stored_size_bytes: int
    plain_size_bytes: int

    @property
    def byte_range(self) -> ByteRange:
        """The bytes of the object that hold the sealed frame."""
        return ByteRange.at(self.offset, self.stored_size_bytes)


class PackHeader(NamedTuple):
    """The first 64 bytes of a pack: whose it is and which key opens it."""

    domain: uuid.UUID
    generation: uuid.UUID
    key_id: uuid.UUID

    def encode(self) -> bytes:
        """The header's 64 bytes."""
        return PACK_HEADER.pack(
            PACK_MAGIC,
            PACK_VERSION,
            RESERVED,
            self.domain.bytes,
            self.generation.bytes,
            self.key_id.bytes,
        )


class PackIndex(NamedTuple):
    """Everything that a pack says about itself."""

    header: PackHeader
    frames: tuple[FrameEntry, ...]
    items: tuple[Item, ...]


def parse_header(data: Buffer) -> PackHeader:
    """Read the first 64 bytes of a pack.

    Raises:
        DamagedDataError: they are no header of a version that can be read.
    """
    if len(data) != PACK_HEADER.size:
        raise DamagedDataError(f"pack header: expected {PACK_HEADER.size} bytes, got {len(data)}")
    magic, version, zeros, domain, generation, key_id = PACK_HEADER.unpack(data)
    if (magic, version, zeros) != (PACK_MAGIC, PACK_VERSION, RESERVED):
        raise DamagedDataError(
            f"pack header: expected {PACK_MAGIC!r} version {PACK_VERSION}, got {magic!r} version "
            f"{version}"
        )
    return PackHeader(uuid.UUID(bytes=domain), uuid.UUID(bytes=generation), uuid.UUID(bytes=key_id))


def read_pack_index(
    size_bytes: int,
    read_range: Callable[[ByteRange], Buffer],
    cipher_of: Callable[[PackHeader], FrameCipher],
) -> PackIndex:
    """Read header, footer and trailer of a pack: three ranged reads, nothing else.

    Args:
        size_bytes: length of the object.
        read_range: gives exactly the bytes of a range of the object.
        cipher_of: finds the pack's key by its header; where the caller knows which generation it
            asked for, it compares here, and where it has no such key it raises `WrongKeyError`.

    Raises:
        DamagedDataError: the object is no intact pack.
    """
    if not PACK_HEADER.size + PACK_FOOTER.size < size_bytes <= PACK_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"pack of {size_bytes} bytes: expected at most {PACK_SIZE_BYTES_MAX}"
        )
    raw_header = bytes(read_range(ByteRange(0, PACK_HEADER.size)))
    header = parse_header(raw_header)
    name = f"pack {header.generation.hex}"
    footer_at = size_bytes - PACK_FOOTER.size
    where, checksum = _parse_footer(name, read_range(ByteRange(footer_at, size_bytes)), footer_at)
    sealed = read_range(where)
    if xxh3_128_digest(sealed) != checksum:
        raise DamagedDataError(
            f"{name}: the trailer's checksum does not match: the object is damaged"
        )
    trailer = cipher_of(header).open_trailer(sealed, raw_header)
    frames, items = _parse_trailer(name, trailer, where.start)
    return PackIndex(header, frames, items)


def encode_frame_table(frames: Iterable[FrameEntry]) -> bytes:
    """The frames as one bytes column, 12 bytes each: the form that the catalog keeps per pack."""
    return b"".join([FRAME_ENTRY.pack(*frame) for frame in frames])


def parse_frame_table(
    column: Buffer, frames_end: int = PACK_SIZE_BYTES_MAX
) -> tuple[FrameEntry, ...]:
    """Read a column written by `encode_frame_table`.

    Args:
        column: 12 bytes per frame.
        frames_end: offset that no frame may reach beyond.

    Raises:
        DamagedDataError: too many frames, or frames that are not one after another within limits.
    """
    if len(column) % FRAME_ENTRY.size or len(column) > FRAME_COUNT_MAX * FRAME_ENTRY.size:
        raise DamagedDataError(
            f"frame table of {len(column)} bytes: expected {FRAME_ENTRY.size} for each of at most "
            f"{FRAME_COUNT_MAX} frames"
        )
    frames = tuple(FrameEntry(*entry) for entry in FRAME_ENTRY.iter_unpack(column))
    at = PACK_HEADER.size
    for number, frame in enumerate(frames):
        overhead = frame.stored_size_bytes - FRAME_OVERHEAD_SIZE_BYTES
        if (
            frame.offset != at
            or not 0 < overhead <= frame.plain_size_bytes <= FRAME_PLAIN_SIZE_BYTES_MAX
            or at + frame.stored_size_bytes > frames_end
        ):
            raise DamagedDataError(
                f"frame table: frame {number} at {frame.offset} with {frame.stored_size_bytes} "
                f"stored and {frame.plain_size_bytes} plain bytes: expected it at {at}, ending by "
                f"{frames_end}"
            )
        at += frame.stored_size_bytes
    return frames


def encode_trailer(frames: Sequence[FrameEntry], items: Sequence[Item]) -> bytes:
    """The plain trailer: counts, frame table, and the items as columns."""
    count = len(items)
    return b"".join(
        (
            TRAILER_HEAD.pack(len(frames), count),
            encode_frame_table(frames),
            bytes(item.kind for item in items),
            b"".join([item.id for item in items]),
            struct.pack(f"<{count}I", *[item.place for item in items]),
            struct.pack(f"<{count}I", *[item.size_bytes for item in items]),
        )
    )


def encode_footer(trailer_offset: int, sealed_trailer: Buffer) -> bytes:
    """The last bytes of a pack: where its trailer is, and a checksum that needs no key."""
    return PACK_FOOTER.pack(
        trailer_offset,
        len(sealed_trailer),
        xxh3_128_digest(sealed_trailer),
        PACK_VERSION,
        RESERVED,
        PACK_MAGIC,
    )


def _parse_footer(name: str, data: Buffer, footer_at: int) -> tuple[ByteRange, bytes]:
    offset, length, checksum, version, zeros, magic = PACK_FOOTER.unpack(data)
    if (magic, version, zeros) != (PACK_MAGIC, PACK_VERSION, RESERVED):
        raise DamagedDataError(
            f"{name}: the footer says {magic!r} version {version}: the object is damaged or cut off"
        )
    if (
        offset < PACK_HEADER.size
        or offset + length != footer_at
        or not TRAILER_HEAD.size + GCM_TAG_SIZE_BYTES <= length <= TRAILER_SIZE_BYTES_MAX
    ):
        raise DamagedDataError(
            f"{name}: the footer says {length} bytes of trailer at {offset}, but it ends at "
            f"{footer_at}"
        )
    return ByteRange.at(offset, length), checksum


def _parse_trailer(
    name: str, trailer: bytes, frames_end: int
) -> tuple[tuple[FrameEntry, ...], tuple[Item, ...]]:
    frame_count, item_count = TRAILER_HEAD.unpack_from(trailer)
    kinds_at = TRAILER_HEAD.size + frame_count * FRAME_ENTRY.size
    if (
        frame_count > FRAME_COUNT_MAX
        or item_count > ITEM_COUNT_MAX
        or len(trailer) != kinds_at + item_count * ITEM_SIZE_BYTES
    ):
        raise DamagedDataError(
            f"{name}: a trailer of {len(trailer)} bytes cannot hold {frame_count} frames, "
            f"{item_count} items"
        )
    frames = parse_frame_table(trailer[TRAILER_HEAD.size : kinds_at], frames_end)
    ids_at = kinds_at + item_count
    places_at = ids_at + item_count * CHUNK_ID_SIZE_BYTES
    columns = struct.unpack_from(f"<{2 * item_count}I", trailer, places_at)
    items = []
    for number in range(item_count):
        id_at = ids_at + number * CHUNK_ID_SIZE_BYTES
        kind, place, size = (
            trailer[kinds_at + number],
            columns[number],
            columns[item_count + number],
        )
        frame, position = split_place(place)
        if (
            frame >= frame_count
            or not 0 < size <= frames[frame].plain_size_bytes - position
            or not ItemKind.CHUNK <= kind <= ItemKind.NODE
        ):
            raise DamagedDataError(
                f"{name}: item {number} of kind {kind} has {size} bytes at {position} of frame "
                f"{frame}"
            )
        items.append(
            Item(ItemKind(kind), trailer[id_at : id_at + CHUNK_ID_SIZE_BYTES], place, size)
        )
    return frames, tuple(items)
