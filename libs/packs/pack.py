"""Packs: immutable objects of frames, filled by several threads at once.

Order for each frame: `compress` (any thread) → `PackBuilder.reserve` (short, under the lock) →
`PackBuilder.fill` (encrypts straight into the pack's buffer, outside the lock, regions are
disjoint). Exactly one thread learns that it is the one to `finish` the pack and PUT it.
"""

import threading
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from libs.errors import InvariantViolation
from libs.packs.frame import CompressedFrame, FrameCipher
from libs.packs.layout import (
    CHUNK_ID_SIZE_BYTES,
    FRAME_COUNT_MAX,
    GCM_TAG_SIZE_BYTES,
    ITEM_COUNT_MAX,
    PACK_FOOTER,
    PACK_HEADER,
    PACK_SIZE_BYTES_MAX,
    PACK_TARGET_SIZE_BYTES,
    place_of,
)
from libs.packs.trailer import (
    FrameEntry,
    Item,
    ItemKind,
    PackHeader,
    encode_footer,
    encode_frame_table,
    encode_trailer,
)


class FrameItem(NamedTuple):
    """A chunk or map node within a plain frame that is not in a pack yet."""

    kind: ItemKind
    id: bytes
    #: Byte offset within the plain frame.
    position: int
    size_bytes: int


class FrameSlot(NamedTuple):
    """A frame's reserved place in a pack under construction.

    Without an entry the frame has no place: everything in it is in the pack already. The slot must
    be filled all the same, so that the pack is not finished before its caller has noted that.
    """

    number: int
    entry: FrameEntry | None

    @property
    def stored_size_bytes(self) -> int:
        """What the frame takes in the pack."""
        return self.entry.stored_size_bytes if self.entry else 0


