"""Targets: both ends of a filter's control socket, which are of other processes of the host."""

import contextlib
import socket
from collections.abc import Callable, Iterator

from libs.errors import BackcastError, DamagedDataError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.messages import (
    About,
    Answer,
    Ask,
    ClaimCut,
    Claimed,
    CutNow,
    Data,
    Done,
    Failed,
    FindData,
    ForgetVolume,
    HandingOver,
    HoldWrites,
    Order,
    ReadView,
    Released,
    ReleaseWrites,
    SettleSession,
    Standing,
    Taken,
    TakeOver,
    receive_answer,
    receive_order,
    send,
)
from tests.faults.fuzz.target import Target

_CHUNKS = 64
_ORDERS: tuple[Order, ...] = (
    Ask("token"),
    HoldWrites(10.0),
    CutNow(),
    ReleaseWrites(),
    ClaimCut("token", "volume", "session", "base", is_trusted=True),
    ReadView("token", 0, CHUNK_SIZE_BYTES),
    FindData("token", CHUNK_SIZE_BYTES),
    SettleSession("volume", "session", sealed=True),
    ForgetVolume("volume"),
    TakeOver("file-1-2", 1 << 30, "volume", False, "unix:/run/nbd.sock", (1, 2)),
    Taken(),
)
_ANSWERS: tuple[Answer, ...] = (
    Done(),
    About("/image", "file-1-2", 1 << 30, "epoch", 1, None, "0.1.0"),
    Released("token"),
    Claimed(None, "", has_bits=True),
    Claimed("unclean", "the filter was killed", has_bits=False),
    Data([(0, CHUNK_SIZE_BYTES)], CHUNK_SIZE_BYTES),
    HandingOver(1, "stop", [Standing(True, {1: "base:allocation"}, b"\x25\x60\x95")]),
    Failed("conflict", "another capture has it"),
)


@contextlib.contextmanager
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        theirs.settimeout(30)
        yield ours, theirs


def _sent(message: Order | Answer, content: bytes = b"") -> bytes:
    with _ends() as (ours, theirs):
        send(theirs, message, content)
        theirs.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def _received(data: bytes, receive: Callable[[socket.socket], None]) -> None:
    """What a peer sends that leaves afterwards."""
    with _ends() as (ours, theirs):
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            receive(ours)
        except ConnectionResetError as err:
            raise DamagedDataError(str(err)) from err


def _read_orders(data: bytes) -> None:
    def receive(peer: socket.socket) -> None:
        while (order := receive_order(peer)) is not None:
            again = _sent(order)
            with _ends() as (ours, theirs):
                theirs.sendall(again)
                same = receive_order(ours)
            assert same is not None
            assert _sent(same) == again  # a number that is none is not equal to itself

    _received(data, receive)


def _read_answer(data: bytes) -> None:
    """The bits of a claim are taken too, as the driver takes them."""

    def receive(peer: socket.socket) -> None:
        answer, content = receive_answer(peer)
        if isinstance(answer, Claimed) and answer.has_bits:
            bits = ChunkBitmap(_CHUNKS)
            bits.add_packed(content)
            assert bits.count() <= _CHUNKS
            assert all(run.end <= _CHUNKS for run in bits.runs())
        again = _sent(answer, content)
        with _ends() as (ours, theirs):
            theirs.sendall(again)
            assert _sent(*receive_answer(ours)) == again

    _received(data, receive)


def _order_seeds() -> list[bytes]:
    each = [_sent(order) for order in _ORDERS]
    return [b"".join(each), *each]


def _answer_seeds() -> list[bytes]:
    bits = ChunkBitmap(_CHUNKS)
    bits.mark(3, 17)
    claimed = Claimed(None, "", has_bits=True)
    return [_sent(claimed, bits.packed()), *(_sent(answer, b"some bytes") for answer in _ANSWERS)]


FILTER = (
    Target("filter-orders", _read_orders, _order_seeds, (DamagedDataError,), cost=4),
    Target("filter-answers", _read_answer, _answer_seeds, (BackcastError,), cost=4),
)
