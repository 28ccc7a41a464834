"""What a hostile client gets from our server's session: an answer or an end, never memory."""

import struct
from collections.abc import Callable

import pytest

from libs.errors import DamagedDataError, InvariantViolation
from libs.nbd.client.events import Enter, Negotiated
from libs.nbd.export import BlockSizes, Export
from libs.nbd.layout import (
    CHUNK,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    Command,
    CommandFlag,
    ErrorNumber,
    Feature,
    Option,
    OptionReply,
)
from libs.nbd.options import pack_context_query, pack_info_request, pack_option
from libs.nbd.server.events import Disconnected, Entered, ExportAsked, Request, TlsAsked, TlsMode
from libs.nbd.server.session import ServerSession
from tests.support.nbd_serving import WRITABLE, NbdDisk, Serving, disk
from tests.unit.nbd.wire import Wire

_FLAGS = struct.pack(">I", 3)
_GO = pack_option(Option.GO, pack_info_request("disk", []))
_STRUCTURED = pack_option(Option.STRUCTURED_REPLY)


def named(value: object) -> str:
    """Ids of cases: bytes say nothing to people."""
    return value[:40] if isinstance(value, str) else ""


def push(session: ServerSession, data: bytes) -> None:
    """All of it, in one or more pieces; the session reads nothing meanwhile."""
    while data:
        buffer = session.buffer()
        count = min(len(buffer), len(data))
        assert count, "there is no room"
        buffer[:count] = data[:count]
        session.received(count)
        data = data[count:]


class Raw:
    """A client that says what it likes to a server of one disk."""

    def __init__(self, served: NbdDisk | None = None, tls: TlsMode = TlsMode.NONE) -> None:
        self.disk = served or disk()
        self.session = ServerSession("client", tls)
        self.serving = Serving(self.session, {"disk": self.disk})
        self.session.take_output()
        self.say(_FLAGS)

    def say(self, data: bytes) -> bytes:
        """Returns what the server answers."""
        said = bytearray()
        while True:
            self.serving.go_on()
            said += b"".join(map(bytes, self.session.take_output()))
            if not data:
                return bytes(said)
            piece, data = data[:65536], data[65536:]
            push(self.session, piece)

    def replies(self, data: bytes) -> list[tuple[int, int]]:
        """Option and kind of each reply."""
        said, found = self.say(data), []
        while said:
            _, option, reply, size = OPTION_REPLY.unpack_from(said)
            found.append((option, reply))
            said = said[OPTION_REPLY.size + size :]
        return found

    def entered(self, *, structured: bool = False) -> "Raw":
        self.say((_STRUCTURED if structured else b"") + _GO)
        return self

    def error(
        self, command: int, offset: int, length: int, flags: int = 0, data: bytes = b""
    ) -> int:
        """The error of the simple reply to a request."""
        said = self.say(REQUEST.pack(REQUEST_MAGIC, flags, command, 7, offset, length) + data)
        _, error, cookie = SIMPLE_REPLY.unpack_from(said)
        assert cookie == 7
        return int(error)


@pytest.mark.parametrize("flags", [0, 2, 4, 0x80000001])
def test_only_the_fixed_newstyle_is_spoken(flags: int) -> None:
    session = ServerSession("client")
    push(session, struct.pack(">I", flags))
    for _ in range(2):  # it stays broken
        with pytest.raises(
            DamagedDataError, match="client: greeting: expected client flags 1 or 3"
        ):
            session.next_event()


