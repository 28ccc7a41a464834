"""What a hostile server gets from our client's session: an end, never memory or wrong bytes."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import DamagedDataError
from libs.nbd.client.events import Describe, Enter, HandshakeEvent, ListExports, Negotiated, Purpose
from libs.nbd.client.pending import Coverage, Pending
from libs.nbd.client.session import ClientSession
from libs.nbd.export import BlockSizes
from libs.nbd.layout import (
    CHUNK,
    CHUNK_ERROR,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_REPLY_SIZE_BYTES_MAX,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    CommandFlag,
    ErrorNumber,
    Feature,
    Option,
    OptionReply,
)
from libs.nbd.options import (
    pack_block_sizes,
    pack_context,
    pack_export_info,
    pack_listed,
    pack_option_reply,
    pack_text_info,
)

_GREETING = b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, 3)
_FLAGS = int(Feature.HAS_FLAGS | Feature.SEND_DF)
_INFO = pack_export_info(1 << 20, _FLAGS)
_CONTEXT = "qemu:dirty-bitmap:a"


def named(value: object) -> str:
    """Ids of cases: bytes say nothing to people."""
    return value[:40] if isinstance(value, str) else ""


def ack(option: Option) -> bytes:
    return pack_option_reply(option, OptionReply.ACK)


def info(data: bytes, option: Option = Option.GO) -> bytes:
    return pack_option_reply(option, OptionReply.INFO, data)


def heard(session: ClientSession, data: bytes) -> list[HandshakeEvent | Pending]:
    """What comes of bytes, which come one after another."""
    found: list[HandshakeEvent | Pending] = []
    while data:
        buffer = session.buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        session.received(count)
        data = data[count:]
        while (event := session.next_event()) is not None:
            found.append(event)
        while session.is_entered and (done := session.next_reply()) is not None:
            found.append(done)
    return found


def shaken(purpose: Purpose, data: bytes) -> list[HandshakeEvent | Pending]:
    return heard(ClientSession("server", purpose), _GREETING + data)


_STRUCTURED = ack(Option.STRUCTURED_REPLY)
_ENTERED = _STRUCTURED + info(_INFO) + ack(Option.GO)


def entered(*, structured: bool = True, contexts: tuple[str, ...] = ()) -> ClientSession:
    """A session on an export of 1 MiB."""
    session = ClientSession("server", Enter("disk", contexts))
    answers = _STRUCTURED
    if not structured:
        answers = pack_option_reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
    for number, name in enumerate(contexts):
        data = pack_context(number, name)
        answers += pack_option_reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, data)
    if contexts:
        answers += ack(Option.SET_META_CONTEXT)
    (event,) = heard(session, _GREETING + answers + info(_INFO) + ack(Option.GO))
    assert isinstance(event, Negotiated)
    assert event.is_structured == structured
    return session


def test_an_old_server_is_entered_by_export_name() -> None:
    unknown = pack_option_reply(Option.GO, OptionReply.ERR_UNSUP)
    without = pack_option_reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
    answer = struct.pack(">QH", 1 << 20, 1)
    (event,) = shaken(Enter("disk"), without + unknown + answer)
    assert isinstance(event, Negotiated)
    assert not event.is_structured
    session = ClientSession("server", Enter("disk"))
    greeting = b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, 1)  # with zeros
    assert len(heard(session, greeting + without + unknown + answer + bytes(123))) == 0
    assert len(heard(session, b"\0")) == 1


def test_what_a_newer_server_adds_is_ignored() -> None:
    added = info(struct.pack(">H", 77) + b"anything")
    flags = info(pack_export_info(1 << 20, 0xFFFF))
    (event,) = shaken(Enter("disk"), _STRUCTURED + added + flags + ack(Option.GO))
    assert isinstance(event, Negotiated)
    assert event.export.features == Feature(sum(Feature))


@pytest.mark.parametrize(
    ("purpose", "answers", "words"),
    [
        (Enter("d"), b"x" * 20, "reply to STRUCTURED_REPLY: expected magic"),
        (Enter("d"), ack(Option.GO), "reply to STRUCTURED_REPLY: expected magic .* and option 8"),
        (
            Enter("d"),
            OPTION_REPLY.pack(OPTION_REPLY_MAGIC, 8, 1, OPTION_REPLY_SIZE_BYTES_MAX + 1),
            "expected 8256 bytes at most",
        ),
        (Enter("d"), pack_option_reply(8, OptionReply.INFO, _INFO), "a reply of its own, got 3"),
        (Enter("d"), _STRUCTURED + ack(Option.GO), "its size and flags, got none"),
        (Enter("d"), _STRUCTURED + info(_INFO) * 65, "replies to GO: expected 64 at most"),
        (Enter("d"), _STRUCTURED + info(b"\0") + ack(Option.GO), "info of 1 bytes"),
        (Enter("d"), _STRUCTURED + info(b"\0\0\0") + ack(Option.GO), "info 0 of 3 bytes"),
        (
            Enter("d"),
            _STRUCTURED + info(pack_export_info(1 << 63, 1)) + ack(Option.GO),
            "size of 9223372036854775808 bytes",
        ),
        (
            Enter("d"),
            _STRUCTURED + info(pack_export_info(1, 1 | Feature.SEND_FAST_ZERO)) + ack(Option.GO),
            "fast zeroing but no zeroing",
        ),
        (
            Enter("d"),
            _STRUCTURED + info(_INFO) + info(struct.pack(">HIII", 3, 3, 512, 512)) + ack(Option.GO),
            "minimum of 3 bytes",
        ),
        (
            Enter("d"),
            _STRUCTURED + info(struct.pack(">HIII", 3, 1, 512, 100)) + ack(Option.GO),
            "payload of 100 bytes",
        ),
        (
            Enter("d"),
            _STRUCTURED + info(_INFO) + info(struct.pack(">H", 1) + b"\xff") + ack(Option.GO),
            "name or description: .*utf-8",
        ),
        (
            Enter("d", (_CONTEXT,)),
            _STRUCTURED
            + pack_option_reply(10, OptionReply.META_CONTEXT, pack_context(1, "base:allocation"))
            + ack(Option.SET_META_CONTEXT),
            "expected each of qemu:dirty-bitmap:a once at most",
        ),
        (
            Enter("d", (_CONTEXT,)),
            _STRUCTURED
            + pack_option_reply(10, OptionReply.META_CONTEXT, pack_context(1, _CONTEXT)) * 2
            + ack(Option.SET_META_CONTEXT),
            "once at most",
        ),
        (
            ListExports(),
            pack_option_reply(Option.LIST, OptionReply.SERVER, b"\0\0\0\5ab") + ack(Option.LIST),
            "reply to LIST: export name: 5 bytes announced, 2 follow",
        ),
        (
            ListExports(),
            pack_option_reply(Option.LIST, OptionReply.SERVER, pack_listed("a", "")) * 4097,
            "replies to LIST: expected 4096 at most",
        ),
        (
            Describe("d"),
            _STRUCTURED
            + b"".join(
                pack_option_reply(9, OptionReply.META_CONTEXT, pack_context(0, f"x-a:{number}"))
                for number in range(9)
            )
            + ack(Option.LIST_META_CONTEXT)
            + info(_INFO, Option.INFO)
            + ack(Option.INFO),
            "expected 8 different ones at most",
        ),
    ],
    ids=named,
)
def test_a_server_that_breaks_the_handshake_is_left(
    purpose: Purpose, answers: bytes, words: str
) -> None:
    session = ClientSession("server", purpose)
    with pytest.raises(DamagedDataError, match=rf"server: .*{words}"):
        heard(session, _GREETING + answers)
    with pytest.raises(DamagedDataError, match=words):  # it stays broken
        session.next_event()


def test_block_sizes_and_names_are_taken_as_they_are_told() -> None:
    sizes = BlockSizes(512, 65536, 1 << 20)
    answers = info(_INFO) + info(pack_block_sizes(sizes)) + info(pack_text_info(1, "canonical"))
    (event,) = shaken(Enter("alias"), _STRUCTURED + answers + ack(Option.GO))
    assert isinstance(event, Negotiated)
    assert (event.export.block_sizes, event.export.name) == (sizes, "canonical")


def chunk(kind: int, payload: bytes = b"", flags: int = 0, cookie: int = 1) -> bytes:
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(payload)) + payload


def head(kind: int, size: int) -> bytes:
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, kind, 1, size)


def data(offset: int, length: int, flags: int = 0) -> bytes:
    return chunk(1, struct.pack(">Q", offset) + b"d" * length, flags)


def hole(offset: int, length: int, flags: int = 0) -> bytes:
    return chunk(2, struct.pack(">QI", offset, length), flags)


def error(number: int, message: bytes = b"", kind: int = 0x8001, more: bytes = b"") -> bytes:
    return chunk(kind, CHUNK_ERROR.pack(number, len(message)) + message + more, 1)


_DONE = chunk(0, flags=1)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"x" * 16, "reply: expected magic 0x67446698 or 0x668e33ef, got 0x78787878"),
        (SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, 1), "expected a structured reply"),
        (SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, 2), "cookie of a request in flight, got 0x2"),
        (chunk(0, flags=1, cookie=9), "cookie of a request in flight, got 0x9"),
        (_DONE, "expected all bytes, got a gap at 0"),
        (data(0, 4096, 1), "expected all bytes, got a gap at 4096"),
        (data(4096, 4096) + _DONE, "got a gap at 0"),
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
    assert heard(session, b"".join(order) + _DONE) == [pending]
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
        (0, _DONE, "expected 1 contexts, got 0"),
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
    session = entered(contexts=(_CONTEXT,))
    session.block_status(0, 4096, flags)
    with pytest.raises(DamagedDataError, match=words):
        heard(session, reply + _DONE)


@pytest.mark.parametrize(
    ("flags", "extents"),
    [(0, [(0, 0)]), (0, [(4096, 0), (512, 0)]), (CommandFlag.REQ_ONE, [(8192, 0)])],
)
def test_extents_that_cannot_be_are_never_told(flags: int, extents: list[tuple[int, int]]) -> None:
    session = entered(contexts=(_CONTEXT,))
    pending = session.block_status(0, 4096, flags)
    heard(session, status(0, *extents) + _DONE)
    with pytest.raises(DamagedDataError, match="block status of 4096 bytes at 0"):
        list(pending.extents(0))


def test_the_last_extent_may_reach_beyond_the_request() -> None:
    session = entered(contexts=(_CONTEXT,))
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
