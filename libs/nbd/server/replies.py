"""A server's answers to requests, and the account of those that are in flight."""

from collections.abc import Iterable

from libs.errors import InvariantViolation
from libs.nbd.layout import (
    CHUNK,
    CHUNK_DONE,
    CHUNK_ERROR,
    DATA_CHUNK,
    HOLE_CHUNK,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS_EXTENT,
    STATUS_EXTENTS_MAX,
    STRING_SIZE_BYTES_MAX,
    STRUCTURED_REPLY_MAGIC,
    U32,
    U64,
    ChunkType,
    Command,
    CommandFlag,
    ErrorNumber,
)
from libs.nbd.server.events import Request
from libs.nbd.streams import Bytes, Outbox

_CHUNKED = frozenset({Command.READ, Command.BLOCK_STATUS})
#: Zeros that stand for a hole in a simple reply.
_ZEROS = memoryview(bytes(256 << 10))


class Replies:
    """Puts out what answers the requests of one client, in any order.

    A request is in flight from `begin` until it is finished or has failed.

    Args:
        peer: names the client in errors.
        outbox: where the answers go.
        is_structured: whether replies are structured: reads may be answered in chunks, and errors
            carry a text.
        context_count: metadata contexts that each BLOCK_STATUS is answered for.
    """

    def __init__(
        self, peer: str, outbox: Outbox, *, is_structured: bool, context_count: int
    ) -> None:
        self.is_structured = is_structured
        self._context_count = context_count
        self._peer = peer
        self._outbox = outbox
        #: Requests in flight, and bytes of payloads in either direction that belong to them.
        self.count = 0
        self.payload_bytes = 0

    def begin(self, request: Request) -> None:
        """Count a request as in flight."""
        self.count += 1
        if request.command <= Command.WRITE:
            self.payload_bytes += request.length

    def refuse(self, request: Request, error: ErrorNumber) -> None:
        """Answer a request that was not told to anybody, and is not in flight."""
        request.is_answered = True
        self._put_error(request, error, "")

    def finish(self, request: Request) -> None:
        """Answer that it is done. A READ has sent all bytes, a BLOCK_STATUS all contexts before.

        Raises:
            InvariantViolation: it is answered already, or lacks something.
        """
        self._expect_whole(request)
        self._end(request)
        if self.is_structured and request.command in _CHUNKED:
            head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.NONE, request.cookie, 0)
        else:
            head = SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)
        self._outbox.put(head)

    def fail(self, request: Request, error: ErrorNumber, message: str = "") -> None:
        """Answer that it failed; of a READ, nothing that was sent before counts.

        ENOTSUP means "not fast" to a client, so it stands for FAST_ZERO alone.
        """
        self._end(request)
        if error is ErrorNumber.ENOTSUP and not request.flags & CommandFlag.FAST_ZERO:
            error = ErrorNumber.EINVAL
        self._put_error(request, error, message)

    def fail_at(self, request: Request, error: ErrorNumber, offset: int, message: str = "") -> None:
        """Say that a READ failed at an offset; chunks sent before stand up to there. Then `finish`.

        Raises:
            InvariantViolation: replies are not structured, or the offset is not of the request.
        """
        if not self.is_structured or not 0 <= offset - request.offset < request.length:
            raise InvariantViolation(f"{self._peer}: {request!r} cannot fail at {offset}")
        request.has_failed = True
        text = _message(message)
        payload = CHUNK_ERROR.pack(error, len(text)) + text + U64.pack(offset)
        self._put_chunk(request, ChunkType.ERROR_OFFSET, payload)

    def send_read(self, request: Request, data: Bytes) -> None:
        """Answer a READ with all its bytes in one piece, which is sent as it is, without a copy."""
        size = len(data)
        if size != request.length or request.command != Command.READ or request.sent_bytes:
            raise InvariantViolation(f"{self._peer}: {request!r} is answered with {size} bytes")
        self._end(request)
        if self.is_structured:
            head = DATA_CHUNK.pack(
                STRUCTURED_REPLY_MAGIC, CHUNK_DONE, 1, request.cookie, size + 8, request.offset
            )
        else:
            head = SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)
        self._outbox.put(head)
        self._outbox.put(data)

    def may_fragment(self, request: Request) -> bool:
        """Whether a READ may be answered by several chunks."""
        return self.is_structured and not request.flags & CommandFlag.DF

    def send_data(self, request: Request, offset: int, data: Bytes) -> None:
        """A part of a READ's bytes, in any order and never twice; `finish` ends them.

        Raises:
            InvariantViolation: replies are not structured, the request does not let itself be
                fragmented, or the part is not of the request.
        """
        self._count_sent(request, offset, len(data))
        head = DATA_CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, 1, request.cookie, len(data) + 8, offset)
        self._outbox.put(head)
        self._outbox.put(data)

    def send_hole(self, request: Request, offset: int, length: int) -> None:
        """Say that a part of a READ's bytes is zeros; as `send_data`."""
        self._count_sent(request, offset, length)
        self._outbox.put(
            HOLE_CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, 2, request.cookie, 12, offset, length)
        )

    def send_zeros(self, request: Request) -> None:
        """Answer a READ whose bytes are all zeros."""
        if self.is_structured:
            self.send_hole(request, request.offset, request.length)
            self.finish(request)
            return
        self._end(request)
        self._outbox.put(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie))
        for begin in range(0, request.length, len(_ZEROS)):
            self._outbox.put(_ZEROS[: request.length - begin])

    def send_status(
        self, request: Request, context_id: int, extents: Iterable[tuple[int, int]]
    ) -> None:
        """Lengths and flags of a BLOCK_STATUS in one context; `finish` comes after all contexts.

        Extents that lie beyond the request are left out, and those that are too many for a reply.
        """
        payload = bytearray(U32.pack(context_id))
        left = request.length
        is_one = request.flags & CommandFlag.REQ_ONE
        for length, flags in extents:
            if left <= 0 or len(payload) > (4 if is_one else 8 * STATUS_EXTENTS_MAX - 8):
                break
            payload += STATUS_EXTENT.pack(min(length, left), flags)
            left -= length
        if len(payload) == U32.size:
            raise InvariantViolation(f"{self._peer}: {request!r} is answered without extents")
        request.status_count += 1
        self._put_chunk(request, ChunkType.BLOCK_STATUS, payload)

    def _count_sent(self, request: Request, offset: int, length: int) -> None:
        is_within = (
            length > 0
            and request.offset <= offset
            and offset + length <= request.offset + request.length
        )
        is_allowed = self.is_structured and (length == request.length or self.may_fragment(request))
        if not (is_within and is_allowed) or request.sent_bytes + length > request.length:
            raise InvariantViolation(f"{self._peer}: {request!r} gets {length} bytes at {offset}")
        request.sent_bytes += length

    def _expect_whole(self, request: Request) -> None:
        if request.command == Command.READ:
            is_whole = request.sent_bytes == request.length or request.has_failed
        elif request.command == Command.BLOCK_STATUS:
            is_whole = request.status_count == self._context_count
        else:
            return
        if not is_whole:
            raise InvariantViolation(f"{self._peer}: {request!r} ends before all of it was sent")

    def _end(self, request: Request) -> None:
        if request.is_answered or request.is_receiving:
            raise InvariantViolation(f"{self._peer}: {request!r} cannot be answered now")
        request.is_answered = True
        self.count -= 1
        if request.command <= Command.WRITE:
            self.payload_bytes -= request.length

    def _put_error(self, request: Request, error: ErrorNumber, message: str) -> None:
        if self.is_structured:
            text = _message(message)
            payload = CHUNK_ERROR.pack(error, len(text)) + text
            self._put_chunk(request, ChunkType.ERROR, payload, CHUNK_DONE)
        else:
            self._outbox.put(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, request.cookie))

    def _put_chunk(self, request: Request, kind: int, payload: Bytes, flags: int = 0) -> None:
        head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, len(payload))
        self._outbox.put(head)
        self._outbox.put(payload)


def _message(text: str) -> bytes:
    return text.encode(errors="replace")[:STRING_SIZE_BYTES_MAX]
