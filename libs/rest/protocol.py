"""HTTP/1.1 on one connection of a server: uvicorn's protocol, with limits for whoever is there.

The limits hold before anybody has shown a token, so they are about bytes and time alone. Bytes are
counted before the parser sees them, because it keeps what is not whole to itself: a field of 1 GiB
is 1 GiB of memory before the first callback, and fields of 4 bytes cost 24 times their length.

What is too long or too slow is answered with a problem document where an answer is still possible.
Then the connection is closed.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from libs.rest import problems
from libs.rest.limits import ServerLimits
from libs.rest.listener import AcceptedConnection, BoundedListener

#: The parser gets no more at once, so limits are looked at in time: 57 requests fit into the first.
#: A body goes in larger pieces, because each costs 2.5 µs of the event loop.
_PIECE_SIZE_BYTES, _BODY_PIECE_SIZE_BYTES = 1 << 10, 8 << 10
#: A client that does not take so much in `write_seconds_max`, nor all that is left, has gone.
_TAKEN_SIZE_BYTES_MIN = 64 << 10


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Everything runs in the event loop's thread.

    Args:
        listener: what has accepted the connection.
        limits: of the server.
        config: uvicorn's, like the rest.
        server_state: of the server.
        app_state: of the application's lifespan.
        _loop: the event loop; the running one if None.
    """

    def __init__(
        self,
        listener: BoundedListener,
        limits: ServerLimits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._listener = listener
        self._limits = limits
        self._connection: AcceptedConnection | None = None
        #: Bytes that the parser got since it last gave a whole head or bytes of a body.
        self._withheld_bytes = 0
        self._field_count = 0
        #: Whether a request has begun and its head is not whole.
        self._in_head = False
        #: Whether the head of the current request is whole and its body is not.
        self._in_body = False
        #: Ends the connection unless what is being received is whole before.
        self._receiving: asyncio.TimerHandle | None = None
        #: Ends the connection unless the client takes what it was sent before.
        self._sending: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """A client is there, and its TLS handshake is done."""
        super().connection_made(transport)
        self._connection = self._listener.connection(transport)
        self._connection.attend(transport.abort)
        # Whatever the client does not take at once counts, also at the end of an answer.
        transport.set_write_buffer_limits(high=1, low=0)
        self._limit_receiving()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_receiving()
        self._stop_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the parser what has come, as far as it may have it."""
        at = 0
        while at < len(data) and not self.transport.is_closing():
            room = self._limits.head_size_bytes_max - self._withheld_bytes
            if room <= 0:
                self._refuse_size()
                return
            most = _BODY_PIECE_SIZE_BYTES if self._in_body else _PIECE_SIZE_BYTES
            piece = data[at : at + min(room, most)]
            at += len(piece)
            self._withheld_bytes += len(piece)
            super().data_received(piece)
            if len(self.pipeline) > self._limits.pipelined_count_max:
                self.transport.abort()
        if self._is_incomplete and self._receiving is None and not self.transport.is_closing():
            self._limit_receiving()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._field_count = 0
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of a head. Those after a body belong to no head and are dropped.

        Raises:
            ValueError: there are too many, which the parser takes for a malformed request.
        """
        self._field_count += 1
        if self._field_count > self._limits.head_field_count_max:
            raise ValueError("too many fields")
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: the request begins to be worked on."""
        self._progressed()
        self._in_head = False
        if self._connection:
            self._listener.set_working(self._connection)
        super().on_headers_complete()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        self._withheld_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        self._progressed()
        self._in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:  # it was refused before its end
            self._wait_for_next()

    def on_response_complete(self) -> None:
        """A request has been answered."""
        if self.cycle.response_complete:
            self.cycle.body = bytearray()  # of a refused one; it would stay until the next request
        super().on_response_complete()
        if self._connection and not self.pipeline:
            self._listener.set_idle(self._connection)

    def pause_writing(self) -> None:
        """The client has not taken all of what was sent."""
        super().pause_writing()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._limit_sending()

    def resume_writing(self) -> None:
        """The client has taken everything."""
        self._stop_sending()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses."""
        if self._field_count > self._limits.head_field_count_max:
            most = self._limits.head_field_count_max
            fields = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(fields, f"request: expected at most {most} fields")
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "request: expected HTTP/1.1")

    @property
    def _is_incomplete(self) -> bool:
        return self._in_head or self._in_body or self._withheld_bytes > 0

    def _progressed(self) -> None:
        self._withheld_bytes = 0
        self._stop_receiving()

    def _limit_receiving(self) -> None:
        limits = self._limits
        seconds = limits.body_seconds_max if self._in_body else limits.head_seconds_max
        self._receiving = self.loop.call_later(seconds, self._refuse_slowness, seconds)

    def _stop_receiving(self) -> None:
        if self._receiving:
            self._receiving.cancel()
            self._receiving = None

    def _limit_sending(self) -> None:
        self._stop_sending()
        self._sending = self.loop.call_later(self._limits.write_seconds_max, self._check_taken)

    def _stop_sending(self) -> None:
        if self._sending:
            self._sending.cancel()
            self._sending = None

    def _check_taken(self) -> None:
        """Go on with a client that is slow, not with one that takes nothing."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if self._unsent_bytes - unsent_bytes < _TAKEN_SIZE_BYTES_MIN:
            self.transport.abort()
            return
        self._unsent_bytes = unsent_bytes
        self._limit_sending()

    def _wait_for_next(self) -> None:
        """As after any other answer; data that came meanwhile has ended the wait."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _refuse_size(self) -> None:
        most = self._limits.head_size_bytes_max
        if self._in_body:
            self._refuse(
                HTTPStatus.BAD_REQUEST,
                f"request body: expected at most {most} bytes of framing between two pieces",
            )
        else:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"request: expected a head of at most {most} bytes",
            )

    def _refuse_slowness(self, seconds: float) -> None:
        self._receiving = None
        if self.transport.is_closing():
            return
        if not self._is_incomplete:  # nothing was asked
            self.transport.close()
            return
        part = "body" if self._in_body else "head"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"request: expected its {part} in {seconds:g} s")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer, if nothing of another answer would be mixed with it, and close the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        free = True
        if cycle and not cycle.response_complete:
            free = self._in_body and not (cycle.response_started or self.pipeline)
            cycle.disconnected = True  # whoever works on it finds that its client is gone
            cycle.message_event.set()
        elif self._in_body:
            free = False
        if free:
            body = problems.status_problem(status, detail).model_dump_json(exclude_none=True)
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                f"content-type: {problems.MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
            )
        self._stop_receiving()
        self.transport.close()
