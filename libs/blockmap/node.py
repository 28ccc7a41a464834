"""Nodes of a block map: their bytes and their identity.

A node has 512 slots. A leaf (level 0) holds a domain tag and a chunk id for each chunk that is not
all zeros; a node of level n holds the ids of nodes of level n - 1. An empty slot is a run of zero
chunks, and a node without any entry does not exist. Byte table: docs/formats/block-map.md.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NewType

from blake3 import blake3

from libs.errors import BadInputError, DamagedDataError

#: Keyed BLAKE3-256 of a node's encoded bytes: its identity within one domain.
NodeId = NewType("NodeId", bytes)

FAN_OUT = 512
#: A root of level 5 covers 512^6 chunks, more than 2^64 bytes.
LEVEL_MAX = 5
ID_SIZE_BYTES = 32

_MAGIC = b"BCmn"
_VERSION = 1
#: magic, version, level, number of entries, presence bitmap (slot 0 is the lowest bit of the first
#: byte).
_HEADER = struct.Struct("<4sBBH64s")
NODE_SIZE_BYTES_MAX = _HEADER.size + FAN_OUT * (1 + ID_SIZE_BYTES)


class NodeHasher:
    """Names nodes of one domain. Thread-safe.

    The key is derived from the domain's id key for this purpose alone, so that a node never has the
    id of a chunk, even of a chunk that was made to hold the node's bytes.
    """

    __slots__ = ("_key",)

    def __init__(self, id_key: bytes) -> None:
        if len(id_key) != ID_SIZE_BYTES:
            raise BadInputError(f"identity key: expected {ID_SIZE_BYTES} bytes, got {len(id_key)}")
        self._key = blake3(id_key, derive_key_context="backcast block map node 1").digest()

    def node_id(self, encoded: bytes) -> NodeId:
        """The id of a node, from what `encode_node` gave."""
        return NodeId(blake3(encoded, key=self._key).digest())


class MapRun(NamedTuple):
    """Consecutive chunks that are not all zeros."""

    #: Index of the first chunk.
    first: int
    #: Domain tag of each chunk: one byte each.
    tags: bytes
    #: Chunk id of each chunk: 32 bytes each.
    ids: bytes

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self.tags)


class Node(NamedTuple):
    """A decoded node: columns over its present slots, ascending; no object per entry is made."""

    level: int
    #: Bit n is set if slot n has an entry.
    present: int
    #: Domain tags, one byte per entry; empty above the leaves.
    tags: bytes
    #: 32 bytes per entry.
    ids: bytes

    def entries(self) -> dict[int, bytes]:
        """Slot → entry: tag and chunk id (33 bytes) in a leaf, node id (32 bytes) above."""
        tags, ids = self.tags, self.ids
        parts = [ids[at : at + ID_SIZE_BYTES] for at in range(0, len(ids), ID_SIZE_BYTES)]
        if self.level == 0:
            parts = [tags[rank : rank + 1] + part for rank, part in enumerate(parts)]
        slots = (slot for first, end in self._runs() for slot in range(first, end))
        return dict(zip(slots, parts, strict=True))

    def runs(self, start: int) -> Iterator[MapRun]:
        """The entries of a leaf as runs, given the chunk index of its slot 0."""
        rank = 0
        for first, end in self._runs():
            upto = rank + end - first
            yield MapRun(
                start + first,
                self.tags[rank:upto],
                self.ids[rank * ID_SIZE_BYTES : upto * ID_SIZE_BYTES],
            )
            rank = upto

    def _runs(self) -> Iterator[tuple[int, int]]:
        rest, at = self.present, 0
        while rest:
            gap = (rest & -rest).bit_length() - 1
            rest >>= gap
            length = (~rest & (rest + 1)).bit_length() - 1
            rest >>= length
            yield at + gap, at + gap + length
            at += gap + length


def encode_node(level: int, entries: Mapping[int, bytes]) -> bytes:
    """A node's bytes; equal entries give equal bytes.

    Args:
        level: 0 for a leaf.
        entries: slot → entry as `Node.entries` has them; at least one.
    """
    ordered = sorted(entries.items())
    bitmap = 0
    for slot, _ in ordered:
        bitmap |= 1 << slot
    header = _HEADER.pack(_MAGIC, _VERSION, level, len(ordered), bitmap.to_bytes(64, "little"))
    if level:
        return header + b"".join([entry for _, entry in ordered])
    tags, ids = split_entries([entry for _, entry in ordered])
    return header + tags + ids


def split_entries(entries: list[bytes]) -> tuple[bytes, bytes]:
    """Leaf entries of 33 bytes as a column of tags and a column of chunk ids."""
    return b"".join([entry[:1] for entry in entries]), b"".join([entry[1:] for entry in entries])


def decode_node(data: bytes) -> Node:
    """Read what `encode_node` made.

    Raises:
        DamagedDataError: not exactly the bytes of one node of a version that can be read.
    """
    if not _HEADER.size < len(data) <= NODE_SIZE_BYTES_MAX:
        raise DamagedDataError(f"map node of {len(data)} bytes: at most {NODE_SIZE_BYTES_MAX} fit")
    magic, version, level, count, bitmap = _HEADER.unpack_from(data)
    present = int.from_bytes(bitmap, "little")
    if (magic, version) != (_MAGIC, _VERSION) or level > LEVEL_MAX:
        raise DamagedDataError(
            f"map node: expected {_MAGIC!r} version {_VERSION}, got {magic!r} version {version} "
            f"level {level}"
        )
    ids_at = _HEADER.size + (count if level == 0 else 0)
    if count != present.bit_count() or len(data) != ids_at + count * ID_SIZE_BYTES:
        raise DamagedDataError(
            f"map node of {len(data)} bytes: it says {count} entries, its bitmap "
            f"{present.bit_count()}"
        )
    return Node(level, present, data[_HEADER.size : ids_at], data[ids_at:])


def node_size_bytes(data: bytes) -> int:
    """Length of the node that ``data`` begins with, for readers that know only where it begins.

    Raises:
        DamagedDataError: no node begins here.
    """
    if len(data) < _HEADER.size:
        raise DamagedDataError(f"map node: {len(data)} bytes are less than its header")
    _, _, level, count, _ = _HEADER.unpack_from(data)
    return int(_HEADER.size + count * (ID_SIZE_BYTES + (1 if level == 0 else 0)))
