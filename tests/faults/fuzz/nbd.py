"""Targets: both ends of NBD, which anybody who reaches a socket may talk to.

The first byte says how the stream is cut, the rest is what the other end says. Whatever it is, an
end answers it or gives up, and holds no more memory than its bounds allow.
"""

import contextlib
from collections.abc import Callable, Iterator

from libs.errors import BadInputError, DamagedDataError
from libs.nbd.client.events import Describe, Enter, ListExports, Purpose
from libs.nbd.client.session import ClientSession
from libs.nbd.export import BASE_ALLOCATION, dirty_bitmap
from libs.nbd.layout import Command, CommandFlag
from libs.nbd.server.events import TlsMode
from libs.nbd.server.session import ServerSession
from tests.faults.fuzz.target import Target
from tests.golden.make_nbd import OURS, SIZE_BYTES, THEIRS, golden_disk, read_transcript
from tests.support.nbd_serving import Serving

_CONTEXTS = (BASE_ALLOCATION, dirty_bitmap("since"))
#: What a client may be for; its greeting and options differ.
_PURPOSES: tuple[Purpose, ...] = (
    Enter("disk", _CONTEXTS),
    Enter(""),
    Describe("disk"),
    ListExports(),
)
_OUTPUT_SIZE_BYTES_MAX = 4 << 20
_MARK = 0xEE


def _pieces(data: bytes) -> tuple[int, int, bytes]:
    """Which case, how many bytes come at once, and the bytes."""
    first = data[0] if data else 0
    return first & 3, (1, 7, 64, 1 << 20)[first >> 2 & 3], data[1:]


def _read_client(data: bytes) -> None:
    """What a client sends to our server, which serves as it does in other tests."""
    case, size, stream = _pieces(data)
    served = golden_disk()
    mode = TlsMode.REQUIRED if case == 3 else TlsMode.NONE
    serving = Serving(ServerSession("client", mode, requests_max=4), {"disk": served})
    session = serving.session
    while True:
        serving.go_on()
        output = sum(len(buffer) for buffer in session.take_output())
        assert output <= _OUTPUT_SIZE_BYTES_MAX, "more than the disk has was put out"
        if not stream or serving.wants_tls or not session.can_receive:
            break
        buffer = session.buffer()
        count = min(size, len(buffer), len(stream))
        buffer[:count], stream = stream[:count], stream[count:]
        session.received(count)
    assert len(served.data) == SIZE_BYTES
    assert not (case == 3 and any(served.data[: 2 * 4096])), "written without TLS"


def _client_seeds() -> list[bytes]:
    return [
        bytes([cut << 2]) + b"".join(said for is_client, said in read_transcript(name) if is_client)
        for name in THEIRS
        for cut in (3, 1)
    ]


def _read_server(data: bytes) -> None:
    """What a server sends to our client, which asks for some of each."""
    case, size, stream = _pieces(data)
    session = ClientSession("server", _PURPOSES[case])
    memory = bytearray([_MARK]) * (3 * 4096)
    rounds: Iterator[list[Callable[[], object]]] | None = None
    while True:
        while session.next_event() is not None:
            pass
        while session.is_entered:
            if not session.in_flight_count:
                rounds = rounds or iter(_rounds(session, memoryview(memory)[4096:8192]))
                for ask in next(rounds, ()):
                    with contextlib.suppress(BadInputError):  # this export does not allow it
                        ask()
            done = session.next_reply()
            if done is None:
                break
            if done.command == Command.BLOCK_STATUS and done.error is None:
                for number in session.negotiated.contexts.values():
                    assert all(extent.length > 0 for extent in done.extents(number))
        session.take_output()
        if not stream:
            break
        buffer = session.buffer()
        assert len(buffer), "a client that has room for nothing"
        count = min(size, len(buffer), len(stream))
        buffer[:count], stream = stream[:count], stream[count:]
        session.received(count)
    outside = memory[:4096] + memory[8192:]
    assert outside == bytes([_MARK]) * len(outside), "written beside the destination"


def _rounds(session: ClientSession, into: memoryview) -> list[list[Callable[[], object]]]:
    """What is asked at once: as in the transcripts first, so that cookies are those there."""

    def status(flags: int = 0) -> object:
        return session.block_status(0, SIZE_BYTES, flags)

    with_contexts: list[list[Callable[[], object]]] = [
        [status],
        [status],
        [lambda: session.read(131072, into[:1024])],
        [lambda: session.read(0, into[:512])],
    ]
    without: list[list[Callable[[], object]]] = [
        [lambda: session.write(512, bytes(700), CommandFlag.FUA)],
        [lambda: session.write_zeroes(600, 100, CommandFlag.NO_HOLE)],
        [lambda: session.trim(4096, 4096)],
        [session.flush],
        [lambda: session.read(0, into[:1400])],
    ]
    at_once: list[Callable[[], object]] = [
        lambda: session.read(0, into[:2048]),
        lambda: session.read(4096, into[2048:], CommandFlag.DF),
        lambda: status(CommandFlag.REQ_ONE),
        session.flush,
    ]
    return [*(with_contexts if session.negotiated.contexts else without), at_once]


def _server_seeds() -> list[bytes]:
    return [
        bytes([case | cut << 2])
        + b"".join(said for is_client, said in read_transcript(name) if not is_client)
        for case, name in enumerate(OURS)
        for cut in (3, 1)
    ]


NBD = (
    Target("nbd-client", _read_client, _client_seeds, (DamagedDataError,), 2048, cost=10),
    Target("nbd-server", _read_server, _server_seeds, (DamagedDataError,), 2048, cost=4),
)
