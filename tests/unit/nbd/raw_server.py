"""A server that says what it likes to our client's session."""

import struct

from libs.nbd.client.events import Enter, HandshakeEvent, Negotiated, Purpose
from libs.nbd.client.pending import Pending
from libs.nbd.client.session import ClientSession
from libs.nbd.layout import (
    CHUNK,
    CHUNK_ERROR,
    OPTION_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Feature,
    Option,
    OptionReply,
)
from libs.nbd.options import (
    pack_context,
    pack_export_info,
    pack_option_reply,
)

GREETING = b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, 3)
FLAGS = int(Feature.HAS_FLAGS | Feature.SEND_DF)
INFO = pack_export_info(1 << 20, FLAGS)
CONTEXT = "qemu:dirty-bitmap:a"


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
    return heard(ClientSession("server", purpose), GREETING + data)


STRUCTURED = ack(Option.STRUCTURED_REPLY)


def entered(*, structured: bool = True, contexts: tuple[str, ...] = ()) -> ClientSession:
    """A session on an export of 1 MiB."""
    session = ClientSession("server", Enter("disk", contexts))
    answers = STRUCTURED
    if not structured:
        answers = pack_option_reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
    for number, name in enumerate(contexts):
        data = pack_context(number, name)
        answers += pack_option_reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, data)
    if contexts:
        answers += ack(Option.SET_META_CONTEXT)
    (event,) = heard(session, GREETING + answers + info(INFO) + ack(Option.GO))
    assert isinstance(event, Negotiated)
    assert event.is_structured == structured
    return session


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


DONE = chunk(0, flags=1)
