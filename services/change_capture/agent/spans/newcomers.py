"""Newcomers: connections whose peer has not said yet which capture it comes for.

A newcomer costs neither a thread nor a place among the peers that are served. One thread accepts
all connections and takes their hellos, so whoever connects and says nothing, or says it slowly,
delays nobody.
"""

import contextlib
import ipaddress
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from libs.runtime.tls import ServerTls
from libs.spans.messages import HELLO_SIZE_BYTES
from services.change_capture.agent.spans.limits import SpanLimits

log = logging.getLogger(__name__)

#: Connections that are accepted before those that there are get their turn again.
_ACCEPTED_AT_ONCE = 16
#: Pause before the next connection when the process has no descriptor for one.
_NO_ROOM_WAIT_SECONDS = 0.2
#: One log line in this time tells of all newcomers that were sent away. Anybody can cause one.
_TELL_SECONDS_MIN = 60.0
#: A host with IPv6 has 2^64 addresses of its own, which differ in the last 64 bits.
_IPV6_NETWORK_BITS = 64


@dataclass(eq=False, slots=True)
class _Newcomer:
    connection: socket.socket
    #: Whose newcomers are counted together.
    source: str
    #: Monotonic time by which the hello must be whole.
    deadline: float
    hello: bytearray = field(default_factory=lambda: bytearray(HELLO_SIZE_BYTES))
    received_bytes: int = 0
    is_shaking_hands: bool = False


class Newcomers:
    """Accepts connections and hands on each whose hello is whole.

    Args:
        listener: listens for connections; `run` closes it.
        limits: of the span server.
        admit: takes over a connection and its hello, and does not block. It is called in the
            thread that runs `run`.
        tls: what peers are shown; None: they are spoken to without TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        limits: SpanLimits,
        admit: Callable[[socket.socket, bytes], None],
        tls: ServerTls | None = None,
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._admit = admit
        self._tls = tls
        self._closed = threading.Event()
        #: In the order in which they came, which is that of their deadlines.
        self._waiting: dict[_Newcomer, None] = {}
        self._of_source: dict[str, dict[_Newcomer, None]] = {}
        self._sent_away_count = 0
        self._told_at = -_TELL_SECONDS_MIN
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Look after newcomers until `close`."""
        with self._listener, self._selector:
            while not self._closed.is_set():
                for key, _ in self._selector.select(self._seconds_left()):
                    newcomer: _Newcomer | None = key.data
                    if newcomer is None:
                        self._accept()
                    elif newcomer in self._waiting:  # it may have had to make room just now
                        self._hear(newcomer)
                self._end_overdue()
                self._tell()
            for newcomer in list(self._waiting):
                self._send_away(newcomer)

    def close(self) -> None:
        """Accept no more connections; `run` returns. Any thread may call it, more than once."""
        self._closed.set()
        with contextlib.suppress(OSError):
            # It refuses connections from now on, and wakes `run`. To close it here would take it
            # from the selector, which might then sleep on.
            self._listener.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as err:  # closed; or no file descriptor is left, which passes
                if not self._closed.wait(_NO_ROOM_WAIT_SECONDS):
                    log.warning("no connection accepted", extra={"detail": str(err)})
                return
            try:
                self._add(connection, source_of(address[0]))
            except OSError:  # it has gone already
                connection.close()

    def _add(self, accepted: socket.socket, source: str) -> None:
        same = self._of_source.get(source, {})
        if len(same) >= self._limits.newcomer_count_of_address_max:
            self._send_away(next(iter(same)))
        elif len(self._waiting) >= self._limits.newcomer_count_max:
            most = max(self._of_source.values(), key=len)  # so that one address displaces its own
            self._send_away(next(iter(most)))
        deadline = time.monotonic() + self._limits.hello_seconds_max
        accepted.setblocking(False)
        connection = accepted
        if self._tls:
            connection = self._tls.current().wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            )
        newcomer = _Newcomer(connection, source, deadline, is_shaking_hands=bool(self._tls))
        self._selector.register(connection, selectors.EVENT_READ, newcomer)
        self._waiting[newcomer] = None
        self._of_source.setdefault(source, {})[newcomer] = None
        self._hear(newcomer)  # most have said it already

    def _hear(self, newcomer: _Newcomer) -> None:
        """Take what a newcomer has said by now."""
        missing = memoryview(newcomer.hello)[newcomer.received_bytes :]
        try:
            if newcomer.is_shaking_hands:
                cast("ssl.SSLSocket", newcomer.connection).do_handshake()
                newcomer.is_shaking_hands = False
            while missing:
                got = newcomer.connection.recv_into(missing)
                if got == 0:
                    self._send_away(newcomer)
                    return
                newcomer.received_bytes += got
                missing = missing[got:]
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            self._send_away(newcomer)
            return
        self._forget(newcomer)
        self._admit(newcomer.connection, bytes(newcomer.hello))

    def _end_overdue(self) -> None:
        now = time.monotonic()
        while self._waiting and (oldest := next(iter(self._waiting))).deadline <= now:
            self._send_away(oldest)

    def _seconds_left(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, next(iter(self._waiting)).deadline - time.monotonic())

    def _send_away(self, newcomer: _Newcomer) -> None:
        self._forget(newcomer)
        newcomer.connection.close()
        self._sent_away_count += 1

    def _forget(self, newcomer: _Newcomer) -> None:
        self._selector.unregister(newcomer.connection)
        del self._waiting[newcomer]
        same = self._of_source[newcomer.source]
        del same[newcomer]
        if not same:
            del self._of_source[newcomer.source]

    def _tell(self) -> None:
        now = time.monotonic()
        if self._sent_away_count and now - self._told_at >= _TELL_SECONDS_MIN:
            log.warning("span peers said no hello", extra={"count": self._sent_away_count})
            self._told_at, self._sent_away_count = now, 0


def source_of(address: str) -> str:
    """Whose newcomers are counted together: those of an IPv4 address, or of an IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # not of the internet
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))
