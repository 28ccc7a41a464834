"""One client's connection: a thread that receives, works and sends.

What has come is worked on as one batch: requests in their order, replies sent together. In between
the thread holds nothing but its buffer. Writes of a batch are done inside the valve; receiving and
sending, which may take a client as long as it likes, are outside of it.

Blocking calls in a thread cost less than any event loop here: a request that the page cache answers
takes three system calls (ADR 15).
"""

import errno
import logging
import socket
import time
from collections.abc import Callable

from libs.errors import DamagedDataError
from libs.nbd.export import Export
from libs.nbd.layout import Command, CommandFlag, OptionReply, error_of_errno
from libs.nbd.server.events import (
    Disconnected,
    Event,
    ExportAsked,
    ListAsked,
    PayloadReceived,
    Request,
    StandingSession,
    TlsAsked,
)
from libs.nbd.server.session import ServerSession
from libs.nbd.streams import Bytes
from libs.runtime.buffers import large_buffer
from libs.runtime.tls import ServerTls
from services.change_capture.filter.clients.encryption import EncryptedSocket
from services.change_capture.filter.clients.traffic import Traffic
from services.change_capture.filter.valve import Passage
from services.change_capture.filter.volume import FilteredVolume

log = logging.getLogger(__name__)

#: Longest payload of one request.
PAYLOAD_SIZE_BYTES_MAX = 8 << 20
#: When the payloads of a batch are this long together, its replies are sent.
BATCH_SIZE_BYTES = 1 << 20
#: A client gets so long from its connection to the end of the handshakes of NBD and TLS.
HANDSHAKE_SECONDS_MAX = 30.0
#: Of one `sendmsg`; Linux takes 1024.
_BUFFERS_MAX = 512
#: O_DIRECT wants pages.
_PAGE = 4096 - 1

Work = Callable[[], None]


class Pause:
    """Asks connections to stop at their next quiet moment. One thread asks, all others look."""

    def __init__(self) -> None:
        self.is_asked = False
        #: Handshakes may go on until then, by the monotonic clock.
        self.handshakes_until = 0.0

    def begin(self, handshake_seconds: float) -> None:
        """Ask."""
        self.handshakes_until = time.monotonic() + handshake_seconds
        self.is_asked = True

    def end(self) -> None:
        """Connections may serve again."""
        self.is_asked = False


