"""The span server: chunkers dial it and take the bytes that they want; a thread per peer.

A connection becomes a peer by its hello. Before that it costs no thread and no place, see
`services.change_capture.agent.spans.newcomers`.
"""

import contextlib
import hmac
import logging
import socket
from collections.abc import Callable
from uuid import UUID

from libs.errors import BackcastError, ConfigurationError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import runs_of
from libs.runtime.threads import start_thread
from libs.runtime.tls import ServerTls
from libs.spans.messages import (
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
from services.change_capture.agent.spans.limits import SpanLimits
from services.change_capture.agent.spans.newcomers import Newcomers
from services.change_capture.agent.spans.peers import Peer, Peers
from services.change_capture.agent.window import Window

log = logging.getLogger(__name__)


class SpanServer:
    """Serves the spans of this agent's captures.

    Args:
        listen: "host:port"; port 0 takes a free one.
        window: where offered spans wait.
        find: finds a capture by its id, and does not block.
        tls: what chunkers are shown; None: they are spoken to without TLS.
        limits: of its connections; those of this process if None.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """

    def __init__(
        self,
        listen: str,
        window: Window,
        find: Callable[[UUID], Capture | None],
        tls: ServerTls | None = None,
        limits: SpanLimits | None = None,
    ) -> None:
        host, _, port = listen.rpartition(":")
        try:
            listener = socket.create_server((host, int(port)), backlog=1024)
        except (OSError, ValueError) as err:
            raise ConfigurationError(f"SPAN_LISTEN {listen!r}: cannot listen there: {err}") from err
        self.address = "{}:{}".format(*listener.getsockname()[:2])
        self._window = window
        self._find = find
        self._limits = limits or SpanLimits.of_this_process()
        self._peers = Peers(self._limits)
        self._newcomers = Newcomers(listener, self._limits, self._admit, tls)
        start_thread("span-server", self._newcomers.run, daemon=True)

    def close(self) -> None:
        """Accept no more connections; those that there are end with their peers."""
        self._newcomers.close()

    def _admit(self, connection: socket.socket, raw: bytes) -> None:
        """Give a newcomer a thread if its hello names a capture and its token. Never blocks."""
        try:
            capture = self._capture_for(connection, raw)
            peer = self._peers.enter(connection, capture.order.capture) if capture else None
            if capture is None or peer is None:
                connection.close()
                if capture:
                    log.warning("span peer dropped", extra={"detail": "there is no place for it"})
                return
            try:
                start_thread("span-peer", self._serve, peer, capture, daemon=True)
            except RuntimeError as err:  # the system has no thread left, which passes
                log.warning("span peer dropped", extra={"detail": str(err)})
                self._peers.leave(peer)
                connection.close()
        except BackcastError as err:
            log.warning("span peer dropped", extra={"detail": str(err)})
            connection.close()

    def _capture_for(self, connection: socket.socket, raw: bytes) -> Capture | None:
        """The capture whose token a hello shows; None: the peer was told what is wrong with it.

        Raises:
            DamagedDataError: it is no hello.
        """
        hello = unpack_hello(raw)
        capture = self._find(hello.capture)
        if capture is None or not hmac.compare_digest(hello.token, capture.order.token):
            what = f"capture {hello.capture}: not known here, or a wrong token"
        elif hello.boot != capture.boot:
            what = f"capture {hello.capture}: begun before the agent was restarted"
            what += "; take the snapshot again"
        else:
            return capture
        with contextlib.suppress(OSError):  # nothing else was sent, so it fits into the buffer
            connection.send(_refusal(Status.REFUSED, what))
        return None

    def _serve(self, peer: Peer, capture: Capture) -> None:
        try:
            with contextlib.suppress(OSError):
                peer.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                limit_blocking(peer.connection, self._limits.idle_seconds_max)
                self._converse(peer, capture)
        except BackcastError as err:
            log.warning("span peer dropped", extra={"detail": str(err)})
        except Exception as err:  # it dials again; other peers have nothing to do with it
            log.critical("span peer dropped", exc_info=err)
        finally:
            self._peers.leave(peer)  # before it is closed: who must make room is still open
            peer.connection.close()

    def _converse(self, peer: Peer, capture: Capture) -> None:
        connection = peer.connection
        connection.sendall(pack_reply(Reply(Status.OK, 0)))
        while raw := _receive(connection, REQUEST_SIZE_BYTES):
            request = unpack_request(raw)
            size_bytes = request.body_size_bytes
            body = _receive(connection, size_bytes) if size_bytes else b""
            if body is None or not self._peers.work(peer):
                return
            capture.touch()
            if request.kind is Kind.REREAD:
                self._reread(connection, capture, body)
            else:
                self._hand_out(connection, capture, request, body)
            self._peers.rest(peer)

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
            peer.sendall(_refusal(Status.FAILED, str(err)))
            return
        peer.sendall(pack_reply(Reply(Status.OK, fill)))
        peer.sendall(buffer)


def _refusal(status: Status, message: str) -> bytes:
    text = message.encode()[:MESSAGE_SIZE_BYTES_MAX]
    return pack_reply(Reply(status, len(text))) + text


def _receive(peer: socket.socket, size: int) -> bytes | None:
    """Exactly ``size`` bytes, or None when the peer has closed the connection."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = peer.recv_into(view)
        if got == 0:
            return None
        view = view[got:]
    return bytes(buffer)
