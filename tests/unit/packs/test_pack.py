import random
import threading
import uuid

import pytest

from libs.errors import DamagedDataError, InvariantViolation
from libs.packs.frame import compress
from libs.packs.layout import (
    CHUNK_SIZE_BYTES,
    FRAME_COUNT_MAX,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    ITEM_COUNT_MAX,
    PACK_SIZE_BYTES_MAX,
    PACK_TARGET_SIZE_BYTES,
    place_of,
    split_place,
)
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import (
    FrameEntry,
    ItemKind,
    encode_frame_table,
    parse_frame_table,
    parse_header,
)
from tests.unit.packs.building import (
    DOMAIN,
    GENERATION,
    KEY_ID,
    add,
    contents,
    frame_of,
    index_of,
    new_builder,
    small_pack,
)


def test_pack_describes_itself() -> None:
    data = small_pack()
    index = index_of(data)
    assert index.header == (DOMAIN, GENERATION, KEY_ID)
    assert parse_header(data[:64]) == index.header
    assert [split_place(item.place) for item in index.items] == [(0, 0), (0, 240), (1, 0)]
    assert contents(data) == [b"first chunk " * 20, b"second", bytes(range(256))]


def test_catalog_column_gives_the_frames_without_the_trailer() -> None:
    builder = new_builder()
    add(builder, b"one")
    add(builder, b"two" * 1000)
    builder.close()
    index = index_of(bytes(builder.finish()))
    assert parse_frame_table(builder.frame_table()) == index.frames
    assert builder.items == index.items


def test_finishing_again_gives_identical_bytes_whatever_the_buffer_held_before() -> None:
    builder = new_builder()
    add(builder, b"one")
    builder.close()
    assert bytes(builder.finish()) == bytes(builder.finish())
    used = bytearray(b"\xff" * PACK_SIZE_BYTES_MAX)
    assert small_pack(used) == small_pack()


def test_every_flipped_bit_of_a_pack_is_found() -> None:
    data = small_pack()
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        try:
            contents(flipped)
        except DamagedDataError:
            continue
        pytest.fail(f"a flipped bit of byte {at} was not found, seed {seed}")


def test_every_truncation_of_a_pack_is_found() -> None:
    data = small_pack()
    for length in range(len(data)):
        with pytest.raises(DamagedDataError):
            index_of(data[:length])
    with pytest.raises(DamagedDataError):
        index_of(data + b"\0")


