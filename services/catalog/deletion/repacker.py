"""Repacking: items of one pack, verified against their ids, as frames of another."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from libs.blockmap.node import NodeHasher
from libs.catalogdb.packs.location import PackLocation
from libs.errors import DamagedDataError
from libs.keys.vault import KeyVault
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import CompressedFrame, compress
from libs.packs.layout import (
    FRAME_COUNT_MAX,
    FRAME_ENTRY,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    ITEM_COUNT_MAX,
    PACK_TARGET_SIZE_BYTES,
    split_place,
)
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import Item, ItemKind
from libs.reading.frames import FrameReader


class PackedFrame(NamedTuple):
    """A frame that is ready for any pack of its domain."""

    frame: CompressedFrame
    items: list[FrameItem]


class Repacker:
    """Thread-safe.

    Args:
        frames: reads the old packs.
        vault: the domains' keys.
    """

    def __init__(self, frames: FrameReader, vault: KeyVault) -> None:
        self._frames = frames
        self._vault = vault

    def pack(self, old: PackLocation, items: Sequence[Item]) -> Iterator[PackedFrame]:
        """Items of one pack in compressed frames, chunks and map nodes apart as they were.

        Each is compared with its id: what is damaged is never written anew.

        Raises:
            DamagedDataError: an item is not what it must be.
            NotFoundError: the pack's object is gone.
        """
        for kind in ItemKind:
            plain, packed = bytearray(), list[FrameItem]()
            for item, content in self._read(old, [one for one in items if one.kind is kind]):
                if len(plain) + len(content) > FRAME_PLAIN_SIZE_BYTES_MAX:
                    yield PackedFrame(compress(bytes(plain)), packed)
                    plain, packed = bytearray(), []
                packed.append(FrameItem(kind, item.id, len(plain), len(content)))
                plain += content
            if packed:
                yield PackedFrame(compress(bytes(plain)), packed)

    def add(self, builder: PackBuilder, frames: Sequence[PackedFrame]) -> bool:
        """Put all frames into a pack that nobody else fills, or none if they do not all fit."""
        stored = sum(one.frame.stored_size_bytes for one in frames)
        items = sum(len(one.items) for one in frames)
        taken = len(builder.frame_table()) // FRAME_ENTRY.size
        if (
            builder.size_bytes + stored > PACK_TARGET_SIZE_BYTES
            or taken + len(frames) > FRAME_COUNT_MAX
            or len(builder.items) + items > ITEM_COUNT_MAX
        ):
            return False
        for one in frames:
            slot = builder.reserve(one.frame, one.items)
            assert slot is not None, "there was room for all of them"
            builder.fill(slot, one.frame)
        return True

    def _read(self, old: PackLocation, items: Sequence[Item]) -> Iterator[tuple[Item, bytes]]:
        id_key = self._vault.get(old.domain, old.key_id).id_key
        chunks, nodes = ChunkHasher(id_key), NodeHasher(id_key)
        ordered = sorted(items, key=lambda item: item.place)
        for number, in_frame in groupby(ordered, key=lambda item: split_place(item.place)[0]):
            plain = self._frames.frame(old, number)
            for item in in_frame:
                position = split_place(item.place)[1]
                content = plain[position : position + item.size_bytes]
                found = (
                    chunks.chunk_id(content)
                    if item.kind is ItemKind.CHUNK
                    else nodes.node_id(content)
                )
                if found != item.id:
                    raise DamagedDataError(
                        f"item {item.id.hex()}: its bytes in frame {number} of pack "
                        f"{old.generation.hex} are those of {found.hex()}"
                    )
                yield item, content