class Connection:
    """Serves one client until it leaves or breaks the protocol; used by one thread.

    Its memory is bounded: `BATCH_SIZE_BYTES` and one payload, and what a session of NBD holds.
    Pages that no client made it touch are not resident.

    Args:
        name: of the client, in the log.
        peer: a blocking socket with a time limit of receiving (SO_RCVTIMEO), after which
            ``pause`` is looked at.
        session: of NBD, at its beginning or taken over.
        volume: what is served.
        export: as it is offered. The empty name, which is the default export, stands for it too.
        pause: whether to stop at the next quiet moment.
        tls: what the client is shown if it asks for TLS.
    """

    def __init__(  # noqa: PLR0913 -- one client's surroundings
        self,
        name: str,
        peer: socket.socket,
        session: ServerSession,
        volume: FilteredVolume,
        export: Export,
        pause: "Pause",
        tls: ServerTls | None = None,
    ) -> None:
        self.name = name
        self.socket = peer
        self._tls = tls
        #: What it has asked for until now.
        self.traffic = Traffic()
        #: Where bytes come from and go to: the socket, or TLS on it.
        self._wire: socket.socket | EncryptedSocket = peer
        self._handshake_until = time.monotonic() + HANDSHAKE_SECONDS_MAX
        self.session = session
        self._volume = volume
        self._export = export
        self._pause = pause
        #: While it is served.
        self._passage: Passage
        self._arena = memoryview(large_buffer(BATCH_SIZE_BYTES + PAYLOAD_SIZE_BYTES_MAX))
        self._used = 0
        self._payload = self._arena[:0]
        self._is_receiving_payload = False
        #: Requests of the batch that have to wait for the disk, and how each is done.
        self._waiting: list[tuple[Request, Work, memoryview | None]] = []
        self._has_ended = False

    def serve(self) -> None:
        """Serve until the client leaves, breaks the protocol, or a pause begins.

        May be called again after a pause.

        Raises:
            DamagedDataError: the client breaks the protocol.
            OSError: the connection broke.
        """
        session, pause = self.session, self._pause
        self._passage = self._volume.valve.passage()
        try:
            while not self._has_ended:
                self._work()
                if pause.is_asked and self._may_stop():
                    return
                if not session.can_receive:
                    continue
                try:
                    # Of a payload all is expected, and one call for it costs the least.
                    flags = socket.MSG_WAITALL if self._is_receiving_payload else 0
                    count = self._wire.recv_into(session.buffer(), 0, flags)
                except BlockingIOError:  # nothing came within the socket's time limit
                    self._check_handshake()
                    continue
                if not count:
                    return
                session.received(count)
                self._check_handshake()
        finally:
            self._volume.valve.remove(self._passage)

    @property
    def standing(self) -> StandingSession | None:
        """What a successor needs to go on with it; None: it cannot, as with TLS."""
        return None if isinstance(self._wire, EncryptedSocket) else self.session.standing()

    @property
    def has_ended(self) -> bool:
        """Whether the client has said goodbye."""
        return self._has_ended

    def _check_handshake(self) -> None:
        """Give up on a client that keeps a place and does not enter the export.

        Raises:
            DamagedDataError: its time is over.
        """
        if not self.session.is_entered and time.monotonic() > self._handshake_until:
            raise DamagedDataError(
                f"{self.name}: handshake: expected its end within {HANDSHAKE_SECONDS_MAX:g} s, got "
                f"nothing more"
            )

    def _may_stop(self) -> bool:
        """Whether this is a quiet moment, or the time of the pause for handshakes is over."""
        if self.session.is_entered:
            return self.session.standing() is not None
        return time.monotonic() >= self._pause.handshakes_until

    def _work(self) -> None:
        """Do all that has come, and send the replies."""
        next_event = self.session.next_event
        passage = self._passage
        try:
            while (event := next_event()) is not None:
                if type(event) is Request:
                    self._begin(event)
                elif type(event) is PayloadReceived:
                    self._is_receiving_payload = False
                    self._write(event.request)
                else:
                    self._shake_hands(event)
                if self._used > BATCH_SIZE_BYTES and not self._is_receiving_payload:
                    self._end_batch()
            self._end_batch()
        finally:
            if passage.is_inside:
                passage.leave()

    def _end_batch(self) -> None:
        """Do what waits for the disk, and send all replies."""
        if self._waiting:
            self._wait_for_disk()
        if self._passage.is_inside:
            self._passage.leave()
        output = self.session.take_output()
        if output:
            self._send(output)
        if not self._is_receiving_payload:
            self._used = 0

    def _send(self, output: list[Bytes]) -> None:
        if isinstance(self._wire, EncryptedSocket):
            self._wire.send(output)
        else:
            send_all(self._wire, output)

    def _room(self, length: int) -> memoryview:
        at = self._used
        self._used = (at + length + _PAGE) & ~_PAGE
        return self._arena[at : at + length]

    def _begin(self, request: Request) -> None:
        command = request.command
        self.traffic.requests[command] += 1
        self.traffic.sizes_bytes[command] += request.length
        if command == Command.WRITE:
            self._payload = self._room(request.length)
            self._is_receiving_payload = True
            self.session.receive_into(request, self._payload)
        elif command == Command.READ:
            self._read(request)
        else:
            self._do(request, self._work_of(request))

    def _read(self, request: Request) -> None:
        buffer, disk = self._room(request.length), self._volume.disk
        try:
            is_filled = disk.read_cached(request.offset, buffer)
        except OSError as err:
            self._fail(request, err)
            return
        if is_filled:
            self.session.replies.send_read(request, buffer)
        else:
            offset = request.offset
            self._waiting.append((request, lambda: disk.read(offset, buffer), buffer))

    def _write(self, request: Request) -> None:
        if not self._passage.is_inside:
            self._passage.enter()
        payload, volume = self._payload, self._volume
        if volume.disk.pool is None and not request.flags:
            try:
                volume.write(request.offset, payload)
            except OSError as err:
                self._fail(request, err)
            else:
                self.session.replies.finish(request)
            return
        work = self._flushed(request, lambda: volume.write(request.offset, payload))
        if volume.disk.pool is None:
            self._do(request, work)
        else:
            self._waiting.append((request, work, None))

    def _work_of(self, request: Request) -> Work:
        """What a request without a payload does."""
        volume, offset, length = self._volume, request.offset, request.length
        match request.command:
            case Command.FLUSH:
                return volume.disk.flush
            case Command.TRIM:
                self._enter()
                return self._flushed(request, lambda: volume.trim(offset, length))
            case Command.WRITE_ZEROES:
                self._enter()
                may_deallocate = not request.flags & CommandFlag.NO_HOLE
                return self._flushed(
                    request, lambda: volume.zero(offset, length, may_deallocate=may_deallocate)
                )
            case Command.BLOCK_STATUS:
                return lambda: self.session.replies.send_status(
                    request, 1, volume.disk.extents(offset, length)
                )
        raise OSError(errno.EINVAL, f"{request!r} is not served")

    def _enter(self) -> None:
        if not self._passage.is_inside:
            self._passage.enter()

    def _flushed(self, request: Request, work: Work) -> Work:
        """A write, and with FUA what makes it durable."""
        if not request.is_fua:
            return work

        def do() -> None:
            work()
            self._volume.disk.flush()

        return do

    def _do(self, request: Request, work: Work) -> None:
        try:
            work()
        except OSError as err:
            self._fail(request, err)
        else:
            self.session.replies.finish(request)

    def _wait_for_disk(self) -> None:
        """Reads that the kernel fetches already, or, past the page cache, all at once."""
        waiting, self._waiting = self._waiting, []
        pool = self._volume.disk.pool
        if pool is None or len(waiting) == 1:
            results = [_outcome(work) for _, work, _ in waiting]
        else:
            results = list(pool.map(_outcome, [work for _, work, _ in waiting]))
        for (request, _, buffer), err in zip(waiting, results, strict=True):
            if err is not None:
                self._fail(request, err)
            elif buffer is not None:
                self.session.replies.send_read(request, buffer)
            else:
                self.session.replies.finish(request)

    def _fail(self, request: Request, err: OSError) -> None:
        number = err.errno or errno.EIO
        self.traffic.failed += 1
        log.warning("request failed", extra={"what": repr(request), "detail": str(err)})
        self.session.replies.fail(request, error_of_errno(number), err.strerror or "")

    def _shake_hands(self, event: Event) -> None:
        session, export = self.session, self._export
        match event:
            case TlsAsked():
                assert self._tls is not None, "TLS is granted where there is a certificate"
                send_all(self.socket, session.take_output())
                self._wire = EncryptedSocket(
                    self.socket, self._tls.current(), self._handshake_until
                )
                log.info("TLS", extra={"client": self.name, "who": self._wire.peer_name})
                session.tls_started()
            case ListAsked():
                session.list_exports([export])
            case ExportAsked():
                if event.name in (export.name, ""):
                    session.offer(export)
                else:
                    message = f"no export {event.name!r}; this filter serves {export.name!r}"
                    session.refuse(OptionReply.ERR_UNKNOWN, message)
            case Disconnected():
                self._has_ended = True


def _outcome(work: Work) -> OSError | None:
    try:
        work()
    except OSError as err:
        return err
    return None


def send_all(peer: socket.socket, buffers: list[Bytes]) -> None:
    """Send buffers in their order, however long the client takes.

    Raises:
        OSError: the connection broke.
    """
    for begin in range(0, len(buffers), _BUFFERS_MAX):
        some = buffers[begin : begin + _BUFFERS_MAX]
        left = sum(map(len, some))
        sent = peer.sendmsg(some)
        if sent == left:
            continue
        for buffer in some:
            if sent < len(buffer):
                peer.sendall(memoryview(buffer)[sent:])
            sent = max(0, sent - len(buffer))