@pytest.mark.parametrize(
    ("option", "reply"),
    [
        (OPTION.pack(OPTION_MAGIC, 99, 3) + b"abc", OptionReply.ERR_UNSUP),
        (OPTION.pack(OPTION_MAGIC, 4, 0), OptionReply.ERR_UNSUP),
        (pack_option(Option.EXTENDED_HEADERS), OptionReply.ERR_UNSUP),
        (pack_option(Option.LIST, b"x"), OptionReply.ERR_INVALID),
        (pack_option(Option.STRUCTURED_REPLY, b"x"), OptionReply.ERR_INVALID),
        (pack_option(Option.STARTTLS, b"x"), OptionReply.ERR_INVALID),
        (pack_option(Option.STARTTLS), OptionReply.ERR_POLICY),
        (pack_option(Option.GO), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, b"\xff\xff\xff\xffdisk\0\0"), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, b"\0\0\0\4disk\0\1"), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, b"\0\0\0\4disk\0\2\0\1\0\1"), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, b"\0\0\0\4d\0sk\0\0"), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, b"\0\0\0\2\xff\xff\0\0"), OptionReply.ERR_INVALID),
        (pack_option(Option.GO, pack_info_request("other", [])), OptionReply.ERR_UNKNOWN),
        (pack_option(Option.GO, pack_info_request("d" * 4097, [])), OptionReply.ERR_INVALID),
        (pack_option(Option.SET_META_CONTEXT, pack_context_query("disk", [])),
         OptionReply.ERR_INVALID),
        (pack_option(Option.LIST_META_CONTEXT, b"\0\0\0\0\xff\xff\xff\xff"),
         OptionReply.ERR_INVALID),
        (pack_option(Option.LIST_META_CONTEXT, pack_context_query("disk", ["colonless"])),
         OptionReply.ERR_INVALID),
        (pack_option(Option.LIST, b"x" * 40_000), OptionReply.ERR_TOO_BIG),
        (OPTION.pack(OPTION_MAGIC, 99, 1 << 20) + bytes(1 << 20), OptionReply.ERR_UNSUP),
    ],
)  # fmt: skip
def test_an_option_that_is_refused_ends_nothing(option: bytes, reply: OptionReply) -> None:
    raw = Raw()
    (found,) = raw.replies(option)
    assert found[1] == reply
    assert raw.replies(_GO)[-1] == (Option.GO, OptionReply.ACK)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(16), f"option: expected magic {OPTION_MAGIC:#x}, got 0x0"),
        (OPTION.pack(OPTION_MAGIC, 99, (1 << 20) + 1), "option 99: expected 32768 bytes"),
        (OPTION.pack(OPTION_MAGIC, 3, 0xFFFFFFFF), "option 3: expected 32768 bytes"),
        (OPTION.pack(OPTION_MAGIC, 1, 32769), "option 1: expected 32768 bytes"),
        (pack_option(Option.EXPORT_NAME, b"d" * 4097), "EXPORT_NAME: expected a name"),
        (pack_option(Option.EXPORT_NAME, b"other"), "EXPORT_NAME: expected an export"),
        (OPTION.pack(OPTION_MAGIC, 99, 0) * 1025, "handshake: expected 1024 options at most"),
    ],
    ids=named,
)
def test_an_option_that_cannot_be_answered_is_the_end(data: bytes, words: str) -> None:
    with pytest.raises(DamagedDataError, match=words):
        Raw().say(data)


@pytest.mark.parametrize(("flags", "size"), [(1, 134), (3, 10)])
def test_export_name_is_answered_with_or_without_zeros(flags: int, size: int) -> None:
    session = ServerSession("client")
    serving = Serving(session, {"disk": disk()})
    session.take_output()
    push(session, struct.pack(">I", flags) + pack_option(Option.EXPORT_NAME, b"disk"))
    serving.go_on()
    said = b"".join(map(bytes, session.take_output()))
    assert len(said) == size
    assert said[:10] == struct.pack(">QH", 1 << 20, WRITABLE | Feature.HAS_FLAGS)


def test_contexts_are_chosen_for_the_export_that_is_entered() -> None:
    raw = Raw()
    raw.say(_STRUCTURED)
    query = pack_context_query("elsewhere", ["base:allocation"])
    assert raw.replies(pack_option(Option.SET_META_CONTEXT, query)) == [
        (Option.SET_META_CONTEXT, OptionReply.ERR_UNKNOWN)
    ]
    raw.entered()
    said = raw.say(REQUEST.pack(REQUEST_MAGIC, 0, Command.BLOCK_STATUS, 7, 0, 512))
    assert said[CHUNK.size : CHUNK.size + 4] == struct.pack(">I", ErrorNumber.EINVAL)


