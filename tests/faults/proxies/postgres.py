"""A fault proxy for Postgres: commits are exchanges, labelled ``CLIENT COMMIT``; all else flows.

psycopg sends COMMIT as a simple query of its own and waits for ReadyForQuery, so that message is
where a transaction's fate is decided, and where a fault can strike exactly before or after it.
"""

import select
import struct

from tests.faults.proxies.link import Cut, Exchange, Fault, Link, Proxy, receive

_COMMIT = b"Q" + struct.pack(">i", 11) + b"COMMIT\0"
_ROLLBACK = b"Q" + struct.pack(">i", 13) + b"ROLLBACK\0"
_IDLE = b"Z" + struct.pack(">i", 5) + b"I"
#: Code of the message that begins a session, after which messages have a type.
_STARTUP = 196_608
_RECEIVE_SIZE_BYTES = 1 << 16


class PostgresProxy(Proxy):
    """Passes connections to a Postgres server without TLS."""

    def converse(self, link: Link) -> None:
        started, buffer = False, b""
        while True:
            ready, _, _ = select.select([link.client, link.server], [], [])
            if link.server in ready:
                link.client.sendall(_some(link.server.recv(_RECEIVE_SIZE_BYTES)))
            if link.client in ready:
                buffer += _some(link.client.recv(_RECEIVE_SIZE_BYTES))
                while message := _first_message(buffer, started=started):
                    buffer = buffer[len(message) :]
                    started = started or struct.unpack_from(">i", message, 4)[0] == _STARTUP
                    if message == _COMMIT:
                        self.play(link, "COMMIT", message, lambda query: _ask(link, query))
                    else:
                        link.server.sendall(message)


class TransactionRefused(Fault):
    """The server rolls back what it was asked to commit, and says why.

    40001: a conflict of serializable or standby transactions. 40P01: chosen as the victim of a
    deadlock. 57P01: an administrator ends the connection in a fail-over. 53100: its disk is full.
    25006: we are connected to what is a standby since a fail-over.

    Args:
        pattern: see `Fault`.
        nth: see `Fault`.
        count: see `Fault`.
        sqlstate: what the server answers.
    """

    def __init__(self, pattern: str, nth: int = 1, count: int = 1, sqlstate: str = "40001") -> None:
        super().__init__(pattern, nth, count)
        self._sqlstate = sqlstate

    def strike(self, exchange: Exchange) -> None:
        exchange.ask(_ROLLBACK)
        fields = f"SERROR\0VERROR\0C{self._sqlstate}\0Minjected\0\0".encode()
        exchange.reply(b"E" + struct.pack(">i", 4 + len(fields)) + fields + _IDLE)


def _some(data: bytes) -> bytes:
    if not data:
        raise Cut
    return data


def _first_message(buffer: bytes, *, started: bool) -> bytes:
    """The first message if it is complete, else nothing."""
    at = 1 if started else 0  # behind the type
    if len(buffer) < at + 4:
        return b""
    size = at + struct.unpack_from(">i", buffer, at)[0]
    return buffer[:size] if len(buffer) >= size else b""


def _ask(link: Link, query: bytes) -> bytes:
    """Send a simple query; everything up to ReadyForQuery."""
    link.server.sendall(query)
    answer = b""
    while True:
        head = receive(link.server, 5)
        answer += head + receive(link.server, struct.unpack_from(">i", head, 1)[0] - 4)
        if head[:1] == b"Z":
            return answer
