"""The server's session: what a client sends, from the greeting to the goodbye."""

from collections.abc import Callable, Iterable
from typing import Self

from libs.errors import BackcastError, DamagedDataError, InvariantViolation
from libs.nbd.export import Export
from libs.nbd.layout import (
    PAYLOAD_SIZE_BYTES_MAX,
    REQUEST,
    REQUEST_MAGIC,
    ErrorNumber,
    OptionReply,
)
from libs.nbd.server.events import (
    Disconnected,
    Entered,
    Event,
    PayloadReceived,
    Piece,
    Request,
    StandingSession,
    TlsMode,
)
from libs.nbd.server.handshake import ServerHandshake
from libs.nbd.server.replies import Replies
from libs.nbd.server.rules import Rules
from libs.nbd.streams import Bytes, Inbox, Outbox

#: Requests of one connection that are served at once; further ones wait unread.
REQUESTS_MAX = 128
#: Bytes of payloads, in either direction, that one connection has in flight. One payload more may
#: exceed it.
IN_FLIGHT_SIZE_BYTES_MAX = 64 << 20


class ServerSession:
    """One client's connection. One thread or task uses it at a time.

    The transport loops: it receives into `buffer` while `can_receive`, reports by `received`, calls
    `next_event` until that returns None, acts, and sends `take_output`. Requests are answered by
    `replies`, in any order. After an answer, and after sending, `next_event` may have more.

    A client that breaks the protocol costs a DamagedDataError from `next_event`; the transport then
    closes the connection. A request that is well formed but not allowed is answered here and never
    told. What a session holds is bounded: 128 KiB of received bytes, one option, the output, and
    what is in flight. At the bounds the session reads no further until something was answered and
    sent. Time limits are the transport's.

    Args:
        peer: names the client in errors.
        tls: whether STARTTLS is granted, or required.
        requests_max: requests in flight.
        in_flight_size_bytes_max: bytes of payloads in flight, beside one request more.
    """

    def __init__(
        self,
        peer: str,
        tls: TlsMode = TlsMode.NONE,
        requests_max: int = REQUESTS_MAX,
        in_flight_size_bytes_max: int = IN_FLIGHT_SIZE_BYTES_MAX,
    ) -> None:
        self._peer = peer
        self._requests_max = requests_max
        self._bytes_max = in_flight_size_bytes_max
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._handshake: ServerHandshake | None = ServerHandshake(
            peer, self._inbox, self._outbox, tls
        )
        self._entered: Entered | None = None
        self._replies: Replies | None = None
        self._rules: Rules | None = None
        #: The WRITE whose payload is being received, and how much of it was given out.
        self._writing: Request | None = None
        self._position = 0
        self._is_filling = False
        #: A WRITE that is refused once its payload was skipped, and what is left to skip.
        self._refusal: tuple[Request, ErrorNumber] | None = None
        self._skip_bytes = 0
        self._has_ended = False
        self._violation: BackcastError | None = None

    @classmethod
    def resumed(cls, peer: str, export: Export, standing: StandingSession) -> Self:
        """The session of a client whom another process has served until now.

        Args:
            peer: names the client in errors.
            export: that the client has entered, unchanged.
            standing: what the other process's session was at, at a quiet moment.

        Raises:
            DamagedDataError: more unread bytes than a session can have.
        """
        session = cls(peer)
        session.take_output()  # the greeting
        session._enter(Entered(export, standing.contexts), standing.is_structured)
        buffer = session.buffer()
        if len(standing.unread) > len(buffer):
            raise DamagedDataError(f"{peer}: {len(standing.unread)} unread bytes of its session")
        buffer[: len(standing.unread)] = standing.unread
        session.received(len(standing.unread))
        return session

    def standing(self) -> StandingSession | None:
        """What another process needs to go on; None: this is no quiet moment.

        It is quiet when the export is entered, every request is answered and sent, and none is
        being received or skipped. Unread bytes may be the beginning of the next request.
        """
        entered, replies = self._entered, self._replies
        is_busy = self._writing or self._refusal or self._outbox.size_bytes or self._has_ended
        if entered is None or replies is None or replies.count or is_busy or self._violation:
            return None
        inbox = self._inbox
        unread = bytes(memoryview(inbox.memory)[inbox.start : inbox.end])
        return StandingSession(replies.is_structured, entered.contexts, unread)

    @property
    def replies(self) -> Replies:
        """Answers to requests, from `Entered` on.

        Raises:
            InvariantViolation: the handshake is not over.
        """
        if self._replies is None:
            raise InvariantViolation(f"{self._peer}: a reply within the handshake")
        return self._replies

    @property
    def is_entered(self) -> bool:
        """Whether the handshake is over, so that requests follow."""
        return self._replies is not None

    @property
    def can_receive(self) -> bool:
        """Whether the transport may receive now; if not, answers or sending come first."""
        return not self._has_ended and self._inbox.has_room

    def buffer(self) -> memoryview:
        """Where to receive the next bytes: a destination that was given, or the session's own."""
        return self._inbox.buffer()

    def received(self, count: int) -> None:
        """So many bytes have come into `buffer`."""
        self._inbox.received(count)

    def take_output(self) -> list[Bytes]:
        """Buffers to send, in order. A transport that cannot send does not take them."""
        return self._outbox.take()

    def next_event(self) -> Event | None:
        """What has happened; None until more is received, sent or answered.

        Raises:
            DamagedDataError: the client breaks the protocol; close the connection. Each further
                call raises it again.
        """
        if self._violation is not None:
            raise self._violation
        if self._has_ended:
            return None
        try:
            if self._replies is not None:
                return self._next_request(self._replies)
            event = self._entered or self._of_handshake().next_event()
        except BackcastError as err:
            self._violation = err
            raise
        if isinstance(event, Entered):
            self._enter(event, self._of_handshake().is_structured)
        elif isinstance(event, Disconnected):
            self._has_ended = True
        return event

    def tls_started(self) -> None:
        """The transport has done the handshake of TLS that `TlsAsked` asked for."""
        self._answer(lambda: self._of_handshake().tls_started())

    def list_exports(self, exports: Iterable[Export]) -> None:
        """Answer `ListAsked`."""
        self._of_handshake().list_exports(exports)

    def refuse(self, reply: OptionReply, message: str = "") -> None:
        """Answer `ListAsked` or `ExportAsked` with a refusal, such as ERR_UNKNOWN.

        The refusal of EXPORT_NAME is the end: `next_event` raises then.
        """
        self._answer(lambda: self._of_handshake().refuse(reply, message))

    def offer(self, export: Export) -> None:
        """Answer `ExportAsked`. If the client enters the export, `Entered` is the next event."""
        self._entered = self._of_handshake().offer(export)

    def receive_into(self, request: Request, destination: memoryview) -> None:
        """Receive a WRITE's payload there; to be called before the next `next_event`.

        Raises:
            InvariantViolation: another payload is expected, or another length.
        """
        if request is not self._writing or self._position or len(destination) != request.length:
            raise InvariantViolation(f"{self._peer}: {request!r} receives no payload here and now")
        self._inbox.fill(destination)
        self._is_filling = True

    def _enter(self, entered: Entered, is_structured: bool) -> None:
        self._entered = entered
        self._handshake = None
        self._replies = Replies(
            self._peer,
            self._outbox,
            is_structured=is_structured,
            context_count=len(entered.contexts),
        )
        self._rules = Rules(
            entered.export, is_structured=is_structured, has_contexts=bool(entered.contexts)
        )

    def _of_handshake(self) -> ServerHandshake:
        if self._handshake is None:
            raise InvariantViolation(f"{self._peer}: an answer of the handshake after its end")
        return self._handshake

    def _answer(self, answer: Callable[[], None]) -> None:
        """Give an answer that may reveal a violation, which `next_event` raises."""
        try:
            answer()
        except DamagedDataError as err:
            self._violation = err

    def _next_request(self, replies: Replies) -> Event | None:
        inbox, outbox = self._inbox, self._outbox
        assert self._rules is not None
        while True:
            if self._writing is not None:
                return self._next_payload(self._writing)
            if self._refusal is not None and not self._refuse_write(replies, self._refusal):
                return None
            if (
                inbox.end - inbox.start < 28
                or replies.count >= self._requests_max
                or replies.payload_bytes + outbox.size_bytes >= self._bytes_max
            ):
                return None
            magic, flags, command, cookie, offset, length = REQUEST.unpack_from(
                inbox.memory, inbox.start
            )
            if magic != REQUEST_MAGIC:
                raise self._broken("request", f"magic {REQUEST_MAGIC:#x}", f"{magic:#x}")
            inbox.start += 28
            if command == 2:
                self._has_ended = True
                return Disconnected()
            request = Request(command, flags, cookie, offset, length)
            error = self._rules.judge(command, flags, offset, length)
            if error is None:
                replies.begin(request)
                if command == 1:
                    self._writing, self._position, self._is_filling = request, 0, False
                return request
            if command == 1:
                self._skip(request, error, self._rules)
            else:
                replies.refuse(request, error)

    def _skip(self, request: Request, error: ErrorNumber, rules: Rules) -> None:
        """Refuse a WRITE, but after its payload: some clients take no reply while they send."""
        bound = max(rules.payload_size_bytes_max, PAYLOAD_SIZE_BYTES_MAX)
        if request.length > bound:
            raise self._broken("WRITE", f"a payload of {bound} bytes at most", f"{request.length}")
        self._refusal, self._skip_bytes = (request, error), request.length

    def _refuse_write(self, replies: Replies, refusal: tuple[Request, ErrorNumber]) -> bool:
        """Whether all of the payload was skipped, and the refusal is out."""
        self._skip_bytes -= len(self._inbox.piece(self._skip_bytes))
        if self._skip_bytes:
            return False
        replies.refuse(*refusal)
        self._refusal = None
        return True

    def _next_payload(self, request: Request) -> Event | None:
        if self._inbox.is_direct:
            return None
        if not self._is_filling and self._position < request.length:
            position = self._position
            piece = self._inbox.piece(request.length - position)
            if not len(piece):
                return None
            self._position += len(piece)
            return Piece(request, position, piece)
        self._writing = None
        request.is_receiving = False
        return PayloadReceived(request)

    def _broken(self, what: str, expected: str, got: str) -> DamagedDataError:
        return DamagedDataError(f"{self._peer}: {what}: expected {expected}, got {got}")
