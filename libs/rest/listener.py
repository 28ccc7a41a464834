"""A listening socket that never has more than a number of its connections open.

When all are taken, whoever waits makes room: first the connection that has waited longest without
one whole request, then the one that has been idle longest. Connections with a request in work are
never closed for others. So clients that open connections and send nothing keep nobody out.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import Any

from libs.errors import ConfigurationError

#: Connections that are closed at once to make room, so that a flood costs few rounds of the loop.
_EVICTED_AT_ONCE = 16


class BoundedListener(socket.socket):
    """A listening socket for one event loop, whose `accept` keeps a limit.

    Args:
        listening: a socket that listens; this object takes it over.
        connection_count_max: connections that are open at the same time.
        handshake_seconds_max: time from accepting a connection until a protocol attends to it.
    """

    def __init__(
        self, listening: socket.socket, connection_count_max: int, handshake_seconds_max: float
    ) -> None:
        super().__init__(fileno=listening.detach())
        self._connection_count_max = connection_count_max
        self._handshake_seconds_max = handshake_seconds_max
        #: By descriptor.
        self._open: dict[int, AcceptedConnection] = {}
        #: Connections that nothing was asked on yet, and those between two requests; oldest first.
        self._new: dict[AcceptedConnection, None] = {}
        self._idle: dict[AcceptedConnection, None] = {}
        self._evicted: set[AcceptedConnection] = set()
        #: Whether somebody connects: the event loop asks for more connections than there are.
        self._asked = select.poll()
        self._asked.register(self, select.POLLIN)

    def accept(self) -> "tuple[AcceptedConnection, Any]":
        """Accept a connection, as the event loop's server does.

        Raises:
            BlockingIOError: nobody connects, or room must be made first.
            ConnectionAbortedError: there is no room; the new connection was closed.
        """
        full = len(self._open) >= self._connection_count_max
        if full and (not self._asked.poll(0) or self._evicted or self._evict()):
            raise BlockingIOError
        accepted, address = super().accept()
        if full:
            accepted.close()
            raise ConnectionAbortedError
        connection = AcceptedConnection(self, accepted)
        self._open[connection.fileno()] = connection
        self._new[connection] = None
        connection.limit_handshake(self._handshake_seconds_max)
        return connection, address

    def connection(self, transport: asyncio.BaseTransport) -> "AcceptedConnection":
        """The connection under a transport of this listener, with TLS or without."""
        return self._open[transport.get_extra_info("socket").fileno()]

    def set_working(self, connection: "AcceptedConnection") -> None:
        """Note that a request is in work, so that nothing closes its connection."""
        self._new.pop(connection, None)
        self._idle.pop(connection, None)

    def set_idle(self, connection: "AcceptedConnection") -> None:
        """Note that a connection waits for its next request."""
        if self._open.get(connection.descriptor) is connection:
            self._idle[connection] = None

    def forget(self, connection: "AcceptedConnection") -> None:
        """Note that a connection is closed; more than once does no harm."""
        if self._open.get(connection.descriptor) is connection:
            del self._open[connection.descriptor]
        self.set_working(connection)
        self._evicted.discard(connection)

    def _evict(self) -> bool:
        """Close connections that wait; False: none does. They are closed in the loop's next round.

        Fewer are open than before as soon as the loop has closed them, and `accept` waits for that.
        """
        for waiting in (self._new, self._idle):
            chosen = list(waiting)[:_EVICTED_AT_ONCE]
            for connection in chosen:
                del waiting[connection]
                self._evicted.add(connection)
                connection.cut()
            if chosen:
                return True
        return False


class AcceptedConnection(socket.socket):
    """One connection of a `BoundedListener`, which learns when it is closed."""

    def __init__(self, listener: BoundedListener, accepted: socket.socket) -> None:
        # Made from a descriptor, it knows that its protocol is TCP, and asyncio sets TCP_NODELAY.
        # Without that the body of each answer waits 40 ms for the client to acknowledge the head.
        super().__init__(fileno=accepted.detach())
        #: Its number while it was open.
        self.descriptor = self.fileno()
        self._listener = listener
        self._handshake: asyncio.TimerHandle | None = None
        self._abort: Callable[[], None] | None = None

    def limit_handshake(self, seconds: float) -> None:
        """Cut the connection if nobody attends to it in this time."""
        self._handshake = asyncio.get_running_loop().call_later(seconds, self.cut)

    def attend(self, abort: Callable[[], None]) -> None:
        """A protocol serves the connection from now on; ``abort`` closes it."""
        self._stop_handshake()
        self._abort = abort

    def cut(self) -> None:
        """Close the connection soon, whatever its client does."""
        if self._abort:
            self._abort()
        else:
            with contextlib.suppress(OSError):  # its client was faster
                self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, as its transport does."""
        super().close()
        self._stop_handshake()
        self._listener.forget(self)

    def _stop_handshake(self) -> None:
        if self._handshake:
            self._handshake.cancel()
            self._handshake = None


def listen(
    address: str, connection_count_max: int, handshake_seconds_max: float
) -> BoundedListener:
    """Listen on ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ConfigurationError: not such an address, or nobody can listen there.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal():
        raise ConfigurationError(f"LISTEN {address!r}: expected HOST:PORT or [IPV6]:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, int(port)), family=family, backlog=1024)
    except (OSError, OverflowError) as err:
        raise ConfigurationError(f"LISTEN {address!r}: cannot listen there: {err}") from err
    return BoundedListener(listening, connection_count_max, handshake_seconds_max)
