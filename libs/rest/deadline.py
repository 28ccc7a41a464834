"""A deadline for a whole exchange over one connection, whatever arrives in the meantime.

A socket's own timeout begins anew with every byte, so that a server which drips its answer holds a
thread for as long as it likes. Here each piece gets what is left of the exchange at most.
"""

import io
import socket
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any


class Deadline:
    """When the exchange of a connection must be over. For one thread.

    Args:
        sock: the connection's.
        piece_seconds: for each piece sent or received.
        total_seconds: for the whole exchange.
    """

    def __init__(self, sock: socket.socket, piece_seconds: float, total_seconds: float) -> None:
        self._sock = sock
        self._piece_seconds = piece_seconds
        self._total_seconds = total_seconds
        self._at = 0.0

    def begin(self) -> None:
        """Another exchange begins."""
        self._at = time.monotonic() + self._total_seconds
        self.next_piece()

    def next_piece(self) -> None:
        """Give the socket the time for its next piece.

        Raises:
            TimeoutError: the exchange has lasted too long.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no end of the exchange within {self._total_seconds:g} s")
        self._sock.settimeout(min(self._piece_seconds, left))


def with_deadline(
    connection: HTTPConnection, piece_seconds: float, total_seconds: float
) -> Deadline:
    """Have what a connected connection receives obey the deadline that is returned."""
    deadline = Deadline(connection.sock, piece_seconds, total_seconds)

    def respond(sock: socket.socket, *arguments: Any, **named: Any) -> HTTPResponse:
        response = HTTPResponse(sock, *arguments, **named)
        response.fp.close()  # its reader has taken nothing yet
        raw = sock.makefile("rb", buffering=0)
        response.fp = io.BufferedReader(_TimedReader(raw, deadline))
        return response

    connection.response_class = respond  # type: ignore[assignment] # called, never inherited from
    return deadline


class _TimedReader(io.RawIOBase):
    """A socket's bytes, for each piece of which the deadline is asked."""

    def __init__(self, raw: socket.SocketIO, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """One piece, in the time that it has.

        Raises:
            TimeoutError: the piece or the exchange takes too long.
        """
        self._deadline.next_piece()
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            self._deadline.next_piece()  # says so if it was the exchange that took too long
            raise

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()