def test_a_server_that_requires_tls_grants_nothing_before() -> None:
    raw = Raw(tls=TlsMode.REQUIRED)
    for option in (_GO, _STRUCTURED, pack_option(Option.LIST), OPTION.pack(OPTION_MAGIC, 99, 0)):
        ((_, reply),) = raw.replies(option)
        assert reply == OptionReply.ERR_TLS_REQD
    assert raw.replies(pack_option(Option.ABORT, b"bye")) == [(Option.ABORT, OptionReply.ACK)]
    with pytest.raises(DamagedDataError, match="EXPORT_NAME: expected STARTTLS before it"):
        Raw(tls=TlsMode.REQUIRED).say(pack_option(Option.EXPORT_NAME, b"disk"))


def _asked_for_tls(after: bytes = b"") -> ServerSession:
    session = ServerSession("client", TlsMode.REQUIRED)
    push(session, _FLAGS + pack_option(Option.STARTTLS) + after)
    assert session.next_event() == TlsAsked()
    assert session.next_event() is None
    return session


def test_what_was_said_before_tls_counts_for_nothing() -> None:
    session = _asked_for_tls(after=_GO)
    session.tls_started()
    with pytest.raises(DamagedDataError, match="STARTTLS: expected nothing until TLS is on"):
        session.next_event()
    session = ServerSession("client", TlsMode.OFFERED)
    push(session, _FLAGS + _STRUCTURED + pack_option(Option.STARTTLS))
    assert session.next_event() == TlsAsked()
    session.tls_started()
    push(session, _GO)
    assert isinstance(session.next_event(), ExportAsked)
    session.offer(disk().export)
    assert isinstance(session.next_event(), Entered)
    assert not session.replies.is_structured


def test_tls_is_started_once() -> None:
    session = _asked_for_tls()
    session.take_output()
    session.tls_started()
    push(session, pack_option(Option.STARTTLS))
    assert session.next_event() is None
    (said,) = session.take_output()
    assert OPTION_REPLY.unpack_from(said)[2] == OptionReply.ERR_INVALID


_SIZE = 1 << 20
_E = ErrorNumber


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (Command.READ, 0, 512, 0, 0),
        (Command.READ, _SIZE, 512, 0, _E.EINVAL),
        (Command.READ, _SIZE - 512, 1024, 0, _E.EINVAL),
        (Command.READ, 2**64 - 512, 512, 0, _E.EINVAL),
        (Command.READ, 0, 0, 0, _E.EINVAL),
        (Command.READ, 100, 512, 0, _E.EINVAL),
        (Command.READ, 0, 100, 0, _E.EINVAL),
        (Command.READ, 0, 1 << 17, 0, _E.EINVAL),
        (Command.READ, 0, 512, CommandFlag.DF, _E.EINVAL),
        (Command.READ, 0, 512, CommandFlag.FUA, 0),
        (Command.READ, 0, 512, 1 << 15, _E.EINVAL),
        (Command.WRITE, _SIZE, 512, 0, _E.ENOSPC),
        (Command.WRITE, 0, 512, CommandFlag.NO_HOLE, _E.EINVAL),
        (Command.WRITE, 0, 1 << 17, 0, _E.EINVAL),
        (Command.FLUSH, 0, 0, 0, 0),
        (Command.FLUSH, 512, 0, 0, _E.EINVAL),
        (Command.FLUSH, 0, 512, 0, _E.EINVAL),
        (Command.TRIM, _SIZE, 512, 0, _E.EINVAL),
        (Command.TRIM, 0, _SIZE, CommandFlag.FUA, 0),
        (Command.WRITE_ZEROES, _SIZE, 512, 0, _E.ENOSPC),
        (Command.WRITE_ZEROES, 0, _SIZE, CommandFlag.NO_HOLE | CommandFlag.FUA, 0),
        (Command.CACHE, 0, _SIZE, 0, 0),
        (Command.CACHE, _SIZE, 512, 0, _E.EINVAL),
        (Command.BLOCK_STATUS, 0, 512, 0, _E.EINVAL),
        (8, 0, 0, 0, _E.EINVAL),
        (0xFFFF, 0, 512, 0, _E.EINVAL),
    ],
)
def test_a_request_that_is_not_allowed_is_answered(
    command: int, offset: int, length: int, flags: int, error: int
) -> None:
    sizes = BlockSizes(512, 4096, 1 << 16)
    export = Export(name="disk", size_bytes=_SIZE, features=WRITABLE, block_sizes=sizes)
    raw = Raw(NbdDisk(export)).entered()
    payload = b"x" * length if command == Command.WRITE else b""
    assert raw.error(command, offset, length, flags, payload) == error
    assert raw.error(Command.READ, 0, 512) == 0
    assert not any(raw.disk.data)


