"""The span server: chunkers dial it and take the bytes that they want; a thread per connection."""

import contextlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable
from uuid import UUID

from libs.errors import BackcastError, ConfigurationError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import runs_of
from libs.runtime.threads import start_thread
from libs.spans.messages import (
    HELLO_SIZE_BYTES,
    MESSAGE_SIZE_BYTES_MAX,
    REQUEST_SIZE_BYTES,
    Kind,
    Reply,
    Request,
    Status,
    pack_reply,
    unpack_hello,
    unpack_request,
    unpack_reread,
    unpack_wanted,
)
from libs.spans.sockets import limit_blocking
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.window import Window

log = logging.getLogger(__name__)

#: A peer that has dialled must have said who it is within this time, however slowly it talks.
_HELLO_SECONDS_MAX = 10.0
#: A peer may be silent between requests while it compresses and uploads.
_IDLE_TIMEOUT_SECONDS = 600
#: Pause before the next connection when the process has no room for one.
_NO_ROOM_WAIT_SECONDS = 0.2
#: Connections at once; a chunker opens a few per capture.
_CONNECTION_COUNT_MAX = 256


class SpanServer:
    """Serves the spans of this agent's captures.

    Args:
        listen: "host:port"; port 0 takes a free one.
        window: where offered spans wait.
        find: finds a capture by its id.
        hello_seconds_max: a peer that has not said who it is by then is dropped.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """

    def __init__(
        self,
        listen: str,
        window: Window,
        find: Callable[[UUID], Capture | None],
        hello_seconds_max: float = _HELLO_SECONDS_MAX,
    ) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._listener = socket.create_server((host, int(port)), backlog=128)
        except (OSError, ValueError) as err:
            raise ConfigurationError(f"SPAN_LISTEN {listen!r}: cannot listen there: {err}") from err
        self.address = "{}:{}".format(*self._listener.getsockname()[:2])
        self._window = window
        self._find = find
        self._hello_seconds_max = hello_seconds_max
        self._closed = threading.Event()
        self._slots = threading.BoundedSemaphore(_CONNECTION_COUNT_MAX)
        start_thread("span-server", self._accept, daemon=True)

    def close(self) -> None:
        """Accept no more connections; those that there are end with their peers."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which closing does not
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            self._slots.acquire()
            try:
                peer, _ = self._listener.accept()
            except OSError as err:  # closed; or no file descriptor is left, which passes
                self._slots.release()
                if not self._closed.wait(_NO_ROOM_WAIT_SECONDS):
                    log.warning("no connection accepted", extra={"detail": str(err)})
                continue
            try:
                start_thread("span-peer", self._serve, peer, daemon=True)
            except RuntimeError as err:  # the system has no thread left, which passes
                log.warning("no connection accepted", extra={"detail": str(err)})
                peer.close()
                self._slots.release()
                self._closed.wait(_NO_ROOM_WAIT_SECONDS)

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, contextlib.suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(peer)
        except BackcastError as err:
            log.warning("span peer dropped", extra={"detail": str(err)})
        except Exception as err:  # it dials again; other peers have nothing to do with it
            log.critical("span peer dropped", exc_info=err)
        finally:
            self._slots.release()

    def _converse(self, peer: socket.socket) -> None:
        raw = _receive(peer, HELLO_SIZE_BYTES, time.monotonic() + self._hello_seconds_max)
        if raw is None:
            return
        hello = unpack_hello(raw)
        capture = self._find(hello.capture)
        if capture is None or not hmac.compare_digest(hello.token, capture.order.token):
            what = f"capture {hello.capture}: not known here, or a wrong token"
            _refuse(peer, Status.REFUSED, what)
            return
        if hello.boot != capture.boot:
            what = f"capture {hello.capture}: begun before the agent was restarted"
            _refuse(peer, Status.REFUSED, f"{what}; take the snapshot again")
            return
        peer.sendall(pack_reply(Reply(Status.OK, 0)))
        limit_blocking(peer, _IDLE_TIMEOUT_SECONDS)
        while raw := _receive(peer, REQUEST_SIZE_BYTES):
            request = unpack_request(raw)
            body = _receive(peer, request.body_size_bytes) if request.body_size_bytes else b""
            if body is None:
                return
            capture.touch()
            if request.kind is Kind.REREAD:
                self._reread(peer, capture, body)
            else:
                self._hand_out(peer, capture, request, body)

    def _hand_out(
        self, peer: socket.socket, capture: Capture, request: Request, body: bytes
    ) -> None:
        buffer = self._window.claim(capture.order.capture, request.batch)
        try:
            if request.kind is Kind.DROP:
                return
            if buffer is None:
                peer.sendall(pack_reply(Reply(Status.GONE, 0)))
                return
            wanted = unpack_wanted(request, body)
            peer.sendall(pack_reply(Reply(Status.OK, len(wanted) * CHUNK_SIZE_BYTES)))
            for run in runs_of(wanted):  # neighbours go out in one call
                peer.sendall(buffer[run.first * CHUNK_SIZE_BYTES : run.end * CHUNK_SIZE_BYTES])
        finally:
            if buffer is not None:
                self._window.give_back(buffer)

    def _reread(self, peer: socket.socket, capture: Capture, body: bytes) -> None:
        runs = unpack_reread(body, -(-capture.view.size_bytes // CHUNK_SIZE_BYTES))
        buffer = bytearray(sum(run.count for run in runs) * CHUNK_SIZE_BYTES)
        view, fill = memoryview(buffer), 0
        try:
            for run in runs:
                length = run.count * CHUNK_SIZE_BYTES
                capture.view.read_into(run.first * CHUNK_SIZE_BYTES, view[fill : fill + length])
                fill += length
        except BackcastError as err:
            _refuse(peer, Status.FAILED, str(err))
            return
        peer.sendall(pack_reply(Reply(Status.OK, fill)))
        peer.sendall(buffer)


def _refuse(peer: socket.socket, status: Status, message: str) -> None:
    text = message.encode()[:MESSAGE_SIZE_BYTES_MAX]
    peer.sendall(pack_reply(Reply(status, len(text))) + text)


def _receive(peer: socket.socket, size: int, deadline: float | None = None) -> bytes | None:
    """Exactly ``size`` bytes, or None when the peer has closed the connection.

    Args:
        peer: where they come from.
        size: how many.
        deadline: monotonic time by which all of them must be there; by default each read may take
            the socket's timeout.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        if deadline is not None:
            peer.settimeout(max(deadline - time.monotonic(), 0.001))  # 0 would mean: do not wait
        got = peer.recv_into(view)
        if got == 0:
            return None
        view = view[got:]
    return bytes(buffer)
