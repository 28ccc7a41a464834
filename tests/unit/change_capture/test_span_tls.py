"""The span server and its chunkers with TLS: who is believed, and what a stranger can do."""

import socket
import ssl
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.process import wait_until
from libs.errors import UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun
from libs.runtime.tls import ClientTls, ServerTls
from libs.spans.connection import SpanConnection, SpanTls
from libs.spans.messages import CHUNKS_PER_SPAN_MAX
from services.change_capture.agent.spans.limits import SpanLimits
from tests.support.certificates import Site
from tests.unit.change_capture.capturing import TOKEN
from tests.unit.change_capture.test_span_server import (
    BOOT,
    Agent,
    AgentWith,
    agent_with,
    is_hung_up,
    received,
)

__all__ = ["agent_with"]
NODE = "node-1"
LIMITS = SpanLimits(hello_seconds_max=0.5)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def agent(agent_with: AgentWith, site: Site) -> Agent:
    files = site.issue([NODE])
    made: Agent = agent_with(LIMITS, ServerTls(files.certificate, files.key))
    made.tls = trusting(site)
    return made


def trusting(site: Site, name: str = NODE) -> SpanTls:
    return SpanTls(ClientTls(site.ca_file, ssl.TLSVersion.TLSv1_3).current(), name)


def test_chunks_come_as_they_are(agent: Agent) -> None:
    agent.offer(0)
    connection = agent.connect()
    assert connection.want(0, [True, False, True, True], CHUNK_SIZE_BYTES)
    assert received(connection, 3) == agent.chunk(0) + agent.chunk(2) + agent.chunk(3)
    assert connection.is_usable
    connection.reread([ChunkRun(0, 40)], CHUNK_SIZE_BYTES)
    assert received(connection, 40) == agent.volume
    assert connection.is_usable
    connection.close()
    agent.assert_every_buffer_is_free()


def test_a_whole_span_is_received_in_pieces_of_any_size(agent: Agent) -> None:
    buffer = agent.window.take_buffer(agent.capture.order.capture)
    expected = bytes(range(256)) * (CHUNKS_PER_SPAN_MAX * CHUNK_SIZE_BYTES // 256)
    buffer[:] = expected
    agent.window.offer(agent.capture.order.capture, 0, buffer)
    connection = agent.connect()
    assert connection.want(0, [True] * CHUNKS_PER_SPAN_MAX, CHUNK_SIZE_BYTES)
    got, at = memoryview(bytearray(len(expected))), 0
    for size in (1, 16383, 16384, 16385, 1 << 20, len(expected)):
        piece = got[at : at + size]
        connection.receive_into(piece)
        at += len(piece)
    assert at == len(expected)
    assert got == expected
    connection.close()


def test_an_agent_of_another_authority_is_refused(agent: Agent, tmp_path: Path) -> None:
    agent.tls = trusting(Site(tmp_path / "other"))
    with pytest.raises(UnavailableError, match=r"is not trusted .* name the CA file"):
        agent.connect()


def test_another_nodes_certificate_is_refused(agent: Agent, site: Site) -> None:
    agent.tls = trusting(site, "node-2")
    with pytest.raises(UnavailableError, match=r"not trusted .*node-2"):
        agent.connect()


def test_an_expired_certificate_is_refused(agent_with: AgentWith, site: Site) -> None:
    files = site.issue([NODE], until=datetime.now(UTC) - timedelta(minutes=1))
    agent = agent_with(LIMITS, ServerTls(files.certificate, files.key))
    agent.tls = trusting(site)
    with pytest.raises(UnavailableError, match="expired"):
        agent.connect()


def test_who_speaks_without_tls_is_refused_and_told_so(agent: Agent) -> None:
    agent.tls = None
    with pytest.raises(UnavailableError, match="does it expect TLS"):
        agent.connect()


def test_an_agent_without_tls_is_not_believed(agent_with: AgentWith, site: Site) -> None:
    agent = agent_with(LIMITS)
    agent.tls = trusting(site)
    with pytest.raises(UnavailableError, match="no TLS"):
        agent.connect()


def test_an_older_version_of_tls_is_refused(agent: Agent, site: Site) -> None:
    context = ClientTls(site.ca_file).current()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    agent.tls = SpanTls(context, NODE)
    with pytest.raises(UnavailableError, match="no TLS"):
        agent.connect()


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_half_a_handshake_is_not_waited_for(agent: Agent, said: bytes) -> None:
    with ExitStack() as crowd:
        for _ in range(100):
            crowd.enter_context(agent.dial()).sendall(said)
        agent.offer(9)
        connection = agent.connect()
        assert connection.want(9, [True], CHUNK_SIZE_BYTES)
        connection.close()
        late = crowd.enter_context(agent.dial())
        late.sendall(said)
        assert is_hung_up(late)


def test_a_handshake_alone_is_no_hello(agent: Agent) -> None:
    assert agent.tls
    with (
        agent.dial() as peer,
        agent.tls.context.wrap_socket(peer, server_hostname=NODE) as encrypted,
    ):
        assert is_hung_up(encrypted)


def test_a_new_certificate_is_shown_to_new_peers(agent: Agent, site: Site, tmp_path: Path) -> None:
    agent.offer(0)
    old = agent.connect()
    other = Site(tmp_path / "other")
    issued = other.issue([NODE])
    server = site.issue([NODE])
    server.certificate.write_text(issued.certificate.read_text())
    server.key.write_text(issued.key.read_text())
    agent.tls = trusting(other)
    new: list[SpanConnection] = []

    def connects() -> bool:
        try:
            new.append(agent.connect())
        except UnavailableError:
            return False
        return True

    assert wait_until(connects, 5)
    new[0].close()
    assert old.want(0, [True], CHUNK_SIZE_BYTES)
    assert received(old, 1) == agent.chunk(0)
    old.close()


def test_closing_wakes_who_waits_in_another_thread(agent: Agent) -> None:
    connection = agent.connect()
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
    assert not connection.is_usable


def test_a_silent_agent_is_given_up_in_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname()[:2])
        context = ClientTls(None).current()
        with pytest.raises(UnavailableError, match="no TLS"):
            SpanConnection(address, uuid4(), BOOT, TOKEN, 0.2, SpanTls(context, NODE))
