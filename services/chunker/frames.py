"""A frame that is being filled, and the plain bytes in it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from libs.packs.frame import compress
from libs.packs.layout import CHUNK_SIZE_BYTES, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.packs.pack import FrameItem
from libs.packs.trailer import ItemKind
from services.chunker.packer import AttemptPacks, Packer


@dataclass(slots=True)
class OpenFrame:
    """Up to 1 MiB of chunks or map nodes; used by one thread at a time, again and again."""

    buffer: bytearray = field(default_factory=lambda: bytearray(FRAME_PLAIN_SIZE_BYTES_MAX))
    items: list[FrameItem] = field(default_factory=list)
    fill: int = 0

    @property
    def filled(self) -> memoryview:
        """The bytes of its items."""
        return memoryview(self.buffer)[: self.fill]

    def has_room(self, length: int) -> bool:
        """Whether ``length`` more bytes fit."""
        return self.fill + length <= len(self.buffer)

    def space(self, length: int) -> memoryview:
        """The next ``length`` bytes; they are kept by `keep`."""
        return memoryview(self.buffer)[self.fill : self.fill + length]

    def keep(self, kind: ItemKind, id_: bytes, length: int) -> None:
        """The next ``length`` bytes are this item."""
        self.items.append(FrameItem(kind, id_, self.fill, length))
        self.fill += length

    def keep_chunks(
        self, space: memoryview, ids: Sequence[bytes], fresh: Collection[bytes]
    ) -> None:
        """Keep the fresh ones of the chunks in ``space``; the others are overwritten."""
        kept = 0
        for number, id_ in enumerate(ids):
            if id_ not in fresh:
                continue
            if kept != number:
                source, target = number * CHUNK_SIZE_BYTES, kept * CHUNK_SIZE_BYTES
                space[target : target + CHUNK_SIZE_BYTES] = space[
                    source : source + CHUNK_SIZE_BYTES
                ]
            kept += 1
            self.keep(ItemKind.CHUNK, id_, CHUNK_SIZE_BYTES)

    def clear(self) -> None:
        """Forget its items."""
        self.items, self.fill = [], 0


def store_frame(packer: Packer, owner: AttemptPacks, frame: OpenFrame) -> None:
    """Compress a frame and give it to the packer, if anything is in it; then it is empty again."""
    if frame.fill:
        packer.store(owner, compress(frame.filled), frame.items)
        frame.clear()
