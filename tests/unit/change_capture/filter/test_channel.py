"""A channel of a shared disk believes only what the other end has sent there."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from libs.errors import DamagedDataError
from services.change_capture.filter.messages import receive_order
from services.change_capture.filter.sharing.channel import Channel, Greeting, greet
from services.change_capture.filter.sharing.messages import AskWhole, Hello, SaveChunks, Saved

KEY = b"k" * 32
HELLO = Hello("cut", "node-b", "saves", 1 << 20, "epoch")
SAVE, SAVED = SaveChunks([(1, 2)]), Saved(None)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as opened:
        near, far = socket.socketpair()
        yield opened.enter_context(near), opened.enter_context(far)


@pytest.fixture
def channels(ends: tuple[socket.socket, socket.socket]) -> tuple[Channel, Channel]:
    """The lead's end and the follower's."""
    lead, follower = ends
    with ThreadPoolExecutor(1) as thread:
        greeted = thread.submit(greet, follower, KEY, HELLO, 30.0)
        greeting = Greeting(lead, 30.0)
        assert greeting.hello == HELLO
        return greeting.accept(KEY), greeted.result()


def test_messages_and_their_bytes_arrive_in_both_directions(
    channels: tuple[Channel, Channel],
) -> None:
    lead, follower = channels
    for number in range(3):
        follower.send(SAVE, bytes([number]) * 10)
        assert lead.receive(30, 10) == (SAVE, bytes([number]) * 10)
        lead.send(SAVED)
        assert follower.receive(30) == (SAVED, b"")


@pytest.mark.parametrize("at", [0, 9, -17, -1])
def test_an_altered_message_is_refused(
    channels: tuple[Channel, Channel], ends: tuple[socket.socket, socket.socket], at: int
) -> None:
    lead, follower = channels
    follower.send(SAVE, b"bits")
    frame = bytearray(ends[0].recv(1 << 16))
    frame[at] ^= 1
    ends[1].sendall(frame)
    ends[1].shutdown(socket.SHUT_WR)
    with pytest.raises((DamagedDataError, ConnectionResetError)):
        lead.receive(30, 100)


def test_a_message_that_is_repeated_or_sent_back_is_refused(
    channels: tuple[Channel, Channel], ends: tuple[socket.socket, socket.socket]
) -> None:
    lead, follower = channels
    follower.send(SAVE)
    frame = ends[0].recv(1 << 16)
    ends[0].sendall(frame)  # what the follower has sent itself
    with pytest.raises(DamagedDataError, match="not authentic"):
        follower.receive(30)
    ends[1].sendall(frame + frame)
    assert lead.receive(30) == (SAVE, b"")
    with pytest.raises(DamagedDataError, match="not authentic"):
        lead.receive(30)


def test_more_bytes_than_are_expected_are_refused_before_they_are_received(
    channels: tuple[Channel, Channel],
) -> None:
    lead, follower = channels
    follower.send(AskWhole(), bytes(11))
    with pytest.raises(DamagedDataError, match="10"):
        lead.receive(30, 10)


NO_TEXT = msgspec.msgpack.encode(HELLO).replace(b"node-b", b"node-\xff")
#: A map with one more field, whose value is an array in an array, and so on.
TOO_DEEP = b"\x81\xa1x" + b"\x91" * 1000 + b"\xc0"


@pytest.mark.parametrize("packed", [NO_TEXT, TOO_DEEP, b""], ids=["no text", "too deep", "empty"])
def test_a_hello_that_is_none_is_refused(
    ends: tuple[socket.socket, socket.socket], packed: bytes
) -> None:
    ends[1].sendall(bytes(16) + struct.pack(">I", len(packed)) + packed + bytes(16))
    with pytest.raises(DamagedDataError, match="no hello"):
        Greeting(ends[0], 30.0)


@pytest.mark.parametrize("packed", [NO_TEXT, TOO_DEEP], ids=["no text", "too deep"])
def test_an_order_that_is_none_is_refused(
    ends: tuple[socket.socket, socket.socket], packed: bytes
) -> None:
    """What agents send a filter is decoded by the same rules."""
    ends[1].sendall(struct.pack(">4sII", b"BCF1", len(packed), 0) + packed)
    with pytest.raises(DamagedDataError, match="no order"):
        receive_order(ends[0])


def test_a_lead_that_is_none_is_told_from_one(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(DamagedDataError, match="BCSHARE1"):
        greet(ends[1], KEY, HELLO, 30.0)
