"""Sizes, limits and record layouts of packs and manifests; nothing that does anything.

Every integer is little-endian, except that a nonce is the frame number in 96 bits big-endian. Every
limit is checked before memory is allocated for what it limits.
"""

import struct

#: Whatever holds plain or stored bytes; functions here read it, never keep it.
Buffer = bytes | bytearray | memoryview

#: Unit of identity of a volume. Smaller finds more duplicates but costs a catalog row each; figures
#: in ADR 2.
CHUNK_SIZE_BYTES = 64 * 1024
#: A ChunkId is a keyed BLAKE3-256 digest.
CHUNK_ID_SIZE_BYTES = 32
#: A change fingerprint is xxh3-128: never identity.
FINGERPRINT_SIZE_BYTES = 16
#: Secrets that key anything in these formats.
KEY_SIZE_BYTES = 32

#: Plain bytes of one frame; 20 bits, so that a position in it fits a place.
FRAME_PLAIN_SIZE_BYTES_MAX = 1 << 20
#: Frames of one pack; 11 bits, so that a place (frame << 20 | position) is a positive int4 of SQL.
FRAME_COUNT_MAX = 2047
#: Added to the compressed bytes of a frame: codec (1) and AES-GCM tag (16).
FRAME_OVERHEAD_SIZE_BYTES = 17
#: The trailer is sealed under the pack's key as if it were this frame; no real frame has the
#: number.
FRAME_NUMBER_TRAILER = 0xFFFF_FFFF

#: Where the frames of a pack end at the latest. 4-32 MiB objects are the fastest to put and get
#: (ADR 2).
PACK_TARGET_SIZE_BYTES = 32 << 20
#: Chunks and map nodes of one pack: 512 chunks of 64 KiB are usual, the rest is room for small
#: items.
ITEM_COUNT_MAX = 65_535

PACK_MAGIC = b"BCASTPK\x00"
PACK_VERSION = 1
#: magic, version, zeros, domain (uuid), generation, key id (uuid).
PACK_HEADER = struct.Struct("<8sH6s16s16s16s")
#: trailer offset, trailer length, xxh3-128 of the sealed trailer, version, zeros, magic.
PACK_FOOTER = struct.Struct("<II16sH6s8s")
RESERVED = bytes(6)

#: frame count, item count.
TRAILER_HEAD = struct.Struct("<II")
#: offset, stored length, plain length of one frame.
FRAME_ENTRY = struct.Struct("<III")
#: Bytes of one item over the trailer's columns: kind (1), id (32), place (4), length (4).
ITEM_SIZE_BYTES = 1 + CHUNK_ID_SIZE_BYTES + 4 + 4
GCM_TAG_SIZE_BYTES = 16
TRAILER_SIZE_BYTES_MAX = (
    TRAILER_HEAD.size
    + FRAME_ENTRY.size * FRAME_COUNT_MAX
    + ITEM_SIZE_BYTES * ITEM_COUNT_MAX
    + GCM_TAG_SIZE_BYTES
)
#: Largest pack there can be, and the size of the buffer that one is built in.
PACK_SIZE_BYTES_MAX = PACK_TARGET_SIZE_BYTES + TRAILER_SIZE_BYTES_MAX + PACK_FOOTER.size

MANIFEST_MAGIC = b"BCASTMF\x00"
#: What is written. Version 2 knows consistency `unvouched`.
MANIFEST_VERSION = 2
MANIFEST_READABLE_VERSIONS = (1, MANIFEST_VERSION)
#: magic, version, tenant length, zeros, key id, group, session, salt, sequence, stored and plain
#: body length.
MANIFEST_HEADER = struct.Struct("<8sHB5s16s16s16s16sQII")
MANIFEST_SALT_SIZE_BYTES = 16
MANIFEST_MAC_SIZE_BYTES = 32
#: Room for thousands of volumes; more is damage.
MANIFEST_BODY_SIZE_BYTES_MAX = 16 << 20
TENANT_SIZE_BYTES_MAX = 63


def place_of(frame_number: int, position: int) -> int:
    """Where an item lies in a pack, as one int4: frame number << 20 | offset in the plain frame."""
    return frame_number << 20 | position


def split_place(place: int) -> tuple[int, int]:
    """The frame number and the byte offset within the plain frame that `place_of` joined."""
    return place >> 20, place & (FRAME_PLAIN_SIZE_BYTES_MAX - 1)