@pytest.mark.parametrize("command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
def test_nothing_is_written_to_a_read_only_export(command: Command) -> None:
    raw = Raw(disk(features=WRITABLE | Feature.READ_ONLY)).entered()
    payload = b"x" * 512 if command == Command.WRITE else b""
    assert raw.error(command, 0, 512, 0, payload) == ErrorNumber.EPERM
    assert raw.error(Command.READ, 0, 512) == 0
    assert not any(raw.disk.data)


def test_what_an_export_does_not_offer_is_invalid() -> None:
    raw = Raw(disk(features=Feature.HAS_FLAGS)).entered()
    for command in (Command.TRIM, Command.WRITE_ZEROES, Command.CACHE):
        assert raw.error(command, 0, 512) == ErrorNumber.EINVAL
    assert raw.error(Command.FLUSH, 0, 0) == ErrorNumber.EINVAL
    assert raw.error(Command.READ, 0, 512, CommandFlag.FUA) == ErrorNumber.EINVAL


@pytest.mark.parametrize(
    ("request_bytes", "words"),
    [
        (REQUEST.pack(1, 0, 0, 0, 0, 512), "request: expected magic 0x25609513, got 0x1"),
        (
            REQUEST.pack(REQUEST_MAGIC, 0, Command.WRITE, 0, 0, (32 << 20) + 1),
            "WRITE: expected a payload of 33554432 bytes at most, got 33554433",
        ),
    ],
    ids=named,
)
def test_a_request_that_cannot_be_answered_is_the_end(request_bytes: bytes, words: str) -> None:
    raw = Raw().entered()
    with pytest.raises(DamagedDataError, match=words):
        raw.say(request_bytes)


def test_a_write_within_what_is_no_attack_is_skipped_and_refused() -> None:
    raw = Raw().entered()
    assert raw.error(Command.WRITE, 0, 32 << 20, 0, bytes(32 << 20)) == ErrorNumber.ENOSPC
    assert raw.error(Command.READ, 0, 512) == 0


def test_nothing_is_read_after_the_goodbye() -> None:
    raw = Raw().entered()
    raw.say(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0) + bytes(28))
    assert raw.serving.has_ended
    assert not raw.session.can_receive
    assert raw.session.next_event() is None


