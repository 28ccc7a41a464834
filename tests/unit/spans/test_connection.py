"""The chunker's end against agents that stall, drip or vanish."""

import socket
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from deploy.local.process import wait_until
from libs.errors import UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.spans.connection import SpanConnection
from libs.spans.messages import HELLO_SIZE_BYTES, Reply, Status, pack_reply

PATIENCE_SECONDS = 0.5


@pytest.fixture
def ends() -> Iterator[tuple[SpanConnection, socket.socket]]:
    """A connection after its hello, and the agent's end of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    agents: list[socket.socket] = []

    def welcome() -> None:
        agent, _ = listener.accept()
        agent.recv(HELLO_SIZE_BYTES, socket.MSG_WAITALL)
        agent.sendall(pack_reply(Reply(Status.OK, 0)))
        agents.append(agent)

    thread = threading.Thread(target=welcome)
    thread.start()
    address = "{}:{}".format(*listener.getsockname()[:2])
    connection = SpanConnection(address, UUID(int=1), UUID(int=2), b"t" * 32, PATIENCE_SECONDS)
    thread.join()
    yield connection, agents[0]
    connection.close()
    agents[0].close()
    listener.close()


def test_a_dripping_agent_is_given_up_although_bytes_keep_coming(
    ends: tuple[SpanConnection, socket.socket],
) -> None:
    connection, agent = ends
    agent.sendall(pack_reply(Reply(Status.OK, CHUNK_SIZE_BYTES)))
    assert connection.want(0, [True], CHUNK_SIZE_BYTES)
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.05):
            agent.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match=r"took longer than 0\.5 s|timed out"):
        connection.receive_into(memoryview(bytearray(CHUNK_SIZE_BYTES)))
    assert time.monotonic() - begun < 4 * PATIENCE_SECONDS
    ended.set()
    thread.join()


def test_our_own_time_between_reads_is_not_the_agents(
    ends: tuple[SpanConnection, socket.socket],
) -> None:
    connection, agent = ends
    agent.sendall(pack_reply(Reply(Status.OK, 2 * CHUNK_SIZE_BYTES)) + bytes(2 * CHUNK_SIZE_BYTES))
    assert connection.want(0, [True, True], CHUNK_SIZE_BYTES)
    for _ in range(2):
        threading.Event().wait(1.2 * PATIENCE_SECONDS)  # as long as an upload
        connection.receive_into(memoryview(bytearray(CHUNK_SIZE_BYTES)))


def test_closing_wakes_who_waits_in_another_thread(
    ends: tuple[SpanConnection, socket.socket],
) -> None:
    connection, agent = ends
    agent.sendall(pack_reply(Reply(Status.OK, CHUNK_SIZE_BYTES)))
    assert connection.want(0, [True], CHUNK_SIZE_BYTES)
    woken: list[BaseException] = []

    def wait() -> None:
        try:
            connection.receive_into(memoryview(bytearray(CHUNK_SIZE_BYTES)))
        except UnavailableError as err:
            woken.append(err)

    thread = threading.Thread(target=wait)
    thread.start()
    connection.close()
    thread.join(timeout=5)
    assert woken


def test_a_connection_that_the_agent_has_closed_is_not_usable(
    ends: tuple[SpanConnection, socket.socket],
) -> None:
    connection, agent = ends
    assert connection.is_usable
    agent.shutdown(socket.SHUT_RDWR)
    assert wait_until(lambda: not connection.is_usable, 5)
    connection.close()
    assert not connection.is_usable


def test_an_agent_that_talks_unasked_is_not_used(
    ends: tuple[SpanConnection, socket.socket],
) -> None:
    connection, agent = ends
    agent.sendall(b"?")
    assert wait_until(lambda: not connection.is_usable, 5)
