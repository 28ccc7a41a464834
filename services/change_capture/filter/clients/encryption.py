"""TLS on the socket of a filter's client; one thread uses it."""

import contextlib
import socket
import ssl
import time

from libs.nbd.streams import Bytes
from libs.nbd.tls import ENCRYPTED_SIZE_BYTES, PLAIN_SIZE_BYTES, TlsBuffers


class EncryptedSocket:
    """A client's socket with TLS on it, from the end of the handshake on.

    Args:
        peer: a blocking socket with a time limit of receiving; its owner closes it.
        context: what the client is shown, and whether it must show a certificate.
        until: when the handshake must be over, by the monotonic clock.

    Raises:
        SSLError: the client is not who it must be, or speaks no TLS.
        OSError: the connection broke, or the time is over.
    """

    def __init__(self, peer: socket.socket, context: ssl.SSLContext, until: float) -> None:
        self._peer = peer
        self._encrypted = memoryview(bytearray(ENCRYPTED_SIZE_BYTES))
        self._tls = TlsBuffers.of_server(context)
        try:
            while not self._tls.shake_hands():
                peer.sendall(self._tls.take_encrypted())
                with contextlib.suppress(BlockingIOError):
                    if not self._fill():
                        raise ConnectionResetError("closed within the TLS handshake")
                if time.monotonic() > until:
                    raise TimeoutError("the TLS handshake takes too long")
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                peer.sendall(self._tls.take_encrypted())  # tells the client why
            raise
        peer.sendall(self._tls.take_encrypted())

    @property
    def peer_name(self) -> str:
        """The subject of the client's certificate; empty if it has shown none."""
        return self._tls.peer_name

    def recv_into(self, buffer: memoryview, _count: int = 0, _flags: int = 0) -> int:
        """Receive what has come, as a socket does; waits if there is nothing. 0: the end.

        Raises:
            BlockingIOError: nothing came within the socket's time limit.
            OSError: the connection broke, or what came is not what the client sent.
        """
        while (count := self._tls.read_into(buffer)) is None:
            if not self._fill():
                return 0
        return count

    def send(self, buffers: list[Bytes]) -> None:
        """Send buffers in their order, however long the client takes.

        Raises:
            OSError: the connection broke.
        """
        small: list[Bytes] = []
        size = 0
        for buffer in buffers:
            if size + len(buffer) > PLAIN_SIZE_BYTES:
                self._send_small(small)
                small, size = [], 0
            if len(buffer) > PLAIN_SIZE_BYTES:
                self._send_long(memoryview(buffer))
            else:
                small.append(buffer)
                size += len(buffer)
        self._send_small(small)

    def _send_long(self, buffer: memoryview) -> None:
        for begin in range(0, len(buffer), PLAIN_SIZE_BYTES):
            self._peer.sendall(self._tls.encrypt(buffer[begin : begin + PLAIN_SIZE_BYTES]))

    def _send_small(self, buffers: list[Bytes]) -> None:
        """Headers and short replies as one record each would cost a call and 22 bytes apiece."""
        if buffers:
            self._peer.sendall(self._tls.encrypt(b"".join(buffers)))

    def _fill(self) -> bool:
        received = self._peer.recv_into(self._encrypted)
        self._tls.put_encrypted(self._encrypted[:received])
        return received > 0