def _flood(session: ServerSession, request: bytes) -> list[Request]:
    """Requests that the session takes while none is answered and nothing is sent."""
    push(session, _FLAGS + _STRUCTURED + _GO)
    assert isinstance(session.next_event(), ExportAsked)
    session.offer(disk(size_bytes=64 << 20).export)
    assert isinstance(session.next_event(), Entered)
    taken, at = [], 0
    while session.can_receive:
        buffer = session.buffer()
        more = (request * (len(buffer) // len(request) + 2))[at : at + len(buffer)]
        buffer[:] = more
        session.received(len(more))
        at = (at + len(more)) % len(request)
        while (event := session.next_event()) is not None:
            assert isinstance(event, Request)
            taken.append(event)
    return taken


def test_requests_in_flight_are_bounded() -> None:
    session = ServerSession("client", requests_max=5)
    read = REQUEST.pack(REQUEST_MAGIC, 0, Command.READ, 1, 0, 512)
    taken = _flood(session, read)
    assert len(taken) == 5
    session.replies.send_read(taken[0], bytes(512))
    assert isinstance(session.next_event(), Request)
    assert session.next_event() is None


def test_bytes_in_flight_are_bounded_until_they_are_sent() -> None:
    session = ServerSession("client", in_flight_size_bytes_max=64 << 20)
    read = REQUEST.pack(REQUEST_MAGIC, 0, Command.READ, 1, 0, 32 << 20)
    taken = _flood(session, read)
    assert len(taken) == 2
    payload = bytes(32 << 20)
    for request in taken:
        session.replies.send_read(request, payload)
    assert session.next_event() is None  # answered, but not sent
    session.take_output()
    assert isinstance(session.next_event(), Request)


def test_answers_to_what_is_refused_are_bounded() -> None:
    session = ServerSession("client", in_flight_size_bytes_max=1 << 20)
    assert _flood(session, REQUEST.pack(REQUEST_MAGIC, 0, 99, 1, 0, 0)) == []
    assert sum(len(buffer) for buffer in session.take_output()) < (1 << 20) + 4096


def _one(
    command: Command, flags: int = 0, *, structured: bool = True
) -> tuple[ServerSession, Request]:
    session = ServerSession("client")
    push(session, _FLAGS + (_STRUCTURED if structured else b"") + _GO)
    session.next_event()
    session.offer(disk().export)
    session.next_event()
    push(session, REQUEST.pack(REQUEST_MAGIC, flags, command, 1, 4096, 4096))
    request = session.next_event()
    assert isinstance(request, Request)
    return session, request


@pytest.mark.parametrize(
    ("flags", "structured", "answer"),
    [
        (0, True, lambda replies, one: replies.finish(one)),
        (0, True, lambda replies, one: replies.send_read(one, bytes(100))),
        (0, True, lambda replies, one: replies.send_data(one, 0, bytes(100))),
        (0, True, lambda replies, one: replies.send_data(one, 8000, bytes(1000))),
        (0, True, lambda replies, one: replies.fail_at(one, ErrorNumber.EIO, 0)),
        (CommandFlag.DF, True, lambda replies, one: replies.send_data(one, 4096, bytes(100))),
        (0, False, lambda replies, one: replies.send_hole(one, 4096, 4096)),
        (0, False, lambda replies, one: replies.fail_at(one, ErrorNumber.EIO, 4096)),
        (0, True, lambda replies, one: (replies.send_zeros(one), replies.finish(one))),
    ],
)
def test_our_own_mistakes_never_reach_the_client(
    flags: int, structured: bool, answer: Callable[..., object]
) -> None:
    session, request = _one(Command.READ, flags, structured=structured)
    with pytest.raises(InvariantViolation, match="READ of 4096 bytes at 4096"):
        answer(session.replies, request)


def test_a_write_is_not_answered_before_its_payload_has_come() -> None:
    session, request = _one(Command.WRITE)
    with pytest.raises(InvariantViolation, match="cannot be answered now"):
        session.replies.finish(request)
    with pytest.raises(InvariantViolation, match="receives no payload"):
        session.receive_into(request, memoryview(bytearray(100)))


def test_a_hole_is_zeros_where_replies_are_simple() -> None:
    session, request = _one(Command.READ, structured=False)
    session.take_output()
    session.replies.send_zeros(request)
    assert b"".join(map(bytes, session.take_output()))[16:] == bytes(4096)


def test_a_second_connection_sees_its_own_goodbye() -> None:
    wire = Wire(purpose=Enter("disk")).run()
    assert isinstance(wire.heard, Negotiated)
    wire.client.leave()
    up = b"".join(map(bytes, wire.client.take_output()))
    push(wire.serving.session, up)
    assert isinstance(wire.serving.session.next_event(), Disconnected)
