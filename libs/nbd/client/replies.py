"""Reads the replies of a server to the requests of a client."""

from libs.errors import DamagedDataError
from libs.nbd.client.events import Negotiated
from libs.nbd.client.pending import Coverage, Pending
from libs.nbd.layout import (
    CHUNK,
    CHUNK_DONE,
    CHUNK_ERROR,
    CHUNK_IS_ERROR,
    ERROR_CHUNK_SIZE_BYTES_MAX,
    HOLE,
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
    error_of_reply,
)
from libs.nbd.streams import Inbox

# Plain numbers: the members of an enumeration cost a look-up each time.
_DATA, _HOLE, _STATUS = (
    int(kind) for kind in (ChunkType.OFFSET_DATA, ChunkType.OFFSET_HOLE, ChunkType.BLOCK_STATUS)
)
_READ = int(Command.READ)
_DF = int(CommandFlag.DF)
_ZEROS = memoryview(bytes(256 << 10))


class ReplyReader:
    """Takes replies off the received bytes and fills in the requests that they belong to.

    Args:
        peer: names the server in errors.
        inbox: what the server sends.
        pending: requests by their cookies; those that are done are removed.
        negotiated: what was agreed on.
    """

    def __init__(
        self, peer: str, inbox: Inbox, pending: dict[int, Pending], negotiated: Negotiated
    ) -> None:
        self._peer = peer
        self._inbox = inbox
        self._pending = pending
        self._is_structured = negotiated.is_structured
        self._names = {number: name for name, number in negotiated.contexts.items()}
        #: Whose payload is being received, and whether it is the last of its reply.
        self._current: Pending | None = None
        self._is_last = False

    def next_reply(self) -> Pending | None:
        """A request whose reply is whole; None until more is received.

        Raises:
            DamagedDataError: the server breaks the protocol.
        """
        inbox = self._inbox
        while True:
            have = inbox.end - inbox.start
            if self._current is not None:
                if inbox.is_direct:
                    return None
                done = self._end_payload(self._current)
            elif have < SIMPLE_REPLY.size:
                return None
            else:
                magic, word, cookie = SIMPLE_REPLY.unpack_from(inbox.memory, inbox.start)
                if magic == STRUCTURED_REPLY_MAGIC and self._is_structured:
                    if have < CHUNK.size or have < CHUNK.size + self._needed(word & 0xFFFF):
                        return None
                    done = self._read_chunk(word >> 16, word & 0xFFFF, self._asked(cookie))
                else:
                    done = self._read_simple(magic, word, cookie)
            if done is not None:
                return done

    def _needed(self, kind: int) -> int:
        """Bytes of a chunk's payload that must have come before it can be judged."""
        if kind == _DATA:
            return U64.size
        if kind == _STATUS:
            return U32.size
        size = self._size()
        return size if size <= ERROR_CHUNK_SIZE_BYTES_MAX else 0

    def _size(self) -> int:
        """Length of the payload of the chunk that comes next."""
        size: int = U32.unpack_from(self._inbox.memory, self._inbox.start + CHUNK.size - 4)[0]
        return size

    def _end_payload(self, pending: Pending) -> Pending | None:
        self._current = None
        return self._end(pending) if self._is_last else None

    def _read_simple(self, magic: int, error: int, cookie: int) -> Pending | None:
        if magic != SIMPLE_REPLY_MAGIC:
            expected = f"magic {SIMPLE_REPLY_MAGIC:#x}"
            if self._is_structured:
                expected += f" or {STRUCTURED_REPLY_MAGIC:#x}"
            raise self._violation("reply", expected, f"{magic:#x}")
        pending = self._asked(cookie)
        is_read = pending.command == _READ
        if self._is_structured and (is_read or pending.has_chunks):
            raise self._violation(f"{pending!r}", "a structured reply", "a simple one")
        self._inbox.start += SIMPLE_REPLY.size
        if error:
            pending.error = error_of_reply(error)
        elif is_read and pending.into is not None:
            pending.coverage = Coverage()
            pending.coverage.end = pending.length
            self._current, self._is_last = pending, True
            self._inbox.fill(pending.into)
            return None
        return self._end(pending)

    def _read_chunk(self, flags: int, kind: int, pending: Pending) -> Pending | None:
        inbox, size = self._inbox, self._size()
        is_last = bool(flags & CHUNK_DONE)
        pending.has_chunks = True
        if kind in (_DATA, _STATUS):
            begin = self._begin_data if kind == _DATA else self._begin_status
            begin(pending, size)
            self._current, self._is_last = pending, is_last
            return None
        if kind & CHUNK_IS_ERROR:
            self._check_size(pending, kind, size, CHUNK_ERROR.size, ERROR_CHUNK_SIZE_BYTES_MAX)
        elif kind == _HOLE:
            self._check_size(pending, kind, size, HOLE.size, HOLE.size)
        elif kind == ChunkType.NONE and is_last:
            self._check_size(pending, kind, size, 0, 0)
        else:
            raise self._violation(f"{pending!r}", "a chunk of a known type", f"type {kind}")
        inbox.start += CHUNK.size
        payload = inbox.take(size)
        if kind & CHUNK_IS_ERROR:
            self._read_error(pending, kind, payload)
        elif kind == _HOLE:
            _fill_with_zeros(self._part(pending, *HOLE.unpack(payload)))
        return self._end(pending) if is_last else None

    def _begin_data(self, pending: Pending, size: int) -> None:
        inbox = self._inbox
        if not 9 <= size <= pending.length + 8:
            self._check_size(pending, _DATA, size, 9, pending.length + 8)
        (offset,) = U64.unpack_from(inbox.memory, inbox.start + CHUNK.size)
        part = self._part(pending, offset, size - U64.size)
        inbox.start += CHUNK.size + U64.size
        inbox.fill(part)

    def _begin_status(self, pending: Pending, size: int) -> None:
        inbox = self._inbox
        if pending.command != Command.BLOCK_STATUS:
            raise self._violation(f"{pending!r}", "no block status", "one")
        is_one = pending.flags & CommandFlag.REQ_ONE
        count, rest = divmod(size - U32.size, STATUS_EXTENT.size)
        if rest or not 1 <= count <= (1 if is_one else STATUS_EXTENTS_MAX):
            raise self._violation(f"{pending!r}", "whole extents, not too many", f"{size} bytes")
        (context,) = U32.unpack_from(inbox.memory, inbox.start + CHUNK.size)
        if context not in self._names or context in pending.status:
            raise self._violation(
                f"{pending!r}", "each chosen context once", f"context {context} (again or unknown)"
            )
        inbox.start += CHUNK.size + U32.size
        pending.status[context] = bytearray(size - U32.size)
        inbox.fill(memoryview(pending.status[context]))

    def _part(self, pending: Pending, offset: int, length: int) -> memoryview:
        """Where a content chunk goes."""
        if pending.command != _READ or pending.into is None:
            raise self._violation(f"{pending!r}", "no content", "some")
        start, end = offset - pending.offset, offset - pending.offset + length
        if not 0 <= start < end <= pending.length:
            raise self._violation(f"{pending!r}", "chunks within it", f"{length} bytes at {offset}")
        if pending.coverage is None:
            pending.coverage = Coverage()
        elif pending.flags & _DF:
            raise self._violation(f"{pending!r}", "one content chunk", "another one")
        if not pending.coverage.add(start, end):
            raise self._violation(
                f"{pending!r}",
                "chunks that do not overlap, and few that leave gaps",
                f"{length} bytes at {offset}",
            )
        return pending.into[start:end]

    def _read_error(self, pending: Pending, kind: int, payload: bytes) -> None:
        number, size = CHUNK_ERROR.unpack_from(payload)
        fixed = CHUNK_ERROR.size + (U64.size if kind == ChunkType.ERROR_OFFSET else 0)
        is_known = kind in (ChunkType.ERROR, ChunkType.ERROR_OFFSET)
        if (
            not number
            or size > STRING_SIZE_BYTES_MAX
            or (len(payload) != fixed + size if is_known else len(payload) < fixed + size)
        ):
            raise self._violation(
                f"{pending!r}",
                "an error chunk with an error and a message that fits",
                f"error {number} and {size} bytes of message in {len(payload)}",
            )
        offset = None
        if kind == ChunkType.ERROR_OFFSET:
            (offset,) = U64.unpack_from(payload, CHUNK_ERROR.size + size)
            if not 0 <= offset - pending.offset < pending.length:
                raise self._violation(f"{pending!r}", "an error within it", f"one at {offset}")
        if pending.error is None:
            pending.error = error_of_reply(number)
            pending.error_offset = offset
            text = payload[CHUNK_ERROR.size : CHUNK_ERROR.size + size]
            pending.message = text.decode(errors="replace")

    def _end(self, pending: Pending) -> Pending:
        if pending.error is None:
            if pending.command == _READ:
                come = pending.coverage.end if pending.coverage else 0
                if come != pending.length:
                    raise self._violation(f"{pending!r}", "all bytes", f"a gap at {come}")
            elif pending.command == Command.BLOCK_STATUS and len(pending.status) != len(
                self._names
            ):
                raise self._violation(
                    f"{pending!r}", f"{len(self._names)} contexts", f"{len(pending.status)}"
                )
        del self._pending[pending.cookie]
        pending.is_done = True
        return pending

    def _asked(self, cookie: int) -> Pending:
        pending = self._pending.get(cookie)
        if pending is None:
            raise self._violation("reply", "the cookie of a request in flight", f"{cookie:#x}")
        return pending

    def _check_size(self, pending: Pending, kind: int, size: int, least: int, most: int) -> None:
        if not least <= size <= most:
            raise self._violation(
                f"{pending!r}", f"a chunk of type {kind} with {least} to {most} bytes", f"{size}"
            )

    def _violation(self, what: str, expected: str, got: str) -> DamagedDataError:
        return DamagedDataError(f"{self._peer}: {what}: expected {expected}, got {got}")


def _fill_with_zeros(part: memoryview) -> None:
    for begin in range(0, len(part), len(_ZEROS)):
        piece = part[begin : begin + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]
