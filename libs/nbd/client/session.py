"""The client's session: requests out, replies in, payloads straight to where they belong."""

from libs.errors import BackcastError, BadInputError, InvariantViolation
from libs.nbd.client.events import HandshakeEvent, Negotiated, Purpose
from libs.nbd.client.handshake import ClientHandshake
from libs.nbd.client.pending import Pending
from libs.nbd.client.replies import ReplyReader
from libs.nbd.export import Export
from libs.nbd.layout import (
    PAYLOAD_SIZE_BYTES_MAX,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    Feature,
)
from libs.nbd.streams import Bytes, Inbox, Outbox

#: Requests in flight on one connection.
REQUESTS_MAX = 128
# Plain numbers: the members of an enumeration cost a look-up each time.
_READ, _WRITE, _FLUSH = int(Command.READ), int(Command.WRITE), int(Command.FLUSH)
#: Longest range of a request without payload; its length has 32 bits, and QEMU wants it aligned.
RANGE_SIZE_BYTES_MAX = 0xFFFF0000
_WRITING = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
#: What an export must offer before a command or a flag may be used.
_COMMAND_NEEDS: dict[int, Feature] = {
    Command.FLUSH: Feature.SEND_FLUSH,
    Command.TRIM: Feature.SEND_TRIM,
    Command.WRITE_ZEROES: Feature.SEND_WRITE_ZEROES,
    Command.CACHE: Feature.SEND_CACHE,
}
_FLAG_NEEDS: dict[int, Feature] = {
    CommandFlag.FUA: Feature.SEND_FUA,
    CommandFlag.DF: Feature.SEND_DF,
    CommandFlag.FAST_ZERO: Feature.SEND_FAST_ZERO,
}


