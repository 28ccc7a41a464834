"""What an agent and a filter say to each other on the control socket, and how it is framed.

A frame is a head, a message in msgpack, and bytes that belong to it. Each message has an answer.
"""

import socket
import struct
from typing import TypeVar

import msgspec

from libs.errors import BackcastError, DamagedDataError, error_class
from services.change_capture.drivers.port import LostReason

#: Magic, bytes of the message, bytes that follow it.
_HEAD = struct.Struct(">4sII")
_MAGIC = b"BCF1"
#: Of an order.
_ORDER_SIZE_BYTES_MAX = 64 << 10
#: Bytes of one answer: a view is read in pieces of it at most.
READ_SIZE_BYTES_MAX = 8 << 20
#: Extents of one answer; more are asked for.
EXTENTS_MAX = 4096
#: Of an answer, beside its bytes: extents, or some clients with the beginning of a request each.
_ANSWER_SIZE_BYTES_MAX = 8 << 20
#: Bytes of an answer: the bits of 64 TiB, packed, and what is read at once.
_CONTENT_SIZE_BYTES_MAX = 1 << 28


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Ask what volume this is, and how it is."""

    #: Of a cut whose view is asked about; empty: of none.
    token: str = ""


class HoldWrites(msgspec.Struct, frozen=True, tag="hold"):
    """Hold writes until they are released, or for so long."""

    seconds: float


class CutNow(msgspec.Struct, frozen=True, tag="cut"):
    """Begin the frozen view, while writes are held."""


class ReleaseWrites(msgspec.Struct, frozen=True, tag="release"):
    """Let writes go on."""


class LeadCut(msgspec.Struct, frozen=True, tag="lead"):
    """Keep the bytes of the next cut for other nodes that write the volume, too."""

    #: Of the cut on all nodes, and the key that they have.
    cut: str
    key: bytes
    #: Names of the other nodes.
    followers: list[str]


class FollowLead(msgspec.Struct, frozen=True, tag="follow"):
    """Let the lead keep the bytes of the next cut."""

    cut: str
    key: bytes
    #: Name of this node.
    node: str
    #: Of the lead's filter.
    address: str


class CloseView(msgspec.Struct, frozen=True, tag="close"):
    """Let go of the hold and of the view."""


class ClaimCut(msgspec.Struct, frozen=True, tag="claim"):
    """Say what a cut has become, and ask for the chunks that were written since a base."""

    token: str
    volume: str
    session: str
    base: str | None
    is_trusted: bool


class ReadView(msgspec.Struct, frozen=True, tag="read"):
    """Read bytes of a cut; both numbers are multiples of the chunk size."""

    token: str
    start: int
    length: int


class FindData(msgspec.Struct, frozen=True, tag="data"):
    """Ask where data may have been at a cut, from a byte on; a multiple of the chunk size."""

    token: str
    start: int


class SettleSession(msgspec.Struct, frozen=True, tag="settle"):
    """Say how a session has ended."""

    volume: str
    session: str
    sealed: bool


class ForgetVolume(msgspec.Struct, frozen=True, tag="forget"):
    """Say that what is known of a volume's bases is of no use any more."""

    volume: str


class TakeOver(msgspec.Struct, frozen=True, tag="take-over"):
    """Ask to be the successor: the same volume, served in the same way, and the same state."""

    identity: str
    size_bytes: int
    export: str
    is_direct: bool
    nbd_listen: str
    #: Numbers of the state folder, as every process of the host sees them.
    state_folder: tuple[int, int]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """Say that the successor serves; the predecessor lets go of everything."""


Order = (
    Ask | LeadCut | FollowLead | HoldWrites | CutNow | ReleaseWrites | CloseView | ClaimCut
    | ReadView | FindData | SettleSession | ForgetVolume | TakeOver | Taken
)  # fmt: skip


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It is not done: an error of `libs.errors` by its code."""

    code: str
    message: str


class About(msgspec.Struct, frozen=True, tag="about"):
    """What volume this is, and how it is."""

    path: str
    identity: str
    size_bytes: int
    epoch: str
    view_count: int
    #: Why the view that was asked about is broken; None: it is not.
    broken: str | None
    version: str


class Leading(msgspec.Struct, frozen=True, tag="leading"):
    """Followers find this filter there."""

    address: str


class Released(msgspec.Struct, frozen=True, tag="released"):
    """Writes go on; the name of the cut, if it counts."""

    token: str | None


class Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """What is known of a base: a reason why nothing is, or bits that follow (`ChunkBitmap`)."""

    lost_reason: LostReason | None
    lost_message: str
    #: Whether the bits of what was written since the base follow.
    has_bits: bool


class Bytes(msgspec.Struct, frozen=True, tag="bytes"):
    """What was asked for follows."""


class Data(msgspec.Struct, frozen=True, tag="extents"):
    """Extents that may have data: starts and ends in bytes, ascending."""

    extents: list[tuple[int, int]]
    #: Where to ask on; None: there is no more.
    next_start: int | None


class Standing(msgspec.Struct, frozen=True):
    """A client's connection at a quiet moment (`libs.nbd.server.events.StandingSession`)."""

    is_structured: bool
    contexts: dict[int, str]
    unread: bytes


