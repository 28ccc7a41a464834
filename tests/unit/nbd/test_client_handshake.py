"""What our client's session makes of answers to its options."""

import struct

import pytest

from libs.errors import DamagedDataError
from libs.nbd.client.events import Describe, Enter, ListExports, Negotiated, Purpose
from libs.nbd.client.session import ClientSession
from libs.nbd.export import BlockSizes
from libs.nbd.layout import (
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_REPLY_SIZE_BYTES_MAX,
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
from tests.unit.nbd.raw_server import (
    CONTEXT,
    GREETING,
    INFO,
    STRUCTURED,
    ack,
    heard,
    info,
    named,
    shaken,
)


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
    (event,) = shaken(Enter("disk"), STRUCTURED + added + flags + ack(Option.GO))
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
        (Enter("d"), pack_option_reply(8, OptionReply.INFO, INFO), "a reply of its own, got 3"),
        (Enter("d"), STRUCTURED + ack(Option.GO), "its size and flags, got none"),
        (Enter("d"), STRUCTURED + info(INFO) * 65, "replies to GO: expected 64 at most"),
        (Enter("d"), STRUCTURED + info(b"\0") + ack(Option.GO), "info of 1 bytes"),
        (Enter("d"), STRUCTURED + info(b"\0\0\0") + ack(Option.GO), "info 0 of 3 bytes"),
        (
            Enter("d"),
            STRUCTURED + info(pack_export_info(1 << 63, 1)) + ack(Option.GO),
            "size of 9223372036854775808 bytes",
        ),
        (
            Enter("d"),
            STRUCTURED + info(pack_export_info(1, 1 | Feature.SEND_FAST_ZERO)) + ack(Option.GO),
            "fast zeroing but no zeroing",
        ),
        (
            Enter("d"),
            STRUCTURED + info(INFO) + info(struct.pack(">HIII", 3, 3, 512, 512)) + ack(Option.GO),
            "minimum of 3 bytes",
        ),
        (
            Enter("d"),
            STRUCTURED + info(struct.pack(">HIII", 3, 1, 512, 100)) + ack(Option.GO),
            "payload of 100 bytes",
        ),
        (
            Enter("d"),
            STRUCTURED + info(INFO) + info(struct.pack(">H", 1) + b"\xff") + ack(Option.GO),
            "name or description: .*utf-8",
        ),
        (
            Enter("d", (CONTEXT,)),
            STRUCTURED
            + pack_option_reply(10, OptionReply.META_CONTEXT, pack_context(1, "base:allocation"))
            + ack(Option.SET_META_CONTEXT),
            "expected each of qemu:dirty-bitmap:a once at most",
        ),
        (
            Enter("d", (CONTEXT,)),
            STRUCTURED
            + pack_option_reply(10, OptionReply.META_CONTEXT, pack_context(1, CONTEXT)) * 2
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
            STRUCTURED
            + b"".join(
                pack_option_reply(9, OptionReply.META_CONTEXT, pack_context(0, "x-a:b"))
                for _ in range(2)
            )
            + ack(Option.LIST_META_CONTEXT)
            + info(INFO, Option.INFO)
            + ack(Option.INFO),
            "expected 4096 different ones at most",
        ),
    ],
    ids=named,
)
def test_a_server_that_breaks_the_handshake_is_left(
    purpose: Purpose, answers: bytes, words: str
) -> None:
    session = ClientSession("server", purpose)
    with pytest.raises(DamagedDataError, match=rf"server: .*{words}"):
        heard(session, GREETING + answers)
    with pytest.raises(DamagedDataError, match=words):  # it stays broken
        session.next_event()


def test_block_sizes_and_names_are_taken_as_they_are_told() -> None:
    sizes = BlockSizes(512, 65536, 1 << 20)
    answers = info(INFO) + info(pack_block_sizes(sizes)) + info(pack_text_info(1, "canonical"))
    (event,) = shaken(Enter("alias"), STRUCTURED + answers + ack(Option.GO))
    assert isinstance(event, Negotiated)
    assert (event.export.block_sizes, event.export.name) == (sizes, "canonical")
