"""A span server that many dial at once: strangers that say nothing, and chunkers that fall silent.

The fixtures are those of `test_span_server`.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local.process import wait_until
from libs.errors import UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.spans.messages import (
    CHUNKS_PER_SPAN_MAX,
    HELLO_SIZE_BYTES,
    REPLY_SIZE_BYTES,
    Hello,
    pack_hello,
    pack_want,
)
from services.change_capture.agent.spans.limits import SpanLimits
from services.change_capture.agent.spans.newcomers import source_of
from tests.unit.change_capture.capturing import TOKEN
from tests.unit.change_capture.test_span_server import (
    BOOT,
    Agent,
    AgentWith,
    agent,
    agent_with,
    is_hung_up,
    received,
)

__all__ = ["agent", "agent_with"]


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Connections that are closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def is_open(peer: socket.socket) -> bool:
    """Whether the server has not ended the connection by now."""
    peer.setblocking(False)
    try:
        return peer.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        peer.settimeout(5)


def is_served(peer: socket.socket, agent: Agent, said: int = 0) -> bool:
    """Whether the server answers the rest of a hello of which so many bytes were said."""
    peer.sendall(hello_of(agent)[said:])
    return len(taken(peer, REPLY_SIZE_BYTES)) == REPLY_SIZE_BYTES


def taken(peer: socket.socket, size: int) -> bytes:
    """The next bytes from the server; fewer if it ends the connection."""
    got = bytearray()
    while len(got) < size and (piece := peer.recv(size - len(got))):
        got += piece
    return bytes(got)


def can_connect(agent: Agent) -> bool:
    try:
        agent.connect().close()
    except UnavailableError:
        return False
    return True


def hello_of(agent: Agent) -> bytes:
    return pack_hello(Hello(agent.capture.order.capture, BOOT, TOKEN))


def test_four_hundred_silent_peers_delay_nobody(agent_with: AgentWith, crowd: ExitStack) -> None:
    agent = agent_with(None)
    silent = [crowd.enter_context(agent.dial()) for _ in range(400)]
    assert any(map(is_open, silent))
    begun = time.monotonic()
    for _ in range(3):
        agent.assert_serves()
    assert time.monotonic() - begun < 1.0


def test_half_a_hello_has_no_more_time_than_none(agent: Agent, crowd: ExitStack) -> None:
    for _ in range(40):
        crowd.enter_context(agent.dial()).sendall(hello_of(agent)[: HELLO_SIZE_BYTES - 1])
    agent.assert_serves()
    late = crowd.enter_context(agent.dial())
    late.sendall(hello_of(agent)[:-1])
    assert is_hung_up(late)


def test_a_crowd_of_two_addresses_displaces_none_of_another(
    agent_with: AgentWith, crowd: ExitStack
) -> None:
    limits = SpanLimits(newcomer_count_max=12, newcomer_count_of_address_max=8)
    agent = agent_with(limits)
    slow = crowd.enter_context(agent.dial("127.0.0.2"))
    slow.sendall(hello_of(agent)[:10])
    for number in range(200):
        crowd.enter_context(agent.dial(f"127.0.0.{3 + number % 2}"))
    assert is_served(slow, agent, said=10)


def test_no_more_newcomers_are_open_than_there_may_be(
    agent_with: AgentWith, crowd: ExitStack
) -> None:
    limits = SpanLimits(newcomer_count_max=8, newcomer_count_of_address_max=4)
    agent = agent_with(limits)
    first = [crowd.enter_context(agent.dial("127.0.0.2")) for _ in range(6)]
    assert wait_until(lambda: sum(map(is_open, first)) == 4, 5)
    rest = [crowd.enter_context(agent.dial(f"127.0.1.{at}")) for at in range(1, 30)]
    assert wait_until(lambda: sum(map(is_open, first + rest)) == 8, 5)
    assert is_open(rest[-1])


def test_who_has_fallen_silent_makes_room_for_another(
    agent_with: AgentWith, crowd: ExitStack
) -> None:
    agent = agent_with(SpanLimits(peer_count_of_capture_max=3))
    silent = [agent.connect() for _ in range(3)]
    for connection in silent:
        crowd.callback(connection.close)
    agent.offer(1)
    assert silent[0].want(1, [True], CHUNK_SIZE_BYTES)  # so it is not the longest silent any more
    assert received(silent[0], 1) == agent.chunk(0)
    agent.assert_every_buffer_is_free()
    crowd.callback(agent.connect().close)
    assert wait_until(lambda: not silent[1].is_usable, 5)
    assert silent[0].is_usable
    assert silent[2].is_usable
    agent.assert_serves()


def test_peers_are_bounded_over_all_captures(agent_with: AgentWith, crowd: ExitStack) -> None:
    agent = agent_with(SpanLimits(peer_count_max=2))
    silent = [agent.connect() for _ in range(3)]
    for connection in silent:
        crowd.callback(connection.close)
    assert wait_until(lambda: not silent[0].is_usable, 5)
    assert silent[1].is_usable
    assert silent[2].is_usable


def test_a_request_in_work_makes_no_room(agent_with: AgentWith, crowd: ExitStack) -> None:
    agent = agent_with(SpanLimits(peer_count_of_capture_max=1))
    agent.offer(0)
    slow = crowd.enter_context(agent.dial())
    slow.sendall(hello_of(agent) + pack_want(0, [True] * CHUNKS_PER_SPAN_MAX))
    assert len(taken(slow, 2 * REPLY_SIZE_BYTES)) == 2 * REPLY_SIZE_BYTES
    with pytest.raises(UnavailableError):
        agent.connect()
    taken(slow, CHUNKS_PER_SPAN_MAX * CHUNK_SIZE_BYTES)
    assert wait_until(lambda: can_connect(agent), 5)


def test_newcomers_end_with_the_server(agent_with: AgentWith, crowd: ExitStack) -> None:
    agent = agent_with(SpanLimits(hello_seconds_max=60.0))
    newcomer = crowd.enter_context(agent.dial())
    agent.server.close()
    assert is_hung_up(newcomer)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_whose_newcomers_are_counted_together(address: str, source: str) -> None:
    assert source_of(address) == source
