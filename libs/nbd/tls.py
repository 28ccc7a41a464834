"""TLS as bytes in, bytes out, for either end of a connection."""

import ssl
import threading
from typing import Self, cast

#: Encrypted bytes that are taken from the kernel at once.
ENCRYPTED_SIZE_BYTES = 256 << 10
#: Plain bytes that are encrypted at once.
PLAIN_SIZE_BYTES = 256 << 10


class TlsBuffers:
    """TLS between two buffers. OpenSSL's object is not for two threads, so each use is locked.

    Args:
        context: of the right end.
        is_server: whether this is the server's end.
        server_name: that the server's certificate must have; of the client's end.
    """

    def __init__(
        self, context: ssl.SSLContext, *, is_server: bool, server_name: str | None
    ) -> None:
        self._lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, is_server, server_name)

    @classmethod
    def of_client(cls, context: ssl.SSLContext, server_name: str) -> Self:
        """The client's end, which verifies the server's name."""
        return cls(context, is_server=False, server_name=server_name)

    @classmethod
    def of_server(cls, context: ssl.SSLContext) -> Self:
        """The server's end."""
        return cls(context, is_server=True, server_name=None)

    def shake_hands(self) -> bool:
        """Whether the handshake is over; if not, more must be exchanged.

        Raises:
            SSLError: the other end is not who it must be, or speaks no TLS. What is to be sent
                tells it why.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    @property
    def peer_name(self) -> str:
        """The subject of the other end's certificate; empty if it has shown none."""
        subject = (self._tls.getpeercert() or {}).get("subject", ())
        pairs = (
            pair for names in cast("tuple[tuple[tuple[str, str], ...]]", subject) for pair in names
        )
        return ", ".join(f"{key}={value}" for key, value in pairs)

    def put_encrypted(self, data: bytes | memoryview) -> None:
        """What the other end has sent."""
        with self._lock:
            self._incoming.write(data)

    def take_encrypted(self) -> bytes:
        """What is to be sent to the other end."""
        with self._lock:
            return self._outgoing.read()

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Bytes for the other end, as they are to be sent."""
        with self._lock:
            self._tls.write(data)
            return self._outgoing.read()

    def read_into(self, buffer: memoryview) -> int | None:
        """What the other end has said, as far as it goes; None if more must come; 0: the end."""
        done = 0
        with self._lock:
            while done < len(buffer):
                try:
                    count = cast("int", self._tls.read(len(buffer) - done, buffer[done:]))
                except ssl.SSLWantReadError:
                    return done or None
                except ssl.SSLZeroReturnError:
                    return done
                if not count:
                    return done
                done += count
        return done