def test_threads_fill_one_pack_and_exactly_one_finishes_it() -> None:
    builder = new_builder()
    finished: list[bytes] = []
    stored: set[bytes] = set()

    def work(number: int) -> None:
        rng = random.Random(number)
        while True:
            chunks = [rng.randbytes(CHUNK_SIZE_BYTES) for _ in range(8)]
            frame, items = frame_of(*chunks)
            slot = builder.reserve(frame, items)
            if slot is None:
                if builder.close():
                    finished.append(bytes(builder.finish()))
                return
            stored.update(chunks)
            if builder.fill(slot, frame):
                finished.append(bytes(builder.finish()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 1
    assert set(contents(finished[0])) == stored
    assert PACK_TARGET_SIZE_BYTES - (1 << 20) < len(finished[0]) <= PACK_SIZE_BYTES_MAX


def test_last_fill_after_close_is_the_one_to_finish() -> None:
    builder = new_builder()
    frame, items = frame_of(b"late")
    slot = builder.reserve(frame, items)
    assert slot is not None
    assert builder.close() is False
    with pytest.raises(InvariantViolation, match="0 of 1 frames filled"):
        builder.finish()
    assert builder.fill(slot, frame) is True
    assert builder.close() is False
    assert builder.reserve(frame, items) is None
    assert contents(bytes(builder.finish())) == [b"late"]


def test_empty_pack_is_closed_but_never_stored() -> None:
    builder = new_builder()
    assert builder.close() is True
    assert builder.is_empty
    with pytest.raises(InvariantViolation):
        builder.finish()


def test_pack_takes_no_more_frames_or_items_than_its_limits() -> None:
    frame = compress(b"x")
    builder = new_builder()
    for _ in range(FRAME_COUNT_MAX):
        assert builder.reserve(frame, [])
    assert builder.reserve(frame, []) is None

    big = compress(bytes(FRAME_PLAIN_SIZE_BYTES_MAX))
    items = [FrameItem(ItemKind.NODE, at.to_bytes(32), at, 1) for at in range(ITEM_COUNT_MAX + 1)]
    builder = new_builder()
    slot = builder.reserve(big, items[:-1])
    assert slot
    assert builder.reserve(big, items[-1:]) is None
    builder.close()
    builder.fill(slot, big)
    assert len(index_of(builder.finish()).items) == ITEM_COUNT_MAX


def test_an_item_that_comes_again_is_where_it_was_first() -> None:
    frame, id_ = compress(b"xy"), b"i" * 32
    builder = new_builder()
    items = [FrameItem(ItemKind.CHUNK, id_, 0, 1), FrameItem(ItemKind.CHUNK, b"j" * 32, 1, 1)]
    for some in (items, items[:1]):
        slot = builder.reserve(frame, some)
        assert slot
        builder.fill(slot, frame)
    assert builder.close()
    assert index_of(builder.finish()).items == builder.items
    assert [(item.id, item.place) for item in builder.items] == [(id_, 0), (b"j" * 32, 1)]


def test_a_frame_of_items_that_are_there_takes_no_room_but_is_waited_for() -> None:
    frame, items = frame_of(b"here")
    builder = new_builder()
    slot = builder.reserve(frame, items)
    assert slot
    builder.fill(slot, frame)
    size_bytes = builder.size_bytes
    again = builder.reserve(frame, items)
    assert again
    assert (again.entry, again.stored_size_bytes, builder.size_bytes) == (None, 0, size_bytes)
    assert builder.close() is False
    assert builder.fill(again, frame) is True
    assert contents(bytes(builder.finish())) == [b"here"]
    assert builder.reserve(frame, items) is None


@pytest.mark.parametrize(("position", "size"), [(0, 0), (-1, 1), (0, 4), (3, 1)])
def test_item_outside_its_frame_is_a_broken_invariant(position: int, size: int) -> None:
    item = FrameItem(ItemKind.CHUNK, bytes(32), position, size)
    with pytest.raises(InvariantViolation, match="in a frame of 3"):
        new_builder().reserve(compress(b"abc"), [item])


def test_pack_buffer_must_hold_the_largest_pack() -> None:
    with pytest.raises(InvariantViolation, match="pack buffer"):
        PackBuilder(uuid.UUID(int=1), DOMAIN, KEY_ID, b"p" * 32, bytearray(1000))


@pytest.mark.parametrize(
    "frames",
    [
        [FrameEntry(63, 100, 100)],
        [FrameEntry(64, 100, 100), FrameEntry(163, 100, 100)],
        [FrameEntry(64, 17, 100)],
        [FrameEntry(64, 100, (1 << 20) + 1)],
        [FrameEntry(64, 1000, 100)],
        [FrameEntry(64, 0xFFFFFFFF, 0xFFFFFFFF)],
        [FrameEntry(64 + at * 18, 18, 1) for at in range(FRAME_COUNT_MAX + 1)],
    ],
)
def test_frame_table_with_impossible_entries_is_damaged(frames: list[FrameEntry]) -> None:
    with pytest.raises(DamagedDataError, match="frame table"):
        parse_frame_table(encode_frame_table(frames))


def test_place_is_a_positive_int4_and_splits_again() -> None:
    last = place_of(FRAME_COUNT_MAX, FRAME_PLAIN_SIZE_BYTES_MAX - 1)
    assert last == 2**31 - 1
    assert split_place(last) == (FRAME_COUNT_MAX, FRAME_PLAIN_SIZE_BYTES_MAX - 1)
