"""What the witness writes to a disk: records, contended chunks, and where they lie.

The disk begins with the contended chunks. Behind them each node has a ring of records of 4 KiB,
which it alone writes: record ``number`` is in slot ``number % slots``. All integers are
little-endian.

A record:  magic 8 | trial 8 | node 4 | nodes 4 | number 8 | seen, 8 for each node | done, 8 for
each contended chunk | meant, 8 for each contended chunk | padding from the rest | checksum 16

A contended chunk:  magic 8 | trial 8 | chunk 8 | version 8 | padding | checksum 16
"""

import hashlib
import struct
from dataclasses import dataclass

from libs.errors import ConfigurationError
from libs.packs.layout import CHUNK_SIZE_BYTES

RECORD_SIZE_BYTES = 4096
_CHECKSUM_BYTES = 16
_RECORD_MAGIC, _CHUNK_MAGIC = b"bc-recrd", b"bc-chunk"
_RECORD_HEAD = struct.Struct("<8sQIIQ")
_CHUNK_HEAD = struct.Struct("<8sQQQ")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies on a disk that ``nodes`` nodes write.

    Args:
        trial: distinguishes what one trial writes from what another one left.
        nodes: how many nodes write.
        contended: chunks that all nodes overwrite in turn.
        slots: records in the ring of each node, a multiple of the 16 of a chunk.

    Raises:
        ConfigurationError: what is named does not fit into a record, or there is none of it.
    """

    trial: int
    nodes: int
    contended: int
    slots: int

    def __post_init__(self) -> None:
        head = _RECORD_HEAD.size + 8 * (self.nodes + 2 * self.contended)
        if head + _CHECKSUM_BYTES > RECORD_SIZE_BYTES or min(self.nodes, self.contended) < 1:
            raise ConfigurationError(
                f"{self.nodes} nodes and {self.contended} contended chunks do not fit into a "
                f"record of {RECORD_SIZE_BYTES} bytes: name one of each at least, and fewer of them"
            )
        if self.slots < 1 or self.slots * RECORD_SIZE_BYTES % CHUNK_SIZE_BYTES:
            raise ConfigurationError(
                f"a ring of {self.slots} records is not whole chunks: give a multiple of "
                f"{CHUNK_SIZE_BYTES // RECORD_SIZE_BYTES}"
            )

    @property
    def size_bytes(self) -> int:
        """How large the disk must be."""
        return self.contended * CHUNK_SIZE_BYTES + self.nodes * self.slots * RECORD_SIZE_BYTES

    def chunk_at(self, chunk: int) -> int:
        """Offset in bytes of a contended chunk."""
        return chunk * CHUNK_SIZE_BYTES

    def slot_at(self, node: int, number: int) -> int:
        """Offset in bytes of record ``number`` of a node."""
        slot = node * self.slots + number % self.slots
        return self.contended * CHUNK_SIZE_BYTES + slot * RECORD_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """What one node had done and read when it wrote this.

    Attributes:
        node: who wrote it.
        number: the how many-th of this node, from 1.
        seen: for each node, the number of its newest record that the writer had read.
        done: for each contended chunk, a version whose write was acknowledged to its writer before.
        meant: for each contended chunk, the newest version that this node may have begun to write.
    """

    node: int
    number: int
    seen: tuple[int, ...]
    done: tuple[int, ...]
    meant: tuple[int, ...]


def encode_record(layout: Layout, record: Record) -> bytes:
    """The 4 KiB of a record."""
    head = _RECORD_HEAD.pack(_RECORD_MAGIC, layout.trial, record.node, layout.nodes, record.number)
    counts = (*record.seen, *record.done, *record.meant)
    return _whole(head + struct.pack(f"<{len(counts)}Q", *counts), RECORD_SIZE_BYTES)


def decode_record(layout: Layout, raw: bytes) -> Record | None:
    """The record in these 4 KiB; None if there is none of this trial, or a torn one."""
    magic, trial, node, nodes, number = _RECORD_HEAD.unpack_from(raw)
    if (magic, trial, nodes) != (_RECORD_MAGIC, layout.trial, layout.nodes) or not _is_whole(raw):
        return None
    counts = struct.unpack_from(f"<{nodes + 2 * layout.contended}Q", raw, _RECORD_HEAD.size)
    done, meant = nodes, nodes + layout.contended
    return Record(node, number, counts[:done], counts[done:meant], counts[meant:])


def encode_chunk(layout: Layout, chunk: int, version: int) -> bytes:
    """The 64 KiB of a version of a contended chunk."""
    return _whole(_CHUNK_HEAD.pack(_CHUNK_MAGIC, layout.trial, chunk, version), CHUNK_SIZE_BYTES)


def decode_chunk(layout: Layout, chunk: int, raw: bytes) -> int | None:
    """Version of a contended chunk; None if it is torn, or of another trial."""
    magic, trial, number, version = _CHUNK_HEAD.unpack_from(raw)
    right = (magic, trial, number) == (_CHUNK_MAGIC, layout.trial, chunk) and _is_whole(raw)
    return int(version) if right else None


def _whole(head: bytes, size: int) -> bytes:
    # Padding that follows from the head, so that no two records share a byte that one could mix up.
    padding = hashlib.shake_128(head).digest(size - len(head) - _CHECKSUM_BYTES)
    return head + padding + _checksum(head + padding)


def _is_whole(raw: bytes) -> bool:
    return _checksum(raw[:-_CHECKSUM_BYTES]) == raw[-_CHECKSUM_BYTES:]


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
