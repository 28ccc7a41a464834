"""Blocking sockets whose time limits the kernel keeps: one system call moves a whole MiB.

Python's own socket timeouts make the socket non-blocking, and each 100 KiB that arrives then costs
a poll, a call, and two changes of the interpreter's lock.

TLS is a layer above such a socket (`TlsClient`). OpenSSL would read each record of 16 KiB by two
system calls of its own, and would take the kernel's time limit for a reason to call again. Fed from
a buffer of 256 KiB, the receiving end takes 0.9 s of CPU for a GiB instead of 1.2 s.
"""

import contextlib
import socket
import ssl
import struct
import time
from typing import cast

_TIMEVAL = struct.Struct("@ll")
#: Encrypted bytes that are taken from the kernel at once.
_ENCRYPTED_SIZE_BYTES = 256 << 10


def limit_blocking(sock: socket.socket, seconds: float) -> None:
    """Make the socket blocking; a call that waits longer than that raises BlockingIOError.

    A receiving call that got some bytes by then returns those (`socket(7)`, SO_RCVTIMEO). A socket
    that is TLS itself, as those of servers are, gets Python's timeout, and raises TimeoutError.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    limit_receiving(sock, seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))


def limit_receiving(sock: socket.socket, seconds: float) -> None:
    """Make the socket blocking; only a receiving call raises BlockingIOError after so long."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return _TIMEVAL.pack(whole, int((seconds - whole) * 1e6) or 1)  # zero would mean: for ever


def end(sock: socket.socket) -> None:
    """End a connection, also for a thread that waits for it; `close` alone wakes nobody.

    Raises:
        OSError: it has ended already.
    """
    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of TLS sockets makes them speak plainly


class TlsClient:
    """The client's end of TLS on a blocking socket. One thread uses it at a time.

    Args:
        sock: connected; its owner closes it.
        context: whom to trust.
        server_name: name that the server's certificate must have.
        seconds_max: for the whole handshake.

    Raises:
        SSLCertVerificationError: the server is not who it must be.
        OSError: the handshake fails.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_name: str, seconds_max: float
    ) -> None:
        self._sock = sock
        self._encrypted = memoryview(bytearray(_ENCRYPTED_SIZE_BYTES))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if time.monotonic() > deadline:
                    raise TimeoutError("the TLS handshake takes too long") from None
                if not self._fill():
                    raise ConnectionResetError("closed within the TLS handshake") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # tells the server why
                raise
            else:
                break
        self._flush()

    def sendall(self, message: bytes) -> None:
        """Send a small message."""
        self._tls.write(message)
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Receive what has come, as far as the buffer goes; waits if there is nothing. 0: the end.

        Raises:
            OSError: the connection broke, or what came is not what the server sent.
        """
        done = 0
        while done < len(buffer):
            try:
                done += cast("int", self._tls.read(len(buffer) - done, buffer[done:]))
            except ssl.SSLWantReadError:
                if done or not self._fill():
                    return done
            except ssl.SSLZeroReturnError:
                return done
        return done

    @property
    def has_more(self) -> bool:
        """Whether something has come that was not received."""
        return bool(self._incoming.pending or self._tls.pending())

    def _fill(self) -> bool:
        received = self._sock.recv_into(self._encrypted)
        self._incoming.write(self._encrypted[:received])
        return received > 0

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())
