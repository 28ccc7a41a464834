"""What our server's session answers to options, whoever sends them."""

import struct

import pytest

from libs.errors import DamagedDataError
from libs.nbd.export import Export
from libs.nbd.layout import (
    CHUNK,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    ErrorNumber,
    Feature,
    Option,
    OptionReply,
)
from libs.nbd.options import pack_context_query, pack_info_request, pack_option
from libs.nbd.server.events import Entered, ExportAsked, TlsAsked, TlsMode
from libs.nbd.server.session import ServerSession
from tests.support.nbd_serving import WRITABLE, NbdDisk, Serving, disk
from tests.unit.nbd.raw_client import FLAGS, GO, STRUCTURED, Raw, named, push


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
    assert raw.replies(GO)[-1] == (Option.GO, OptionReply.ACK)


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
    raw.say(STRUCTURED)
    query = pack_context_query("elsewhere", ["base:allocation"])
    assert raw.replies(pack_option(Option.SET_META_CONTEXT, query)) == [
        (Option.SET_META_CONTEXT, OptionReply.ERR_UNKNOWN)
    ]
    raw.entered()
    said = raw.say(REQUEST.pack(REQUEST_MAGIC, 0, Command.BLOCK_STATUS, 7, 0, 512))
    assert said[CHUNK.size : CHUNK.size + 4] == struct.pack(">I", ErrorNumber.EINVAL)


def test_more_contexts_than_a_session_may_have_are_too_many() -> None:
    names = [f"x-a:{number}" for number in range(9)]
    export = Export(name="disk", size_bytes=1 << 20, contexts=tuple(names))
    raw = Raw(NbdDisk(export))
    raw.say(STRUCTURED)
    for count, last in ((9, OptionReply.ERR_TOO_BIG), (8, OptionReply.ACK)):
        query = pack_context_query("disk", names[:count])
        said = raw.replies(pack_option(Option.SET_META_CONTEXT, query))
        assert said[-1] == (Option.SET_META_CONTEXT, last)
    query = pack_context_query("disk", [])
    assert len(raw.replies(pack_option(Option.LIST_META_CONTEXT, query))) == 10


def test_a_server_that_requires_tls_grants_nothing_before() -> None:
    raw = Raw(tls=TlsMode.REQUIRED)
    for option in (GO, STRUCTURED, pack_option(Option.LIST), OPTION.pack(OPTION_MAGIC, 99, 0)):
        ((_, reply),) = raw.replies(option)
        assert reply == OptionReply.ERR_TLS_REQD
    assert raw.replies(pack_option(Option.ABORT, b"bye")) == [(Option.ABORT, OptionReply.ACK)]
    with pytest.raises(DamagedDataError, match="EXPORT_NAME: expected STARTTLS before it"):
        Raw(tls=TlsMode.REQUIRED).say(pack_option(Option.EXPORT_NAME, b"disk"))


def _asked_for_tls() -> ServerSession:
    session = ServerSession("client", TlsMode.REQUIRED)
    push(session, FLAGS + pack_option(Option.STARTTLS))
    assert session.next_event() == TlsAsked()
    assert session.next_event() is None
    return session


def test_what_was_said_before_tls_counts_for_nothing() -> None:
    expected = "STARTTLS: expected nothing until TLS is on"
    session = _asked_for_tls()
    push(session, GO)
    session.tls_started()
    with pytest.raises(DamagedDataError, match=expected):
        session.next_event()
    session = ServerSession("client", TlsMode.REQUIRED)
    push(session, FLAGS + pack_option(Option.STARTTLS) + GO)
    with pytest.raises(DamagedDataError, match=expected):  # and TLS is not even tried
        session.next_event()
    session = ServerSession("client", TlsMode.OFFERED)
    push(session, FLAGS + STRUCTURED + pack_option(Option.STARTTLS))
    assert session.next_event() == TlsAsked()
    session.tls_started()
    push(session, GO)
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
