"""The span server against honest, impatient and hostile peers, over real sockets."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest

from deploy.local.process import wait_until
from libs.errors import DamagedDataError, SourceError, UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun
from libs.runtime.tls import ServerTls
from libs.spans.connection import SpanConnection, SpanTls
from libs.spans.messages import (
    REPLY_SIZE_BYTES,
    Hello,
    Reply,
    Status,
    pack_hello,
    pack_reply,
    pack_reread,
    pack_want,
    unpack_reply,
)
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.spans.limits import SpanLimits
from services.change_capture.agent.spans.server import SpanServer
from services.change_capture.agent.window import Window
from services.change_capture.drivers.local.view import LocalView
from tests.support.roots import view_of
from tests.unit.change_capture.capturing import TOKEN, order_for

AgentWith = Callable[..., "Agent"]
BOOT = UUID(int=3)
CHUNKS = 40
SPANS = 2


@dataclass
class StandingCapture:
    """As much of a capture as the span server sees: it neither scans nor publishes."""

    order: CaptureOrder
    view: LocalView
    boot: UUID = BOOT
    touched: int = 0

    def touch(self) -> None:
        self.touched += 1


@dataclass
class Agent:
    """A span server, a capture that stands still, and its window."""

    server: SpanServer
    window: Window
    capture: StandingCapture
    volume: bytes
    #: Whom `connect` expects.
    tls: SpanTls | None = None

    def chunk(self, index: int) -> bytes:
        return self.volume[index * CHUNK_SIZE_BYTES : (index + 1) * CHUNK_SIZE_BYTES]

    def connect(self, token: bytes = TOKEN, boot: UUID = BOOT) -> SpanConnection:
        capture = self.capture.order.capture
        return SpanConnection(self.server.address, capture, boot, token, 5.0, self.tls)

    def dial(self, source: str = "127.0.0.1") -> socket.socket:
        host, _, port = self.server.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=5, source_address=(source, 0))

    def offer(self, batch: int) -> None:
        """Offer the first four chunks of the volume."""
        buffer = self.window.take_buffer(self.capture.order.capture)
        buffer[: 4 * CHUNK_SIZE_BYTES] = self.volume[: 4 * CHUNK_SIZE_BYTES]
        self.window.offer(self.capture.order.capture, batch, buffer)

    def assert_every_buffer_is_free(self) -> None:
        assert wait_until(lambda: self.window.free_count == SPANS, 5)

    def assert_serves(self) -> None:
        """Whatever happened, the next peer is served."""
        self.offer(9)
        connection = self.connect()
        assert connection.want(9, [False, True], CHUNK_SIZE_BYTES)
        assert received(connection, 1) == self.chunk(1)
        connection.close()
        self.assert_every_buffer_is_free()


@pytest.fixture
def agent_with(tmp_path: Path) -> Iterator[AgentWith]:
    with ExitStack() as ended:

        def make(limits: SpanLimits | None, shown: ServerTls | None = None) -> Agent:
            path = tmp_path / "volume"
            content = b"".join(bytes([number + 1]) * CHUNK_SIZE_BYTES for number in range(CHUNKS))
            path.write_bytes(content)
            capture = StandingCapture(order_for(path, uuid4(), None), view_of(path))
            ended.callback(capture.view.close)

            def find(name: UUID) -> Capture | None:
                return cast("Capture", capture) if name == capture.order.capture else None

            window = Window(SPANS)
            server = SpanServer("127.0.0.1:0", window, find, shown, limits)
            ended.callback(server.close)
            return Agent(server, window, capture, content)

        yield make


@pytest.fixture
def agent(agent_with: AgentWith) -> Agent:
    return agent_with(SpanLimits(hello_seconds_max=0.5))


def received(connection: SpanConnection, chunk_count: int) -> bytes:
    buffer = bytearray(chunk_count * CHUNK_SIZE_BYTES)
    connection.receive_into(memoryview(buffer))
    return bytes(buffer)


def is_hung_up(peer: socket.socket) -> bool:
    """Whether the server ends the connection; what it says before that is read."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_wanted_chunks_come_in_order_and_the_span_is_gone_then(agent: Agent) -> None:
    agent.offer(0)
    connection = agent.connect()
    assert connection.want(0, [True, False, True, True], CHUNK_SIZE_BYTES)
    assert received(connection, 3) == agent.chunk(0) + agent.chunk(2) + agent.chunk(3)
    agent.assert_every_buffer_is_free()
    assert not connection.want(0, [True], CHUNK_SIZE_BYTES)
    connection.reread([ChunkRun(0, 1), ChunkRun(30, 2)], CHUNK_SIZE_BYTES)
    assert received(connection, 3) == agent.chunk(0) + agent.chunk(30) + agent.chunk(31)
    assert agent.capture.touched == 3
    connection.close()


def test_a_span_of_which_nothing_is_wanted_is_dropped_without_an_answer(agent: Agent) -> None:
    agent.offer(0)
    connection = agent.connect()
    assert connection.want(0, [False] * 4, CHUNK_SIZE_BYTES)
    agent.assert_every_buffer_is_free()
    assert connection.is_usable
    connection.close()


def test_a_volume_that_fails_is_reported_and_the_connection_goes_on(agent: Agent) -> None:
    path = agent.capture.order.path
    connection = agent.connect()
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="shrank"):
        connection.reread([ChunkRun(0, 1)], CHUNK_SIZE_BYTES)
    path.write_bytes(agent.volume)
    connection.reread([ChunkRun(0, 1)], CHUNK_SIZE_BYTES)
    assert received(connection, 1) == agent.chunk(0)
    connection.close()