class PackBuilder:
    """One pack under construction. Thread-safe; several threads share one builder.

    ::

        slot = builder.reserve(frame, items)
        if slot is None:                      # full: close it and go on with a new builder
            if builder.close():               # no thread is filling a frame any more
                put(builder.finish())
        elif builder.fill(slot, frame):       # closed meanwhile, and this was the last frame
            put(builder.finish())

    Of all calls of `close` and `fill`, exactly one returns True, and that caller calls `finish`.
    Who reserved a slot and cannot fill it calls `spoil`, then `close`: the pack is handed over all
    the same, once nobody writes into its buffer any more, and `finish` refuses it.

    Args:
        generation: the pack's name, claimed in the catalog, never used before.
        domain: whose chunks it holds.
        key_id: names the data key that ``pack_key`` is derived from.
        pack_key: 32 bytes, for this generation alone.
        buffer: at least PACK_SIZE_BYTES_MAX bytes, reused from a pool; the builder owns it until
            the bytes that `finish` returned are stored. Its old content does not matter.
    """

    def __init__(
        self,
        generation: uuid.UUID,
        domain: uuid.UUID,
        key_id: uuid.UUID,
        pack_key: bytes,
        buffer: bytearray | memoryview,
    ) -> None:
        if len(buffer) < PACK_SIZE_BYTES_MAX:
            raise InvariantViolation(
                f"pack buffer of {len(buffer)} bytes: expected at least {PACK_SIZE_BYTES_MAX}"
            )
        self.header = PackHeader(domain, generation, key_id)
        self._cipher = FrameCipher(generation, pack_key)
        self._buffer = memoryview(buffer)
        self._lock = threading.Lock()
        self._frames: list[FrameEntry] = []
        self._items: list[Item] = []
        self._ids: set[bytes] = set()
        self._end = PACK_HEADER.size
        self._reserved_count = 0
        self._filled_count = 0
        self._spoiled_count = 0
        self._closed = False
        self._handed_over = False
        self._finished: memoryview | None = None

    def reserve(self, frame: CompressedFrame, items: Iterable[FrameItem]) -> FrameSlot | None:
        """Take the next frame number and room for ``frame``; None if the pack is full or closed.

        The caller must `fill` the slot. Items appear in the trailer in the order of reservations.
        An item that is in an earlier frame of the pack does not appear again: the first one counts,
        and the bytes in this frame belong to no item. A frame of such items alone takes no room.

        Raises:
            InvariantViolation: an item lies outside its frame or its id is not 32 bytes.
        """
        items = list(items)
        for item in items:
            if (
                len(item.id) != CHUNK_ID_SIZE_BYTES
                or item.position < 0
                or not 0 < item.size_bytes <= frame.plain_size_bytes - item.position
            ):
                raise InvariantViolation(
                    f"item {item.id.hex()} of {item.size_bytes} bytes at {item.position} in a "
                    f"frame of {frame.plain_size_bytes}"
                )
        with self._lock:
            number, size = len(self._frames), frame.stored_size_bytes
            fresh = [item for item in items if item.id not in self._ids]
            if items and not fresh and not self._closed:
                self._reserved_count += 1
                return FrameSlot(number, None)
            if (
                self._closed
                or number == FRAME_COUNT_MAX
                or self._end + size > PACK_TARGET_SIZE_BYTES
                or len(self._items) + len(fresh) > ITEM_COUNT_MAX
            ):
                return None
            entry = FrameEntry(self._end, size, frame.plain_size_bytes)
            self._frames.append(entry)
            self._reserved_count += 1
            self._ids.update(item.id for item in fresh)
            self._items += [
                Item(item.kind, item.id, place_of(number, item.position), item.size_bytes)
                for item in fresh
            ]
            self._end += size
        return FrameSlot(number, entry)

    def fill(self, slot: FrameSlot, frame: CompressedFrame) -> bool:
        """Encrypt ``frame`` into its slot, once per slot. True: the caller must `finish`."""
        if slot.entry:
            at = slot.entry.offset
            self._cipher.seal_into(
                slot.number, frame, self._buffer[at : at + slot.entry.stored_size_bytes]
            )
        with self._lock:
            self._filled_count += 1
            return self._hand_over()

    def spoil(self) -> None:
        """A slot that was reserved will never be filled: the pack cannot be finished."""
        with self._lock:
            self._spoiled_count += 1

    def close(self) -> bool:
        """Reserve nothing more; every thread that finds the pack full, or is at its end, calls it.

        True: every frame is filled and the caller must `finish` (unless `is_empty`).
        """
        with self._lock:
            self._closed = True
            return self._hand_over()

    def finish(self) -> memoryview:
        """The object's bytes, a view of the buffer; the same bytes whenever it is called again.

        Raises:
            InvariantViolation: the pack is empty, still open, or a frame is not filled.
        """
        with self._lock:
            if not (self._closed and self._frames and self._filled_count == self._reserved_count):
                raise InvariantViolation(
                    f"pack {self.header.generation.hex} cannot be finished: closed {self._closed}, "
                    f"{self._filled_count} of {self._reserved_count} frames filled"
                )
            if self._finished is None:
                self._finished = self._write_ends()
            return self._finished

    @property
    def size_bytes(self) -> int:
        """Bytes taken so far, without the trailer."""
        return self._end

    @property
    def is_empty(self) -> bool:
        """Whether nothing was reserved: there is nothing to store."""
        return not self._frames

    @property
    def items(self) -> tuple[Item, ...]:
        """The items reserved so far, with their places."""
        with self._lock:
            return tuple(self._items)

    def frame_table(self) -> bytes:
        """The frames reserved so far, as the column that spares readers the trailer."""
        with self._lock:
            return encode_frame_table(self._frames)

    def _hand_over(self) -> bool:
        settled_count = self._filled_count + self._spoiled_count
        if self._handed_over or not self._closed or settled_count < self._reserved_count:
            return False
        self._handed_over = True
        return True

    def _write_ends(self) -> memoryview:
        header = self.header.encode()
        self._buffer[: len(header)] = header
        trailer = encode_trailer(self._frames, self._items)
        footer_at = self._end + len(trailer) + GCM_TAG_SIZE_BYTES
        sealed = self._buffer[self._end : footer_at]
        self._cipher.seal_trailer_into(trailer, header, sealed)
        end = footer_at + PACK_FOOTER.size
        self._buffer[footer_at:end] = encode_footer(self._end, sealed)
        return self._buffer[:end]
