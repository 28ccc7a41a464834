"""The chunker's end of a span connection: blocking, used by one thread at a time."""

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.errors import BadInputError, DamagedDataError, SourceError, UnavailableError
from libs.ranges import ChunkRun
from libs.runtime.tls import explain
from libs.spans.messages import (
    REPLY_SIZE_BYTES,
    Hello,
    Reply,
    Status,
    pack_hello,
    pack_reread,
    pack_want,
    unpack_reply,
)
from libs.spans.sockets import TlsClient, end, limit_blocking

#: An agent that keeps us waiting for so long, over one request, is taken for dead: it answers from
#: memory or a local disk, and a request is for 32 MiB at most.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class SpanTls:
    """How the agent must prove who it is."""

    #: With the authorities that are trusted.
    context: ssl.SSLContext
    #: Name that its certificate must have.
    name: str


class SpanConnection:
    """A connection to the agent that captures a volume.

    Args:
        address: "host:port" of the agent's span server.
        capture: the capture whose spans are wanted.
        boot: the agent process that began it.
        token: the session's secret for it.
        patience_seconds: longest time to wait for the agent in one request.
        tls: None: it speaks without TLS.

    Raises:
        UnavailableError: nobody answers there, or it cannot prove who it is.
        SourceError: the agent refuses: it does not know the capture any more.
    """

    def __init__(  # noqa: PLR0913 -- whom to dial, and as who
        self,
        address: str,
        capture: UUID,
        boot: UUID,
        token: bytes,
        patience_seconds: float = _PATIENCE_SECONDS,
        tls: SpanTls | None = None,
    ) -> None:
        self._peer = address
        self._patience_seconds = patience_seconds
        self._patience_left_seconds = patience_seconds
        try:
            self._socket = _dial(address, patience_seconds)
        except (OSError, ValueError) as err:
            raise UnavailableError(
                f"agent at {address}: {err}; is it running and reachable?"
            ) from err
        self._tls: TlsClient | None = None
        try:
            if tls:
                self._tls = self._shake_hands(tls)
            self._send(pack_hello(Hello(capture, boot, token)))
            self._read_reply(0)
        except BaseException as err:
            self.close()
            if isinstance(err, UnavailableError | DamagedDataError):
                about = "" if isinstance(err, UnavailableError) else f"agent at {address}: "
                advice = "" if tls else "; does it expect TLS?"
                raise UnavailableError(f"{about}{err}{advice}") from err
            raise

    def want(self, batch: int, wanted: Sequence[bool], chunk_size_bytes: int) -> bool:
        """Ask for chunks of a batch; their bytes follow, in order, by `receive_into`.

        Returns:
            False if the span has left the agent's window: ask with `reread`.
        """
        self._send(pack_want(batch, wanted))
        if not any(wanted):
            return True
        return self._read_reply(sum(wanted) * chunk_size_bytes).status is Status.OK

    def reread(self, runs: Sequence[ChunkRun], chunk_size_bytes: int) -> None:
        """Ask for chunks by their indexes; their bytes follow, in order, by `receive_into`."""
        self._send(pack_reread(runs))
        reply = self._read_reply(sum(run.count for run in runs) * chunk_size_bytes)
        if reply.status is not Status.OK:
            raise DamagedDataError(f"agent at {self._peer}: answered {reply.status} to a reread")

    @property
    def is_usable(self) -> bool:
        """Whether a request can be sent: the agent has neither closed it nor talked unasked."""
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
        except ValueError:  # closed at our end
            return False
        return not poll.poll(0) and not (self._tls and self._tls.has_more)

    def receive_into(self, buffer: memoryview) -> None:
        """Fill the whole buffer with the next bytes of the answer.

        Raises:
            UnavailableError: the connection ended before that, or the agent is too slow.
        """
        begun = time.monotonic()
        try:
            while len(buffer):
                if time.monotonic() - begun > self._patience_left_seconds:
                    raise BlockingIOError
                received = (
                    self._tls.recv_into(buffer)
                    if self._tls
                    else self._socket.recv_into(buffer, 0, socket.MSG_WAITALL)
                )
                if received == 0:
                    raise UnavailableError(f"agent at {self._peer}: it closed the connection")
                buffer = buffer[received:]
        except BlockingIOError as err:
            raise UnavailableError(
                f"agent at {self._peer}: it took longer than {self._patience_seconds:g} s"
            ) from err
        except OSError as err:
            raise UnavailableError(f"agent at {self._peer}: {err}") from err
        self._patience_left_seconds -= time.monotonic() - begun

    def close(self) -> None:
        """End the connection; whoever waits for it in another thread gets an UnavailableError."""
        with contextlib.suppress(OSError):
            end(self._socket)
        self._socket.close()

    def _shake_hands(self, tls: SpanTls) -> TlsClient:
        try:
            return TlsClient(self._socket, tls.context, tls.name, self._patience_seconds)
        except ssl.SSLCertVerificationError as err:
            raise UnavailableError(f"agent at {self._peer}: {explain(err)}") from err
        except OSError as err:
            raise UnavailableError(
                f"agent at {self._peer}: no TLS ({err}); does its span server have a certificate?"
            ) from err

    def _send(self, message: bytes) -> None:
        self._patience_left_seconds = self._patience_seconds
        try:
            (self._tls or self._socket).sendall(message)
        except OSError as err:
            raise UnavailableError(f"agent at {self._peer}: {err}") from err

    def _read_reply(self, length: int) -> Reply:
        head = bytearray(REPLY_SIZE_BYTES)
        self.receive_into(memoryview(head))
        reply = unpack_reply(bytes(head), length)
        if reply.status is Status.OK and reply.length != length:
            raise BadInputError(
                f"agent at {self._peer}: {reply.length} bytes announced, {length} asked for"
            )
        if reply.status in (Status.REFUSED, Status.FAILED):
            message = bytearray(reply.length)
            self.receive_into(memoryview(message))
            raise SourceError(f"agent at {self._peer}: {message.decode(errors='replace')}")
        return reply


def _dial(address: str, patience_seconds: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    dialled = socket.create_connection((host, int(port)), timeout=patience_seconds)
    dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit_blocking(dialled, patience_seconds)
    return dialled
