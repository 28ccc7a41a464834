"""Small packs for tests: fixed keys, so that nothing here is random."""

import uuid

from libs.packs.chunk import ChunkHasher
from libs.packs.frame import CompressedFrame, FrameCipher, compress
from libs.packs.layout import PACK_SIZE_BYTES_MAX, Buffer
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import ItemKind, PackHeader, PackIndex, read_pack_index
from libs.ranges import ByteRange

GENERATION = uuid.UUID(int=0xA)
DOMAIN = uuid.UUID(int=0xB)
KEY_ID = uuid.UUID(int=0xC)
PACK_KEY = b"p" * 32
HASHER = ChunkHasher(b"i" * 32)
CIPHER = FrameCipher(GENERATION, PACK_KEY)


def new_builder(buffer: bytearray | None = None) -> PackBuilder:
    return PackBuilder(
        GENERATION, DOMAIN, KEY_ID, PACK_KEY, buffer or bytearray(PACK_SIZE_BYTES_MAX)
    )


def frame_of(*chunks: bytes) -> tuple[CompressedFrame, list[FrameItem]]:
    items, at = [], 0
    for chunk in chunks:
        items.append(FrameItem(ItemKind.CHUNK, HASHER.chunk_id(chunk), at, len(chunk)))
        at += len(chunk)
    return compress(b"".join(chunks)), items


def add(builder: PackBuilder, *chunks: bytes) -> None:
    frame, items = frame_of(*chunks)
    slot = builder.reserve(frame, items)
    assert slot is not None
    builder.fill(slot, frame)


def small_pack(buffer: bytearray | None = None) -> bytes:
    builder = new_builder(buffer)
    add(builder, b"first chunk " * 20, b"second")
    add(builder, bytes(range(256)))
    builder.close()
    return bytes(builder.finish())


def index_of(data: Buffer) -> PackIndex:
    def cipher_of(header: PackHeader) -> FrameCipher:
        return FrameCipher(header.generation, PACK_KEY)

    return read_pack_index(len(data), lambda part: data[part.start : part.end], cipher_of)


def contents(data: Buffer) -> list[bytes]:
    """Every item's bytes, each checked against its id."""
    index = index_of(data)
    found = []
    for item in index.items:
        frame = index.frames[item.place >> 20]
        part: ByteRange = frame.byte_range
        plain = CIPHER.open(item.place >> 20, data[part.start : part.end], frame.plain_size_bytes)
        position = item.place & 0xFFFFF
        found.append(plain[position : position + item.size_bytes])
        assert HASHER.chunk_id(found[-1]) == item.id
    return found