class ClientSession:
    """One connection to a server. One thread or task uses it at a time.

    The transport loops: it receives into `buffer`, reports by `received`, and sends `take_output`.
    Until `Negotiated` has come it calls `next_event`; from then on requests may be made, and
    `next_reply` tells those that are answered, in any order.

    A server that breaks the protocol costs a DamagedDataError, and the connection must be closed;
    what was pending is lost then. What a server can make a session hold is bounded: 128 KiB of
    received bytes, replies to one option (4096 of 8 KiB), and of a block status 8 MiB per context.

    Args:
        peer: names the server in errors.
        purpose: what the session is for.
        has_tls: whether TLS is asked for.
        requests_max: requests in flight.
    """

    def __init__(
        self,
        peer: str,
        purpose: Purpose,
        *,
        has_tls: bool = False,
        requests_max: int = REQUESTS_MAX,
    ) -> None:
        self._peer = peer
        self._requests_max = requests_max
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._handshake = ClientHandshake(peer, self._inbox, self._outbox, purpose, has_tls=has_tls)
        self._negotiated: Negotiated | None = None
        self._pending: dict[int, Pending] = {}
        self._reader: ReplyReader | None = None
        self._size_bytes = 0
        self._unaligned = 0
        self._payload_max = 0
        self._allowed: frozenset[int] = frozenset()
        self._forbidden_flags = 0
        self._cookie = 0
        self._has_status = False
        self._has_left = False
        self._violation: BackcastError | None = None

    @property
    def negotiated(self) -> Negotiated:
        """The export that was entered.

        Raises:
            InvariantViolation: none was.
        """
        if self._negotiated is None:
            raise InvariantViolation(f"{self._peer}: a request within the handshake")
        return self._negotiated

    @property
    def is_entered(self) -> bool:
        """Whether requests may be made: `Negotiated` was told."""
        return self._negotiated is not None

    @property
    def can_ask(self) -> bool:
        """Whether one more request may be in flight."""
        return len(self._pending) < self._requests_max and not self._has_left

    @property
    def in_flight_count(self) -> int:
        """Requests without a whole reply."""
        return len(self._pending)

    @property
    def payload_size_bytes_max(self) -> int:
        """Longest read or write that the server takes, and that we make."""
        return self._payload_max

    @property
    def is_direct(self) -> bool:
        """Whether the next bytes go straight to a read's destination."""
        return self._inbox.is_direct

    def buffer(self) -> memoryview:
        """Where to receive the next bytes; never empty once all events and replies were taken."""
        return self._inbox.buffer()

    def received(self, count: int) -> None:
        """So many bytes have come into `buffer`."""
        self._inbox.received(count)

    def take_output(self) -> list[Bytes]:
        """Buffers to send, in order; those of writes are the caller's, not copies."""
        return self._outbox.take()

    def next_event(self) -> HandshakeEvent | None:
        """What has come of the handshake; None until more is received.

        Raises:
            DamagedDataError: the server breaks the protocol. Each further call raises it again.
        """
        if self._violation is not None:
            raise self._violation
        try:
            event = self._handshake.next_event()
        except BackcastError as err:
            self._violation = err
            raise
        if isinstance(event, Negotiated):
            self._negotiated = event
            self._know(event.export)
            self._reader = ReplyReader(self._peer, self._inbox, self._pending, event)
        return event

    def tls_started(self) -> None:
        """The transport has done the handshake of TLS that `TlsGranted` asked for.

        Raises:
            DamagedDataError: the server sent more before TLS was on.
        """
        self._handshake.tls_started()

    def next_reply(self) -> Pending | None:
        """A request whose reply is whole; None until more is received.

        Raises:
            DamagedDataError: the server breaks the protocol. Each further call raises it again.
        """
        if self._violation is not None:
            raise self._violation
        if self._reader is None:
            raise InvariantViolation(f"{self._peer}: a reply within the handshake")
        try:
            done = self._reader.next_reply()
        except BackcastError as err:
            self._violation = err
            raise
        if done is not None and done.command == Command.BLOCK_STATUS:
            self._has_status = False
        return done

    def read(self, offset: int, into: memoryview, flags: int = 0) -> Pending:
        """Read bytes to ``into``, which must stay untouched until the request is done.

        Args:
            offset: of the first byte.
            into: as many bytes as are to be read.
            flags: of `CommandFlag`, as in all other requests.

        Raises:
            BadInputError: what the server does not allow, or more requests than may be in flight.
        """
        return self._ask(_READ, flags, offset, len(into), into)

    def write(self, offset: int, data: Bytes, flags: int = 0) -> Pending:
        """Write bytes, which must stay as they are until the output was sent. Raises as `read`."""
        pending = self._ask(_WRITE, flags, offset, len(data))
        self._outbox.put(data)
        return pending

    def flush(self) -> Pending:
        """Let all writes that were answered before reach stable storage. Raises as `read`."""
        return self._ask(Command.FLUSH, 0, 0, 0)

    def trim(self, offset: int, length: int, flags: int = 0) -> Pending:
        """Say that the bytes are needed no more; they are undefined then. Raises as `read`."""
        return self._ask(Command.TRIM, flags, offset, length)

    def write_zeroes(self, offset: int, length: int, flags: int = 0) -> Pending:
        """Make the bytes zeros. Raises as `read`."""
        return self._ask(Command.WRITE_ZEROES, flags, offset, length)

    def cache(self, offset: int, length: int) -> Pending:
        """Say that the bytes will be read soon. Raises as `read`."""
        return self._ask(Command.CACHE, 0, offset, length)

    def block_status(self, offset: int, length: int, flags: int = 0) -> Pending:
        """Ask for the extents in all chosen contexts; one such request may be in flight.

        Raises:
            BadInputError: as `read`; or no context was chosen, or another request is in flight.
        """
        if not self.negotiated.contexts or self._has_status:
            raise BadInputError(
                f"{self._peer}: block status: expected a chosen context and no other such request "
                f"in flight, got contexts {list(self.negotiated.contexts)}"
            )
        pending = self._ask(Command.BLOCK_STATUS, flags, offset, length)
        self._has_status = True
        return pending

    def leave(self) -> None:
        """Say goodbye; nothing may be asked any more, and what is in flight may still be done."""
        if self._negotiated is not None and not self._has_left:
            self._outbox.put(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))
        self._has_left = True

    def _know(self, export: Export) -> None:
        """Compute once what each request is judged by."""
        features = int(export.features)
        self._size_bytes = export.size_bytes
        self._unaligned = export.block_sizes.minimum - 1
        self._payload_max = min(export.block_sizes.payload_max, PAYLOAD_SIZE_BYTES_MAX)
        self._allowed = frozenset(
            int(command)
            for command in Command
            if features & _COMMAND_NEEDS.get(command, features)
            and not (export.is_read_only and command in _WRITING)
        )
        self._forbidden_flags = sum(
            flag for flag, need in _FLAG_NEEDS.items() if not features & need
        )

    def _ask(
        self,
        command: int,
        flags: int,
        offset: int,
        length: int,
        into: memoryview | None = None,
    ) -> Pending:
        """Refuses what the server would have to refuse, or what breaks its trust in us."""
        cookie = self._cookie + 1
        pending = Pending(command, int(flags), cookie, offset, length, into)
        end = offset + length
        if not (
            self.can_ask
            and (0 <= offset < end <= self._size_bytes or command == _FLUSH)
            and not (offset | length) & self._unaligned
            and length <= (self._payload_max if command <= _WRITE else RANGE_SIZE_BYTES_MAX)
            and command in self._allowed
            and not flags & self._forbidden_flags
        ):
            raise self._refusal(pending)
        self._cookie = cookie
        self._pending[cookie] = pending
        self._outbox.put(REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length))
        return pending

    def _refusal(self, pending: Pending) -> BadInputError:
        """Which of the rules a request breaks."""
        export, offset, length = self.negotiated.export, pending.offset, pending.length
        bound = self._payload_max if pending.command <= _WRITE else RANGE_SIZE_BYTES_MAX
        if not self.can_ask:
            expected = f"{self._requests_max} requests in flight at most, before the goodbye"
        elif length and (offset | length) & self._unaligned:
            expected = f"multiples of {export.block_sizes.minimum}"
        elif length > bound:
            expected = f"{bound} bytes at most"
        elif missing := _missing(pending, int(export.features)):
            expected = f"an export that offers {missing}"
        else:
            expected = f"a range within {export.size_bytes} bytes"
        return BadInputError(f"{self._peer}: {pending!r}: expected {expected}")


def _missing(pending: Pending, features: int) -> str:
    """What the request needs and the export does not offer."""
    command = pending.command
    if (need := _COMMAND_NEEDS.get(command)) is not None and not features & need:
        return str(need.name)
    if features & Feature.READ_ONLY and command in _WRITING:
        return "writing"
    if pending.flags:
        for flag, need in _FLAG_NEEDS.items():
            if pending.flags & flag and not features & need:
                return str(need.name)
    return ""
