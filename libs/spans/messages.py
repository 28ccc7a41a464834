"""Messages between a chunker, which dials, and an agent, which serves. Bytes in, bytes out.

    chunker → agent   HELLO   magic, version, capture, boot of the agent that began it, token
    agent → chunker   REPLY   status, length, then a message if the status is not OK
    chunker → agent   WANT    batch, count, bitmap of the wanted chunks → REPLY, bytes in order
                      DROP    batch: nothing of it is wanted (no reply)
                      REREAD  runs of chunk indexes                     → REPLY, bytes in order

WANT takes bytes from the agent's window and lets go of the whole span. A chunker that comes late
(after a restart) is answered GONE and asks with REREAD, which reads the frozen view again; the
chunker hashes what it gets, so a view that changed meanwhile is found out. All integers are little
endian. One request is in flight per connection; lengths are bounded before anything is allocated.
"""

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.errors import DamagedDataError
from libs.ranges import RUN_SIZE_BYTES, ChunkRun, pack_runs, unpack_runs

MAGIC = b"BCSP"
VERSION = 1
TOKEN_SIZE_BYTES = 32
#: A span is at most 32 MiB of 64 KiB chunks (why not less or more: docs/adr/0007).
CHUNKS_PER_SPAN_MAX = 512
MESSAGE_SIZE_BYTES_MAX = 1024

_HELLO = struct.Struct("<4sH16s16s32s")
_REQUEST = struct.Struct("<BII")
_REPLY = struct.Struct("<BI")
HELLO_SIZE_BYTES = _HELLO.size
REQUEST_SIZE_BYTES = _REQUEST.size
REPLY_SIZE_BYTES = _REPLY.size


class Status(enum.IntEnum):
    """How a request was answered."""

    OK = 0
    #: The span has left the window: ask with REREAD.
    GONE = 1
    #: The token or the capture is not known here.
    REFUSED = 2
    #: The source could not be read; the message says why.
    FAILED = 3


class Kind(enum.IntEnum):
    """What a request asks for."""

    WANT = 1
    DROP = 2
    REREAD = 3


@dataclass(frozen=True, slots=True)
class Hello:
    """Who dials, and for which capture."""

    capture: UUID
    #: Another process of the agent may have begun the same capture again, on another frozen view.
    boot: UUID
    token: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The fixed head of a request; ``count`` is chunks of the batch, or runs where it is REREAD."""

    kind: Kind
    batch: int
    count: int

    @property
    def body_size_bytes(self) -> int:
        """Bytes that follow the head."""
        if self.kind is Kind.WANT:
            return bitmap_size_bytes(self.count)
        return self.count * RUN_SIZE_BYTES if self.kind is Kind.REREAD else 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer; ``length`` bytes follow: data if it is OK, else a message."""

    status: Status
    length: int


def pack_hello(hello: Hello) -> bytes:
    """Encode the first message of a connection."""
    return _HELLO.pack(MAGIC, VERSION, hello.capture.bytes, hello.boot.bytes, hello.token)


def unpack_hello(raw: bytes) -> Hello:
    """Decode the first message of a connection.

    Raises:
        DamagedDataError: not this protocol, or another version of it.
    """
    magic, version, capture, boot, token = _HELLO.unpack(raw)
    if magic != MAGIC or version != VERSION:
        raise DamagedDataError(
            f"span connection: expected {MAGIC!r} version {VERSION}, "
            f"got {magic!r} version {version}"
        )
    return Hello(UUID(bytes=capture), UUID(bytes=boot), token)


def pack_want(batch: int, wanted: Sequence[bool]) -> bytes:
    """A WANT request, or DROP where nothing is wanted."""
    if not any(wanted):
        return _REQUEST.pack(Kind.DROP, batch, len(wanted))
    bits = sum(1 << position for position, want in enumerate(wanted) if want)
    head = _REQUEST.pack(Kind.WANT, batch, len(wanted))
    return head + bits.to_bytes(bitmap_size_bytes(len(wanted)), "little")


def pack_reread(runs: Sequence[ChunkRun]) -> bytes:
    """A REREAD request for the chunks of these runs."""
    return _REQUEST.pack(Kind.REREAD, 0, len(runs)) + pack_runs(runs)


def unpack_request(raw: bytes) -> Request:
    """Decode the head of a request.

    Raises:
        DamagedDataError: unknown kind, or more chunks or runs than a span can have.
    """
    kind, batch, count = _REQUEST.unpack(raw)
    if kind not in Kind.__members__.values() or not 0 < count <= CHUNKS_PER_SPAN_MAX:
        raise DamagedDataError(
            f"span request: kind {kind} with {count} entries; "
            f"expected kinds 1 to 3 and 1 to {CHUNKS_PER_SPAN_MAX} entries"
        )
    return Request(Kind(kind), batch, count)


def unpack_wanted(request: Request, body: bytes) -> list[int]:
    """Positions, within the batch, of the chunks that a WANT asks for, ascending."""
    bits = int.from_bytes(body, "little")
    if bits >> request.count:
        raise DamagedDataError(
            f"span request: bitmap names chunks beyond the batch's {request.count}"
        )
    return [position for position in range(request.count) if bits >> position & 1]


def unpack_reread(body: bytes, chunk_count_max: int) -> list[ChunkRun]:
    """Runs that a REREAD asks for, within the volume and no more than a span holds."""
    runs = unpack_runs(body, chunk_count_max)
    if sum(run.count for run in runs) > CHUNKS_PER_SPAN_MAX:
        raise DamagedDataError(f"span request: more than {CHUNKS_PER_SPAN_MAX} chunks")
    return runs


def pack_reply(reply: Reply) -> bytes:
    """Encode the head of an answer."""
    return _REPLY.pack(reply.status, reply.length)


def unpack_reply(raw: bytes, length_max: int) -> Reply:
    """Decode the head of an answer.

    Raises:
        DamagedDataError: unknown status, or more bytes announced than were asked for.
    """
    status, length = _REPLY.unpack(raw)
    if status not in Status.__members__.values():
        raise DamagedDataError(f"span reply: unknown status {status}")
    bound = length_max if status == Status.OK else MESSAGE_SIZE_BYTES_MAX
    if length > bound:
        raise DamagedDataError(f"span reply: {length} bytes announced, at most {bound} expected")
    return Reply(Status(status), length)


def bitmap_size_bytes(count: int) -> int:
    """Bytes of a bitmap of ``count`` bits."""
    return (count + 7) // 8