class HandingOver(msgspec.Struct, frozen=True, tag="handing-over"):
    """What a predecessor hands over; a byte with a descriptor follows for each, then `Done`."""

    listener_count: int
    #: Names the predecessor's stop (`marks.tracking`).
    stop: str
    #: Of the descriptors after those of the listeners, in their order.
    connections: list[Standing]


Answer = Done | Failed | About | Leading | Released | Claimed | Bytes | Data | HandingOver

_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()

#: What bytes that are no message make the decoder raise: text that is none, and nesting too deep,
#: are no errors of its own.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

A = TypeVar("A")


def send(peer: socket.socket, message: Order | Answer, content: bytes | memoryview = b"") -> None:
    """Send a message, and bytes that belong to it.

    Raises:
        OSError: the connection broke.
    """
    packed = _encoder.encode(message)
    peer.sendall(_HEAD.pack(_MAGIC, len(packed), len(content)) + packed)
    if len(content):
        peer.sendall(content)


def receive_order(peer: socket.socket) -> Order | None:
    """The next order; None: the agent has left.

    Raises:
        DamagedDataError: what came is no order.
        OSError: the connection broke.
    """
    head = _receive(peer, _HEAD.size)
    if not head:
        return None
    message_size, _ = _sizes(head, _ORDER_SIZE_BYTES_MAX, 0)
    try:
        return _orders.decode(_whole(peer, message_size))
    except UNREADABLE as err:
        raise DamagedDataError(f"control of a filter: no order: {err}") from err


def receive_answer(peer: socket.socket, into: memoryview | None = None) -> tuple[Answer, bytes]:
    """The answer to an order, and the bytes with it.

    Args:
        peer: the filter.
        into: where its bytes go; they must be exactly as many. None: they are returned.

    Raises:
        BackcastError: it is `Failed`; the class says how.
        DamagedDataError: what came is no answer, or has other bytes.
        OSError: the connection broke.
    """
    message_size, content_size = _sizes(
        _whole(peer, _HEAD.size), _ANSWER_SIZE_BYTES_MAX, _CONTENT_SIZE_BYTES_MAX
    )
    try:
        answer = _answers.decode(_whole(peer, message_size))
    except UNREADABLE as err:
        raise DamagedDataError(f"control of a filter: no answer: {err}") from err
    if isinstance(answer, Failed):
        raise error_class(answer.code)(answer.message)
    if into is None:
        return answer, _whole(peer, content_size)
    if content_size != len(into):
        raise DamagedDataError(
            f"control of a filter: {len(into)} bytes expected, {content_size} follow"
        )
    done = 0
    while done < len(into):
        count = peer.recv_into(into[done:])
        if not count:
            raise ConnectionResetError("closed within an answer")
        done += count
    return answer, b""


def failed(error: BackcastError) -> Failed:
    """The answer that says an error."""
    return Failed(error.code, str(error))


def expect(answer: Answer, kind: type[A]) -> A:
    """The answer, if it is of the kind that its order has.

    Raises:
        DamagedDataError: it is not.
    """
    if not isinstance(answer, kind):
        raise DamagedDataError(
            f"control of a filter: expected {kind.__name__}, got {type(answer).__name__}"
        )
    return answer


def _sizes(head: bytes, message_size_max: int, content_size_max: int) -> tuple[int, int]:
    magic, message_size, content_size = _HEAD.unpack(head)
    if magic != _MAGIC or message_size > message_size_max or content_size > content_size_max:
        raise DamagedDataError(
            f"control of a filter: expected {_MAGIC!r}, a message of {message_size_max} bytes at "
            f"most and {content_size_max} bytes after it; got {magic!r}, {message_size} and "
            f"{content_size}"
        )
    return message_size, content_size


def _whole(peer: socket.socket, size: int) -> bytes:
    received = _receive(peer, size)
    if len(received) < size:
        raise ConnectionResetError("closed within a message")
    return received


def _receive(peer: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if the other side has closed before any of them.

    Raises:
        OSError: the connection broke, also in the middle.
    """
    received = b""
    while len(received) < size:
        piece = peer.recv(min(size - len(received), 1 << 20))
        if not piece:
            if received:
                raise ConnectionResetError("closed within a message")
            return b""
        received += piece
    return received
