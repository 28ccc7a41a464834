"""A disk in memory, served by the server's session: in memory, or by threads on a Unix socket."""

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from libs.errors import DamagedDataError
from libs.nbd.export import (
    BASE_ALLOCATION,
    STATE_DIRTY,
    STATE_HOLE,
    STATE_ZERO,
    Export,
    dirty_bitmap,
)
from libs.nbd.layout import Command, CommandFlag, ErrorNumber, Feature, OptionReply
from libs.nbd.server.events import (
    Disconnected,
    Entered,
    Event,
    ExportAsked,
    ListAsked,
    PayloadReceived,
    Piece,
    Request,
    TlsAsked,
    TlsMode,
)
from libs.nbd.server.session import ServerSession
from libs.nbd.streams import Bytes

BLOCK_SIZE_BYTES = 4096
_ZEROS = bytes(BLOCK_SIZE_BYTES)
WRITABLE = (
    Feature.SEND_FLUSH
    | Feature.SEND_FUA
    | Feature.SEND_TRIM
    | Feature.SEND_WRITE_ZEROES
    | Feature.SEND_CACHE
    | Feature.SEND_FAST_ZERO
    | Feature.CAN_MULTI_CONN
)
BITMAP = dirty_bitmap("since")


class NbdDisk:
    """An export and its bytes; what was written since the beginning is dirty in `BITMAP`."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self.data = bytearray(export.size_bytes)
        self.dirty = set[int]()
        self.flush_count = 0
        #: Offset → what a request that touches it is answered with.
        self.failures: dict[int, ErrorNumber] = {}

    def fails(self, offset: int, length: int) -> tuple[int, ErrorNumber] | None:
        """The first planted failure within a range."""
        return next(
            (
                (at, self.failures[at])
                for at in sorted(self.failures)
                if offset <= at < offset + length
            ),
            None,
        )

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite bytes, and mark their blocks."""
        self.data[offset : offset + len(data)] = data
        self.mark(offset, len(data))

    def mark(self, offset: int, length: int) -> None:
        """Mark the blocks of a range as dirty."""
        self.dirty.update(
            range(offset // BLOCK_SIZE_BYTES, -(-(offset + length) // BLOCK_SIZE_BYTES))
        )

    def parts(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Offset and length of runs of blocks that are alike, and whether they are zeros."""
        for is_zero, run in itertools.groupby(
            self._pieces(offset, length), lambda piece: self._is_zero(*piece)
        ):
            pieces = list(run)
            yield pieces[0][0], pieces[-1][1] - pieces[0][0], is_zero

    def status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Lengths and flags in a context."""
        if context == BASE_ALLOCATION:
            for _, size, is_zero in self.parts(offset, length):
                yield size, (STATE_HOLE | STATE_ZERO) * is_zero
        else:
            for start, end in self._pieces(offset, length):
                yield end - start, STATE_DIRTY * (start // BLOCK_SIZE_BYTES in self.dirty)

    def _is_zero(self, start: int, end: int) -> bool:
        return self.data[start:end] == _ZEROS[: end - start]

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        end = offset + length
        while offset < end:
            until = min(end, (offset // BLOCK_SIZE_BYTES + 1) * BLOCK_SIZE_BYTES)
            yield offset, until
            offset = until


def disk(name: str = "disk", size_bytes: int = 1 << 20, features: Feature = WRITABLE) -> NbdDisk:
    """A disk of zeros with both contexts."""
    return NbdDisk(
        Export(
            name=name,
            size_bytes=size_bytes,
            features=features,
            description=f"the disk {name}",
            contexts=(BASE_ALLOCATION, BITMAP),
        )
    )


class Serving:
    """Does what the events of one session ask for, at once and in their order."""

    def __init__(self, session: ServerSession, disks: dict[str, NbdDisk]) -> None:
        self.session = session
        self._disks = disks
        self._disk: NbdDisk | None = None
        self._contexts: dict[int, str] = {}
        self._payload = bytearray()
        self.has_ended = False
        self.wants_tls = False

    def go_on(self) -> None:
        """Act on all events that there are."""
        while not self.wants_tls and (event := self.session.next_event()) is not None:
            self._act(event)

    def _act(self, event: Event) -> None:
        match event:
            case Request():
                self._serve(event)
            case Piece():
                self._payload[event.position : event.position + len(event.data)] = event.data
            case PayloadReceived():
                self._write(event.request)
            case TlsAsked():
                self.wants_tls = True
            case ListAsked():
                self.session.list_exports(disk.export for disk in self._disks.values())
            case ExportAsked():
                found = self._disks.get(event.name)
                if found is None:
                    self.session.refuse(OptionReply.ERR_UNKNOWN, f"no export {event.name!r}")
                else:
                    self.session.offer(found.export)
            case Entered():
                self._disk, self._contexts = self._disks[event.export.name], event.contexts
            case Disconnected():
                self.has_ended = True

    @property
    def disk(self) -> NbdDisk:
        """The disk that was entered."""
        assert self._disk
        return self._disk

    def _serve(self, request: Request) -> None:
        replies, disk = self.session.replies, self.disk
        if request.command == Command.WRITE:
            self._payload = bytearray(request.length)
            if request.length % 2:  # both ways to take a payload
                self.session.receive_into(request, memoryview(self._payload))
            return
        failure = disk.fails(request.offset, request.length)
        if request.command == Command.READ:
            self._read(request, failure)
        elif failure:
            replies.fail(request, failure[1], "planted")
        elif request.command == Command.BLOCK_STATUS:
            for number, context in self._contexts.items():
                extents = disk.status(context, request.offset, request.length)
                replies.send_status(request, number, extents)
            replies.finish(request)
        elif request.command == Command.WRITE_ZEROES and request.flags & CommandFlag.FAST_ZERO:
            replies.fail(request, ErrorNumber.ENOTSUP)
        else:
            if request.command in (Command.WRITE_ZEROES, Command.TRIM):
                disk.write(request.offset, bytes(request.length))
            disk.flush_count += request.command == Command.FLUSH or request.is_fua
            replies.finish(request)

    def _read(self, request: Request, failure: tuple[int, ErrorNumber] | None) -> None:
        replies, disk = self.session.replies, self.disk
        end = request.offset + request.length
        if failure and not replies.may_fragment(request):
            replies.fail(request, failure[1], "planted")
            return
        if not replies.may_fragment(request):
            replies.send_read(request, bytes(disk.data[request.offset : end]))
            return
        parts = list(disk.parts(request.offset, request.length))
        if len(parts) == 1 and parts[0][2]:
            replies.send_zeros(request) if not failure else replies.fail(request, failure[1])
            return
        for offset, length, is_zero in reversed(parts):  # any order is allowed
            if is_zero:
                replies.send_hole(request, offset, length)
            else:
                replies.send_data(request, offset, bytes(disk.data[offset : offset + length]))
        if failure:
            replies.fail_at(request, failure[1], failure[0], "planted")
        replies.finish(request)

    def _write(self, request: Request) -> None:
        failure = self.disk.fails(request.offset, request.length)
        if failure:
            self.session.replies.fail(request, failure[1], "planted")
            return
        self.disk.write(request.offset, self._payload)
        self.disk.flush_count += request.is_fua
        self.session.replies.finish(request)


class NbdServer:
    """A server with a thread per connection on a Unix socket."""

    def __init__(
        self, path: Path, disks: list[NbdDisk], tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self.path = path
        self.disks = {one.export.name: one for one in disks}
        #: What clients have done that the protocol does not allow.
        self.violations: list[str] = []
        self._tls = tls
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            self._talk(stack.enter_context(plain), stack)

    def _talk(self, plain: socket.socket, stack: contextlib.ExitStack) -> None:
        connection = plain
        mode = TlsMode.REQUIRED if self._tls else TlsMode.NONE
        serving = Serving(ServerSession(f"NBD client of {self.path}", mode), self.disks)
        session = serving.session
        while True:
            try:
                serving.go_on()
            except DamagedDataError as err:
                self.violations.append(str(err))
                return
            output = session.take_output()
            for buffer in output:
                connection.sendall(buffer)
            if serving.wants_tls and self._tls:
                wrapped = self._tls().wrap_socket(connection, server_side=True)
                connection = stack.enter_context(wrapped)
                self._connections.append(connection)
                serving.wants_tls = False
                session.tls_started()
            elif serving.has_ended:
                return
            elif not output:
                received = connection.recv_into(session.buffer())
                if not received:
                    return
                session.received(received)


@contextlib.contextmanager
def nbd_server(
    path: Path, *disks: NbdDisk, tls: Callable[[], ssl.SSLContext] | None = None
) -> Iterator[NbdServer]:
    """A running server."""
    server = NbdServer(path, list(disks), tls)
    try:
        yield server
    finally:
        server.close()
