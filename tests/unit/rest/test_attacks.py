"""Clients without a token attack a real server over sockets."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.rest.attacked_server import (
    ANSWER_SIZE_BYTES,
    TOKEN,
    AttackedServer,
    attacked,
    read_all,
)

HEAD_SIZE_BYTES_MAX = 32 << 10
#: What one connection may cost: 32 KiB of head, the parser's and the kernel's buffers.
MEMORY_MIB_MAX = 6
SENT_BYTES = 8 << 20
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ORDER = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % TOKEN.encode()
CHUNKED = ORDER + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[AttackedServer]:
    with attacked() as server:
        yield server


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[AttackedServer]:
    """It waits one second for whatever it waits for."""
    with attacked(head_seconds_max=1, body_seconds_max=1, write_seconds_max=1) as server:
        yield server


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET / HTTP/1.1\r\n", b"a:b\r\n"),
        (b"GET / HTTP/1.1\r\na: ", b"x"),
        (b"GET / HTTP/1.1\r\n", b"x"),
        (b"GET /", b"x"),
        (b"GET /?", b"%20"),
        (b"", b"\r\n"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"a:b\r\n"),
        (CHUNKED + b"2\r\n{}\r\n0\r\na: ", b"x"),
        (CHUNKED + b"2;", b"a=b;"),
    ],
    ids=["fields", "value", "name", "path", "query", "lines", "trailers", "trailer", "extension"],
)
def test_what_has_no_end_is_cut_off_and_costs_no_memory(
    server: AttackedServer, begin: bytes, piece: bytes
) -> None:
    server.ask(HEALTH)
    before = server.memory_mib
    pieces = piece * (65536 // len(piece))
    sent = 0
    with server.connect() as attacker:
        with contextlib.suppress(ConnectionError):
            attacker.sendall(begin)
            while sent < SENT_BYTES:
                attacker.sendall(pieces)
                sent += len(pieces)
        read_all(attacker)
    assert sent < SENT_BYTES  # buffers of the kernel take a part of it
    assert server.memory_mib - before < MEMORY_MIB_MAX
    assert server.ask(HEALTH).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_not_gathered(server: AttackedServer) -> None:
    server.ask(HEALTH)
    before = server.memory_mib
    with server.connect() as attacker:
        with contextlib.suppress(ConnectionError):
            attacker.sendall(b"GET /readyz HTTP/1.1\r\n\r\n" * 50_000)
        answers = read_all(attacker)
    assert answers.count(b"HTTP/1.1 503 ") < 50_000
    assert server.memory_mib - before < MEMORY_MIB_MAX


def _head(size_bytes: int, field_count: int) -> bytes:
    fields = [b"Host: x", b"Connection: close", *(b"F%d: v" % n for n in range(field_count - 3))]
    head = b"GET /healthz HTTP/1.1\r\n" + b"\r\n".join(fields)
    filled = size_bytes - len(head) - len(b"\r\nFill: \r\n\r\n")
    return head + b"\r\nFill: " + b"x" * filled + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("size_bytes", "field_count", "status"),
    [
        (HEAD_SIZE_BYTES_MAX, 100, 200),
        (HEAD_SIZE_BYTES_MAX + 1, 100, 431),
        (4096, 101, 431),
    ],
)
def test_a_head_has_32_kib_and_100_fields_at_most(
    server: AttackedServer, size_bytes: int, field_count: int, status: int
) -> None:
    head = _head(size_bytes, field_count)
    assert len(head) == size_bytes
    answer = server.ask(head)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status != 200:
        assert b"content-type: application/problem+json" in answer
        assert b'"code":"request-header-fields-too-large"' in answer


def test_a_head_may_be_long_when_its_body_follows_at_once(server: AttackedServer) -> None:
    head = ORDER + b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    body = b'{"name": "%b"}' % (b"x" * 90_000)
    head %= len(body)
    filled = HEAD_SIZE_BYTES_MAX - len(head) - len(b"Fill: \r\n\r\n")
    answer = server.ask(head + b"Fill: " + b"x" * filled + b"\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'["name"]')


def test_pipelined_and_chunked_requests_are_answered_in_order(server: AttackedServer) -> None:
    chunked = CHUNKED + b'9\r\n{"a": "b"\r\n1;x=y\r\n}\r\n0\r\nTrailer: x\r\n\r\n'
    whole = ORDER + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    answer = server.ask(chunked + whole + HEALTH)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.index(b'["a"]') < answer.index(b"[]") < answer.index(b'"ok":true')


@pytest.mark.parametrize("second", [b"Transfer-Encoding: chunked", b"Content-Length: 4"])
def test_a_request_with_two_lengths_is_refused_with_all_that_follows(
    server: AttackedServer, second: bytes
) -> None:
    smuggling = ORDER + b"Content-Length: 5\r\n%b\r\n\r\n0\r\n\r\n" % second
    answer = server.ask(smuggling + HEALTH)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_nobody_gets_their_request_back_by_trace(server: AttackedServer) -> None:
    answer = server.ask(HEALTH.replace(b"GET", b"TRACE"))
    assert answer.startswith(b"HTTP/1.1 405 ")


def _drip(connection: socket.socket, byte: bytes) -> bytes:
    """Send a byte again and again until the server answers or closes the connection."""
    connection.settimeout(0.1)
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        try:
            connection.sendall(byte)
            first = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
        connection.settimeout(30)
        return first + read_all(connection)
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize(
    ("begin", "byte", "answer"),
    [
        (b"GET / HTTP/1.1\r\na: ", b"x", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\na: ", b"", b"HTTP/1.1 408 "),
        (b"", b"\r\n", b"HTTP/1.1 408 "),
        (b"", b"", b""),
        (ORDER + b"Content-Length: 1000\r\n\r\n{", b" ", b"HTTP/1.1 408 "),
        (ORDER + b"Content-Length: 1000\r\n\r\n{", b"", b"HTTP/1.1 408 "),
        (CHUNKED, b"1\r\n \r\n", b"HTTP/1.1 408 "),
        (HEALTH.replace(b"close", b"keep-alive") + b"GET /", b"x", b"HTTP/1.1 200 "),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b" ", b"HTTP/1.1 4"),
    ],
    ids=["head", "half", "lines", "nothing", "body", "half-body", "chunks", "second", "refused"],
)
def test_what_is_not_whole_in_time_is_not_waited_for(
    hasty_server: AttackedServer, begin: bytes, byte: bytes, answer: bytes
) -> None:
    with hasty_server.connect() as attacker:
        attacker.sendall(begin)
        received = _drip(attacker, byte)
    assert received.startswith(answer)
    assert bool(received) == bool(answer)


def test_a_slow_body_is_no_error_of_the_service() -> None:
    with attacked(body_seconds_max=1) as server:
        server.ask(ORDER + b"Content-Length: 1000\r\n\r\n{")
    assert "Traceback" not in server.log
    assert "unexpected error" not in server.log


def test_an_answer_that_nobody_takes_is_not_kept(hasty_server: AttackedServer) -> None:
    hasty_server.ask(HEALTH)
    before = hasty_server.open_file_count
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(hasty_server.connect()).sendall(
                b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
            )
        _wait_until(lambda: hasty_server.open_file_count >= before + 8)
        _wait_until(lambda: hasty_server.open_file_count <= before)


def test_connections_that_say_nothing_keep_nobody_out() -> None:
    with attacked(connection_count_max=20) as server, contextlib.ExitStack() as stack:
        server.ask(HEALTH)
        before = server.open_file_count
        for number in range(300):
            attacker = stack.enter_context(server.connect())
            if number % 2:
                attacker.sendall(b"GET / HT")
            assert server.open_file_count <= before + 20
        for _ in range(10):
            assert server.ask(HEALTH).startswith(b"HTTP/1.1 200 ")
        assert server.open_file_count <= before + 20


def test_a_request_in_work_makes_no_room_for_others() -> None:
    with attacked(connection_count_max=3) as server, contextlib.ExitStack() as stack:
        server.ask(HEALTH)
        working = []
        for _ in range(3):
            connection = stack.enter_context(server.connect())
            connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(1)
            working.append(connection)
        assert server.ask(HEALTH) == b""
        working.pop().close()
        _wait_until(lambda: server.ask(HEALTH) != b"")
        for connection in working:
            assert len(read_all(connection)) > ANSWER_SIZE_BYTES


def _wait_until(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.02)
