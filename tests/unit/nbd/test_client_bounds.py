"""What a hostile server gets from our client's session: an end, never memory or wrong bytes."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import DamagedDataError
from libs.nbd.client.pending import Coverage
from libs.nbd.layout import (
    CHUNK_ERROR,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    CommandFlag,
    ErrorNumber,
)
from tests.unit.nbd.raw_server import (
    CONTEXT,
    DONE,
    chunk,
    data,
    entered,
    error,
    head,
    heard,
    hole,
    named,
)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"x" * 16, "reply: expected magic 0x67446698 or 0x668e33ef, got 0x78787878"),
        (SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, 1), "expected a structured reply"),
        (SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, 2), "cookie of a request in flight, got 0x2"),
        (chunk(0, flags=1, cookie=9), "cookie of a request in flight, got 0x9"),
        (DONE, "expected all bytes, got a gap at 0"),
        (data(0, 4096, 1), "expected all bytes, got a gap at 4096"),
        (data(4096, 4096) + DONE, "got a gap at 0"),
        (data(0, 4096) + data(4095, 4097), "expected chunks that do not overlap"),
        (data(4096, 4096) + data(0, 4097), "expected chunks that do not overlap"),
        (data(0, 4096) + hole(0, 4096), "expected chunks that do not overlap"),
        (hole(0, 8193), "expected chunks within it"),
        (hole(0, 0), "expected chunks within it"),
        (hole(2**64 - 1, 1), "expected chunks within it"),
        (data(8192, 1), "expected chunks within it"),
        (head(1, 8), "type 1 with 9 to 8200 bytes, got 8"),
        (head(1, 0xFFFFFFFF) + bytes(8), "type 1 with 9 to 8200 bytes, got 4294967295"),
        (head(2, 13), "type 2 with 12 to 12 bytes"),
        (head(2, 0xFFFFFFFF), "type 2 with 12 to 12 bytes"),
        (head(0, 0), "expected a chunk of a known type, got type 0"),
        (head(7, 0), "expected a chunk of a known type, got type 7"),
        (chunk(5, bytes(12)), "expected no block status"),
        (head(0x8001, 5), "type 32769 with 6 to 8192 bytes"),
        (head(0x8077, 0xFFFFFFFF), "with 6 to 8192 bytes, got 4294967295"),
        (error(0), "expected an error chunk with an error"),
        (chunk(0x8001, CHUNK_ERROR.pack(5, 9) + b"short"), "a message that fits"),
        (chunk(0x8001, CHUNK_ERROR.pack(5, 4097) + bytes(4097)), "a message that fits"),
        (error(5, kind=0x8002, more=struct.pack(">Q", 8192)), "expected an error within it"),
        (error(5, kind=0x8002), "a message that fits"),
    ],
    ids=named,
)
def test_a_server_that_breaks_a_read_is_left(reply: bytes, words: str) -> None:
    session = entered()
    session.read(0, memoryview(bytearray(8192)))
    with pytest.raises(DamagedDataError, match=f"server: .*{words}"):
        heard(session, reply + bytes(20))
    with pytest.raises(DamagedDataError, match=words):
        session.next_reply()


def test_an_unfragmented_read_has_one_content_chunk() -> None:
    session = entered()
    session.read(0, memoryview(bytearray(8192)), CommandFlag.DF)
    with pytest.raises(DamagedDataError, match="expected one content chunk"):
        heard(session, data(0, 4096) + data(4096, 4096, 1))


def test_too_many_gaps_are_no_reply() -> None:
    session = entered()
    session.read(0, memoryview(bytearray(8192)))
    with pytest.raises(DamagedDataError, match="few that leave gaps"):
        heard(session, b"".join(hole(2 * number + 1, 1) for number in range(1100)))


def test_a_structured_reply_that_nobody_asked_for_is_the_end() -> None:
    session = entered(structured=False)
    session.read(0, memoryview(bytearray(512)))
    with pytest.raises(DamagedDataError, match="expected magic 0x67446698, got 0x668e33ef"):
        heard(session, data(0, 512, 1))


def test_chunks_may_come_in_any_order() -> None:
    session = entered()
    into = bytearray(b"x" * 8192)
    pending = session.read(0, memoryview(into))
    order = [data(6000, 2192), hole(100, 900), data(0, 100), hole(1000, 5000)]
    assert heard(session, b"".join(order) + DONE) == [pending]
    assert into == b"d" * 100 + bytes(5900) + b"d" * 2192
    assert pending.error is None


@pytest.mark.parametrize(
    ("reply", "number", "offset", "message"),
    [
        (error(5, b"disk broke"), ErrorNumber.EIO, None, "disk broke"),
        (error(123), ErrorNumber.EINVAL, None, ""),
        (error(5, b"\xff", 0x8002, struct.pack(">Q", 100)), ErrorNumber.EIO, 100, "�"),
        (error(28, b"new", 0x8ABC, b"fields of a kind that nobody knows"), 28, None, "new"),
    ],
)
def test_an_error_is_told_with_all_that_the_server_said(
    reply: bytes, number: int, offset: int | None, message: str
) -> None:
    session = entered()
    pending = session.read(0, memoryview(bytearray(8192)))
    assert heard(session, reply) == [pending]
    assert (pending.error, pending.error_offset, pending.message) == (number, offset, message)
    assert session.in_flight_count == 0


def status(context: int, *extents: tuple[int, int], flags: int = 0) -> bytes:
    packed = b"".join(struct.pack(">II", *extent) for extent in extents)
    return chunk(5, struct.pack(">I", context) + packed, flags)


@pytest.mark.parametrize(
    ("flags", "reply", "words"),
    [
        (0, DONE, "expected 1 contexts, got 0"),
        (0, status(0), "expected whole extents"),
        (0, head(5, 4 + 8 * (2**20 + 1)) + bytes(4), "expected whole extents, not too many"),
        (0, head(5, 15) + bytes(4), "expected whole extents"),
        (0, status(7, (512, 0)), "expected each chosen context once, got context 7"),
        (0, status(0, (512, 0)) * 2, "expected each chosen context once"),
        (0, data(0, 512), "expected no content"),
        (CommandFlag.REQ_ONE, status(0, (512, 0), (512, 1)), "expected whole extents"),
    ],
    ids=named,
)
def test_a_server_that_breaks_a_block_status_is_left(flags: int, reply: bytes, words: str) -> None:
    session = entered(contexts=(CONTEXT,))
    session.block_status(0, 4096, flags)
    with pytest.raises(DamagedDataError, match=words):
        heard(session, reply + DONE)


@pytest.mark.parametrize(
    ("flags", "extents"),
    [(0, [(0, 0)]), (0, [(4096, 0), (512, 0)]), (CommandFlag.REQ_ONE, [(8192, 0)])],
)
def test_extents_that_cannot_be_are_never_told(flags: int, extents: list[tuple[int, int]]) -> None:
    session = entered(contexts=(CONTEXT,))
    pending = session.block_status(0, 4096, flags)
    heard(session, status(0, *extents) + DONE)
    with pytest.raises(DamagedDataError, match="block status of 4096 bytes at 0"):
        list(pending.extents(0))


def test_the_last_extent_may_reach_beyond_the_request() -> None:
    session = entered(contexts=(CONTEXT,))
    pending = session.block_status(0, 4096)
    heard(session, status(0, (512, 1), (1 << 19, 0), flags=1))
    assert [(one.offset, one.length) for one in pending.extents(0)] == [(0, 512), (512, 1 << 19)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=12))
def test_coverage_is_what_a_set_of_bytes_says(ranges: list[tuple[int, int]]) -> None:
    coverage, model = Coverage(), set[int]()
    for start, length in ranges:
        added = set(range(start, start + length))
        is_new = coverage.add(start, start + length)
        assert is_new == (not added & model)
        if not is_new:
            return  # the session has ended
        model |= added
        assert coverage.end == next(at for at in range(100) if at not in model)


def test_bytes_arrive_where_they_belong_from_any_cut() -> None:
    rng = random.Random(5)
    for _ in range(20):
        session = entered(structured=False)
        buffers = [bytearray(rng.randrange(1, 5000)) for _ in range(5)]
        asked = [session.read(0, memoryview(buffer)) for buffer in buffers]
        rng.shuffle(asked)
        payloads = {pending.cookie: rng.randbytes(pending.length) for pending in asked}
        stream = b"".join(
            SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, pending.cookie) + payloads[pending.cookie]
            for pending in asked
        )
        done = []
        while stream:
            size = rng.randrange(1, 3000)
            done += heard(session, stream[:size])
            stream = stream[size:]
        assert done == asked
        assert all(pending.into == payloads[pending.cookie] for pending in asked)
