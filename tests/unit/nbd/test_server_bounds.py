"""What a hostile client gets from our server's session: an answer or an end, never memory."""

from collections.abc import Callable

import pytest

from libs.errors import DamagedDataError, InvariantViolation
from libs.nbd.client.events import Enter, Negotiated
from libs.nbd.export import BlockSizes, Export
from libs.nbd.layout import (
    REQUEST,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    ErrorNumber,
    Feature,
)
from libs.nbd.server.events import Disconnected, Entered, ExportAsked, Request
from libs.nbd.server.session import ServerSession
from tests.support.nbd_serving import WRITABLE, NbdDisk, disk
from tests.unit.nbd.raw_client import FLAGS, GO, STRUCTURED, Raw, named, push
from tests.unit.nbd.wire import Wire

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
    push(session, FLAGS + STRUCTURED + GO)
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
    push(session, FLAGS + (STRUCTURED if structured else b"") + GO)
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
