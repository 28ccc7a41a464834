"""The socket below a connection, with or without TLS. One thread receives while another sends."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence

from libs.nbd.streams import Bytes
from libs.nbd.tls import ENCRYPTED_SIZE_BYTES, PLAIN_SIZE_BYTES, TlsBuffers
from libs.spans.sockets import end, limit_blocking

#: Of one `sendmsg`; Linux takes 1024.
_BUFFERS_MAX = 512
_UNIX = "unix:"


class Wire:
    """Bytes to and from a server.

    Args:
        address: "unix:PATH" or "HOST:PORT".
        patience_seconds: longest wait of one call for the server.

    Raises:
        OSError: nobody answers there.
        ValueError: it is no address.
    """

    def __init__(self, address: str, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._tls: TlsBuffers | None = None
        if address.startswith(_UNIX):
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.settimeout(patience_seconds)
                self._socket.connect(address.removeprefix(_UNIX))
            except OSError:
                self._socket.close()
                raise
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=patience_seconds
            )
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_blocking(self._socket, patience_seconds)

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Do the client's handshake of TLS; everything goes through TLS from then on.

        Raises:
            SSLCertVerificationError: the server is not who it must be.
            OSError: the handshake fails.
        """
        tls = TlsBuffers.of_client(context, server_name)
        while not tls.shake_hands():
            self._socket.sendall(tls.take_encrypted())
            received = self._socket.recv(ENCRYPTED_SIZE_BYTES)
            if not received:
                raise ConnectionResetError("closed within the TLS handshake")
            tls.put_encrypted(received)
        self._socket.sendall(tls.take_encrypted())
        self._tls = tls

    def receive_into(self, buffer: memoryview, *, is_whole: bool) -> int:
        """Receive what has come, or wait for some. 0: the server has closed the connection.

        Args:
            buffer: where to.
            is_whole: whether all of it is expected, so that waiting for all costs no time.

        Raises:
            BlockingIOError: nothing came in time.
            OSError: the connection broke.
        """
        if self._tls is None:
            return self._socket.recv_into(buffer, 0, socket.MSG_WAITALL if is_whole else 0)
        while (count := self._tls.read_into(buffer)) is None:
            encrypted = self._socket.recv(ENCRYPTED_SIZE_BYTES)
            if not encrypted:
                return 0
            self._tls.put_encrypted(encrypted)
        return count

    def send(self, buffers: Sequence[Bytes], wait: Callable[[], None]) -> None:
        """Send all buffers in their order; one thread at a time.

        Args:
            buffers: what to send.
            wait: called while the server takes nothing; it returns when the server may take more.

        Raises:
            OSError: the connection broke.
        """
        left = [memoryview(buffer) for buffer in buffers]
        if self._tls is None:
            self._send_plain(left, wait)
            return
        for view in left:
            for begin in range(0, len(view), PLAIN_SIZE_BYTES):
                encrypted = self._tls.encrypt(view[begin : begin + PLAIN_SIZE_BYTES])
                self._send_plain([memoryview(encrypted)], wait)

    def fileno(self) -> int:
        """For `poll`."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection, also for a thread that waits for it."""
        with contextlib.suppress(OSError):
            end(self._socket)
        self._socket.close()

    def _send_plain(self, left: list[memoryview], wait: Callable[[], None]) -> None:
        at = 0
        while at < len(left):
            try:
                sent = self._socket.sendmsg(left[at : at + _BUFFERS_MAX], (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                wait()
                continue
            while at < len(left) and sent >= len(left[at]):
                sent -= len(left[at])
                at += 1
            if sent:
                left[at] = left[at][sent:]
