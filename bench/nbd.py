"""`python -m bench.nbd`: what the sessions of NBD cost per request, in memory, without any socket.

Client and server take turns in one thread, so the figures are the cost of both ends; "server alone"
feeds requests that were made before. A transport and a disk come on top of them. Rates are per
second of CPU, which a busy machine does not change.
"""

import time
from collections.abc import Callable

from libs.nbd.client.events import Enter
from libs.nbd.client.session import ClientSession
from libs.nbd.export import Export
from libs.nbd.layout import REQUEST, REQUEST_MAGIC, Command
from libs.nbd.server.events import ExportAsked, PayloadReceived, Request
from libs.nbd.server.session import ServerSession
from libs.nbd.streams import Bytes

_SIZE_BYTES = 1 << 30
_CPU_SECONDS = 1.0
_BLOCK_SIZE_BYTES = 4096
#: Between two looks at the clock, which takes a millisecond on some virtual machines.
_BURSTS = 50


class _Disk:
    """Answers each request at once, with bytes that lie ready."""

    def __init__(self) -> None:
        self.session = ServerSession("client")
        self._data = memoryview(bytes(4 << 20))
        self._into = memoryview(bytearray(4 << 20))

    def go_on(self) -> None:
        session, data = self.session, self._data
        while (event := session.next_event()) is not None:
            if type(event) is Request:
                if event.command == Command.READ:
                    session.replies.send_read(event, data[: event.length])
                else:
                    session.receive_into(event, self._into[: event.length])
            elif type(event) is PayloadReceived:
                session.replies.finish(event.request)
            elif type(event) is ExportAsked:
                session.offer(Export(name="disk", size_bytes=_SIZE_BYTES))


def _carry(
    output: list[Bytes], session: ClientSession | ServerSession, react: Callable[[], None]
) -> None:
    """As a kernel would, copying once: as much as the reader has room for, then it reacts."""
    buffer, at = session.buffer(), 0
    for one in output:
        piece = memoryview(one)
        done = 0
        while done < len(piece):
            count = min(len(piece) - done, len(buffer) - at)
            buffer[at : at + count] = piece[done : done + count]
            done, at = done + count, at + count
            if at == len(buffer):
                session.received(at)
                react()
                buffer, at = session.buffer(), 0
    session.received(at)
    react()


def both_ends(*, writes: bool, size_bytes: int, depth: int) -> float:
    """Requests per second of both ends in one thread."""
    disk = _Disk()
    client = ClientSession("server", Enter("disk"))
    done = 0

    def hear() -> None:
        nonlocal done
        client.next_event()
        while client.is_entered and client.next_reply() is not None:
            done += 1

    while not client.is_entered:
        _carry(disk.session.take_output(), client, hear)
        _carry(client.take_output(), disk.session, disk.go_on)
    payload = memoryview(bytearray(size_bytes))
    begun = time.process_time()
    while (seconds := time.process_time() - begun) < _CPU_SECONDS:
        for _ in range(_BURSTS):
            for number in range(depth):
                if writes:
                    client.write(number * size_bytes, payload)
                else:
                    client.read(number * size_bytes, payload)
            _carry(client.take_output(), disk.session, disk.go_on)
            _carry(disk.session.take_output(), client, hear)
    return done / seconds


def server_alone(depth: int) -> float:
    """Reads of 4 KiB per second of a server, whose output is dropped."""
    disk = _Disk()
    client = ClientSession("server", Enter("disk"))

    def hear() -> None:
        client.next_event()

    while not client.is_entered:
        _carry(disk.session.take_output(), client, hear)
        _carry(client.take_output(), disk.session, disk.go_on)
    burst = b"".join(
        REQUEST.pack(REQUEST_MAGIC, 0, Command.READ, number, number * 4096, _BLOCK_SIZE_BYTES)
        for number in range(depth)
    )
    count, begun = 0, time.process_time()
    while (seconds := time.process_time() - begun) < _CPU_SECONDS:
        for _ in range(_BURSTS):
            disk.session.buffer()[: len(burst)] = burst
            disk.session.received(len(burst))
            disk.go_on()
            disk.session.take_output()
        count += depth * _BURSTS
    return count / seconds


def main() -> None:
    """Print a table."""
    for depth in (1, 16):
        print(f"server alone, reads of 4 KiB, depth {depth:2}: {server_alone(depth):10,.0f}/s")
        for writes in (False, True):
            rate = both_ends(writes=writes, size_bytes=_BLOCK_SIZE_BYTES, depth=depth)
            what = "writes" if writes else "reads"
            print(f"both ends, {what} of 4 KiB, depth {depth:2}: {rate:10,.0f}/s")
    for writes in (False, True):
        rate = both_ends(writes=writes, size_bytes=1 << 20, depth=4)
        what = "writes" if writes else "reads"
        print(f"both ends, {what} of 1 MiB, depth  4: {rate / 1024:10.1f} GiB/s")


if __name__ == "__main__":
    main()
