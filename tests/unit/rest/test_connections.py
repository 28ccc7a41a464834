"""Connections that are kept: when one is used again, and when not."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from libs.errors import UnavailableError
from libs.rest.connections import ConnectionPool, Origin, Timeouts

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OneAnswerEach:
    """A server that answers the first request of each connection, and resets at the next.

    So does one whose keep-alive time ends while a request is on its way.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with connection:
            if connection.recv(1 << 16):
                connection.sendall(ANSWER)
            if connection.recv(1 << 16):  # the next request: no time to linger makes it a reset
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def server() -> Iterator[OneAnswerEach]:
    running = OneAnswerEach()
    yield running
    running.close()


def ask(pool: ConnectionPool) -> bytes:
    with pool.exchange("GET /", "GET", "/", {}) as response:
        return response.read()


def test_a_connection_that_has_lain_idle_for_long_is_not_used_again(server: OneAnswerEach) -> None:
    pool = ConnectionPool(
        Origin.parse(f"http://127.0.0.1:{server.port}"), Timeouts(idle_seconds=0.0)
    )
    assert [ask(pool), ask(pool)] == [b"ok", b"ok"]
    pool.close()
    assert server.accepted == 2


def test_a_connection_that_was_just_used_is_used_again(server: OneAnswerEach) -> None:
    pool = ConnectionPool(
        Origin.parse(f"http://127.0.0.1:{server.port}"), Timeouts(idle_seconds=60.0)
    )
    assert ask(pool) == b"ok"
    with pytest.raises(UnavailableError, match="closed before the answer"):
        ask(pool)
    pool.close()
    assert server.accepted == 1