def test_a_capture_that_was_begun_again_is_not_served_to_who_wants_the_first(agent: Agent) -> None:
    with pytest.raises(SourceError, match="before the agent was restarted"):
        agent.connect(boot=uuid4())


def test_a_wrong_token_or_capture_is_refused(agent: Agent) -> None:
    with pytest.raises(SourceError, match="wrong token"):
        agent.connect(bytes(32))
    agent.capture.order = order_for(agent.capture.order.path, uuid4(), None)
    with agent.dial() as peer:
        peer.sendall(pack_hello(Hello(uuid4(), BOOT, TOKEN)))
        reply = unpack_reply(peer.recv(REPLY_SIZE_BYTES, socket.MSG_WAITALL), 0)
        assert reply.status is Status.REFUSED
        assert is_hung_up(peer)
    agent.assert_serves()


HOSTILE = {
    "other magic": b"HTTP" + bytes(50),
    "half a hello": b"BCSP\x01\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
def test_who_does_not_say_hello_is_dropped(agent: Agent, said: bytes) -> None:
    with agent.dial() as peer:
        peer.sendall(said)
        assert is_hung_up(peer)
    agent.assert_serves()


def test_a_hello_byte_by_byte_does_not_hold_its_place(agent: Agent) -> None:
    begun = time.monotonic()
    with agent.dial() as peer:
        hello = pack_hello(Hello(UUID(int=1), BOOT, TOKEN))
        dropped = any(_is_dropped_after(peer, bytes([byte]), 0.05) for byte in hello)
    assert dropped
    assert time.monotonic() - begun < 2
    agent.assert_serves()


def _is_dropped_after(peer: socket.socket, said: bytes, seconds: float) -> bool:
    peer.settimeout(seconds)
    try:
        peer.sendall(said)
        return peer.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def want(kind: int, batch: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<BII", kind, batch, count) + body


BAD_REQUESTS = {
    "unknown kind": want(7, 0, 1),
    "no chunks": want(1, 0, 0),
    "huge count": want(1, 0, 2**32 - 1),
    "bitmap beyond the batch": want(1, 0, 3, b"\xff"),
    "reread beyond the volume": pack_reread([ChunkRun(CHUNKS - 1, 2)]),
    "reread of four thousand million": pack_reread([ChunkRun(0, 2**32 - 1)]),
    "reread of more than a span": pack_reread([ChunkRun(0, 39)] * 4),
    "empty run": pack_reread([ChunkRun(0, 0)]),
}


@pytest.mark.parametrize("request_", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_ends_its_connection_only(agent: Agent, request_: bytes) -> None:
    agent.offer(0)
    other = agent.connect()
    with agent.dial() as peer:
        peer.sendall(pack_hello(Hello(agent.capture.order.capture, BOOT, TOKEN)) + request_)
        assert is_hung_up(peer)
    assert other.is_usable
    other.close()
    agent.window.stop(agent.capture.order.capture)
    agent.window.forget(agent.capture.order.capture)
    agent.assert_serves()


def test_chunks_beyond_those_of_the_batch_are_the_peers_own_nonsense(agent: Agent) -> None:
    """The agent keeps no counts; what it sends then is not hashed to what was announced."""
    agent.offer(0)
    connection = agent.connect()
    assert connection.want(0, [False] * 100 + [True], CHUNK_SIZE_BYTES)
    assert len(received(connection, 1)) == CHUNK_SIZE_BYTES
    connection.close()
    agent.assert_serves()


def test_a_peer_that_leaves_in_the_middle_of_a_span_returns_its_buffer(agent: Agent) -> None:
    agent.offer(0)
    with agent.dial() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sendall(pack_hello(Hello(agent.capture.order.capture, BOOT, TOKEN)))
        peer.sendall(pack_want(0, [True] * 128))
        peer.recv(1000)
    agent.assert_serves()


def test_it_stops_listening_when_it_is_closed(agent: Agent) -> None:
    agent.server.close()
    with pytest.raises(ConnectionRefusedError):
        agent.dial()


class Liar:
    """A server that answers every hello and request with the same bytes."""

    def __init__(self, *answers: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answers = answers
        self.address = "{}:{}".format(*self._listener.getsockname()[:2])
        self.peers: list[socket.socket] = []

    def answer(self) -> None:
        peer, _ = self._listener.accept()
        self.peers.append(peer)
        for one in self._answers:
            peer.sendall(one)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self._listener.close()


OK = pack_reply(Reply(Status.OK, 0))
LIES = {
    "more bytes than asked": (OK, pack_reply(Reply(Status.OK, 2 * CHUNK_SIZE_BYTES))),
    "an unknown status": (OK, struct.pack("<BI", 77, 0)),
    "an endless message": (OK, struct.pack("<BI", Status.FAILED, 2**32 - 1)),
}


@pytest.mark.parametrize("answers", LIES.values(), ids=LIES.keys())
def test_a_lying_agent_is_found_out(answers: tuple[bytes, ...]) -> None:
    liar = Liar(*answers)
    thread = threading.Thread(target=liar.answer)
    thread.start()
    connection = SpanConnection(liar.address, uuid4(), BOOT, TOKEN, 5.0)
    thread.join()
    with pytest.raises(DamagedDataError):
        connection.want(0, [True], CHUNK_SIZE_BYTES)
    connection.close()
    liar.close()


def test_an_agent_that_says_nothing_is_given_up() -> None:
    liar = Liar()
    with pytest.raises(UnavailableError, match="agent at"):
        SpanConnection(liar.address, uuid4(), BOOT, TOKEN, 0.2)
    liar.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999", ""])
def test_an_address_where_nobody_answers_is_unavailable(address: str) -> None:
    with pytest.raises(UnavailableError, match="is it running and reachable"):
        SpanConnection(address, uuid4(), BOOT, TOKEN, 1.0)
