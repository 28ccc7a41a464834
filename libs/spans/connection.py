"""The chunker's end of a span connection: blocking, used by one thread at a time."""

import socket
from collections.abc import Sequence
from uuid import UUID

from libs.errors import BadInputError, SourceError, UnavailableError
from libs.ranges import ChunkRun
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

#: An agent that sends nothing for so long is taken for dead; it answers from memory or a local
#: disk.
_TIMEOUT_SECONDS = 30


class SpanConnection:
    """A connection to the agent that captures a volume.

    Args:
        address: "host:port" of the agent's span server.
        capture: the capture whose spans are wanted.
        token: the session's secret for it.

    Raises:
        UnavailableError: nobody answers there.
        SourceError: the agent refuses: it does not know the capture any more.
    """

    def __init__(self, address: str, capture: UUID, token: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._peer = address
        try:
            self._socket = socket.create_connection((host, int(port)), timeout=_TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as err:
            raise UnavailableError(
                f"agent at {address}: {err}; is it running and reachable?"
            ) from err
        self._send(pack_hello(Hello(capture, token)))
        self._read_reply(0)

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
        self._read_reply(sum(run.count for run in runs) * chunk_size_bytes)

    def receive_into(self, buffer: memoryview) -> None:
        """Fill the whole buffer with the next bytes of the answer.

        Raises:
            UnavailableError: the connection ended before that.
        """
        try:
            while len(buffer):
                received = self._socket.recv_into(buffer)
                if received == 0:
                    raise UnavailableError(
                        f"agent at {self._peer}: connection closed in the middle of a span"
                    )
                buffer = buffer[received:]
        except OSError as err:
            raise UnavailableError(f"agent at {self._peer}: {err}") from err

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
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
