import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import BadInputError, DamagedDataError
from libs.ranges import RUN_SIZE_BYTES, ChunkRun
from libs.spans.messages import (
    CHUNKS_PER_SPAN_MAX,
    HELLO_SIZE_BYTES,
    MESSAGE_SIZE_BYTES_MAX,
    REPLY_SIZE_BYTES,
    REQUEST_SIZE_BYTES,
    TOKEN_SIZE_BYTES,
    Hello,
    Kind,
    Reply,
    Request,
    Status,
    bitmap_size_bytes,
    pack_hello,
    pack_reply,
    pack_reread,
    pack_want,
    unpack_hello,
    unpack_reply,
    unpack_request,
    unpack_reread,
    unpack_wanted,
)

HELLO = Hello(UUID(int=5), UUID(int=6), b"t" * TOKEN_SIZE_BYTES)
_wanted = st.lists(st.booleans(), min_size=1, max_size=CHUNKS_PER_SPAN_MAX)
_batches = st.integers(0, 2**32 - 1)


def test_hello_reads_back() -> None:
    raw = pack_hello(HELLO)
    assert len(raw) == HELLO_SIZE_BYTES
    assert unpack_hello(raw) == HELLO


@pytest.mark.parametrize(("at", "value"), [(0, b"X"), (4, b"\x02"), (5, b"\x01")])
def test_hello_of_another_protocol_or_version_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(pack_hello(HELLO))
    raw[at : at + 1] = value
    with pytest.raises(DamagedDataError, match="span connection"):
        unpack_hello(bytes(raw))


@given(batch=_batches, wanted=_wanted)
def test_a_want_reads_back_and_says_how_long_its_body_is(batch: int, wanted: list[bool]) -> None:
    raw = pack_want(batch, wanted)
    request = unpack_request(raw[:REQUEST_SIZE_BYTES])
    body = raw[REQUEST_SIZE_BYTES:]
    assert (request.batch, request.count) == (batch, len(wanted))
    assert len(body) == request.body_size_bytes
    if any(wanted):
        assert request.kind is Kind.WANT
        positions = [position for position, want in enumerate(wanted) if want]
        assert unpack_wanted(request, body) == positions
    else:
        assert request.kind is Kind.DROP


@given(data=st.data())
def test_a_reread_reads_back(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=32))
    runs, at = [], 0
    for count in counts:
        runs.append(ChunkRun(at, count))
        at += count + data.draw(st.integers(1, 2**20))
    raw = pack_reread(runs)
    request = unpack_request(raw[:REQUEST_SIZE_BYTES])
    body = raw[REQUEST_SIZE_BYTES:]
    assert request.kind is Kind.REREAD
    assert len(body) == request.body_size_bytes
    assert unpack_reread(body, at) == runs


@given(raw=st.binary(min_size=REQUEST_SIZE_BYTES, max_size=REQUEST_SIZE_BYTES))
def test_no_request_asks_for_more_than_a_span(raw: bytes) -> None:
    try:
        request = unpack_request(raw)
    except DamagedDataError:
        return
    assert 0 < request.count <= CHUNKS_PER_SPAN_MAX
    assert request.body_size_bytes <= CHUNKS_PER_SPAN_MAX * RUN_SIZE_BYTES


@pytest.mark.parametrize("count", [0, CHUNKS_PER_SPAN_MAX + 1, 2**32 - 1])
@pytest.mark.parametrize("kind", [*Kind, 0, 4, 255])
def test_hostile_counts_and_kinds_are_refused_before_anything_is_read(
    kind: int, count: int
) -> None:
    with pytest.raises(DamagedDataError, match="span request"):
        unpack_request(struct.pack("<BII", kind, 0, count))


@given(count=st.integers(1, CHUNKS_PER_SPAN_MAX), data=st.data())
def test_a_bitmap_beyond_the_batch_is_refused(count: int, data: st.DataObject) -> None:
    size = bitmap_size_bytes(count)
    body = data.draw(st.binary(min_size=size, max_size=size))
    request = Request(Kind.WANT, 0, count)
    if int.from_bytes(body, "little") >> count:
        with pytest.raises(DamagedDataError, match="beyond"):
            unpack_wanted(request, body)
    else:
        assert all(position < count for position in unpack_wanted(request, body))


@pytest.mark.parametrize(
    "runs",
    [
        [ChunkRun(0, 0)],
        [ChunkRun(99, 2)],
        [ChunkRun(5, 2), ChunkRun(6, 1)],
        [ChunkRun(0, 2**32 - 1)],
        [ChunkRun(2**64 - 1, 1)],
    ],
)
def test_runs_outside_of_the_volume_or_out_of_order_are_refused(runs: list[ChunkRun]) -> None:
    with pytest.raises(BadInputError):
        unpack_reread(pack_reread(runs)[REQUEST_SIZE_BYTES:], 100)


def test_a_reread_of_more_than_a_span_is_refused() -> None:
    runs = [ChunkRun(0, CHUNKS_PER_SPAN_MAX), ChunkRun(CHUNKS_PER_SPAN_MAX, 1)]
    with pytest.raises(DamagedDataError, match="more than"):
        unpack_reread(pack_reread(runs)[REQUEST_SIZE_BYTES:], 10**6)


@given(status=st.sampled_from(Status), length=st.integers(0, MESSAGE_SIZE_BYTES_MAX))
def test_a_reply_reads_back(status: Status, length: int) -> None:
    raw = pack_reply(Reply(status, length))
    assert len(raw) == REPLY_SIZE_BYTES
    assert unpack_reply(raw, MESSAGE_SIZE_BYTES_MAX) == Reply(status, length)


@pytest.mark.parametrize(
    ("status", "length"),
    [
        (Status.OK, 65537),
        (Status.GONE, MESSAGE_SIZE_BYTES_MAX + 1),
        (Status.REFUSED, 2**32 - 1),
        (Status.FAILED, MESSAGE_SIZE_BYTES_MAX + 1),
        (9, 0),
    ],
)
def test_a_reply_that_is_too_long_or_unknown_is_refused(status: int, length: int) -> None:
    with pytest.raises(DamagedDataError, match="span reply"):
        unpack_reply(struct.pack("<BI", status, length), 65536)
