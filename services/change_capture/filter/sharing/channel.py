"""A connection between the filters of two nodes on which every message proves who sent it.

Numbers of chunks cross it, never bytes of a volume. What must not happen is that somebody else says
"saved". So each message carries a MAC by a key that only the nodes of one attempt at one barrier
have, over its direction and its position; a message that was altered, repeated, left out or brought
from another connection ends the connection.

Bytes, all integers big-endian:

    lead:      magic 8 | nonce 16
    follower:  nonce 16 | length 4 | Hello | MAC 16      by the key of the cut
    both:      length 4 | length 4 | message | bytes that belong to it | MAC 16
               by a key made of the key of the cut and both nonces
"""

import hashlib
import hmac
import os
import socket
import struct
import time

import msgspec

from libs.errors import DamagedDataError
from services.change_capture.filter.messages import UNREADABLE
from services.change_capture.filter.sharing.messages import Hello, Message

#: Bytes of the key of a cut.
KEY_SIZE_BYTES = 32
_MAGIC = b"BCSHARE1"
_NONCE_SIZE_BYTES = 16
_MAC_SIZE_BYTES = 16
_HELLO_SIZE_BYTES_MAX = 1024
_MESSAGE_SIZE_BYTES_MAX = 64 << 10
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">II")

_messages: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_hellos = msgspec.msgpack.Decoder(Hello)
_encoder = msgspec.msgpack.Encoder()


class Channel:
    """One end of an authenticated connection. Each direction is used by one thread at a time.

    Args:
        connection: connected; the channel's.
        key: of this connection.
        is_lead: which end this is.
    """

    def __init__(self, connection: socket.socket, key: bytes, *, is_lead: bool) -> None:
        self.connection = connection
        self._key = key
        self._ours, self._theirs = (b"L", b"F") if is_lead else (b"F", b"L")
        self._sent = self._received = 0

    def send(self, message: Message, content: bytes = b"") -> None:
        """Send a message, and bytes that belong to it.

        Raises:
            OSError: the connection broke, or takes nothing within its time limit.
        """
        packed = _encoder.encode(message)
        head = _HEAD.pack(len(packed), len(content))
        mac = _mac(self._key, self._ours, self._sent, head, packed, content)
        self._sent += 1
        self.connection.sendall(b"".join((head, packed, content, mac)))

    def receive(
        self, seconds: float | None, content_size_bytes_max: int = 0
    ) -> tuple[Message, bytes]:
        """The next message, and bytes that belong to it.

        Args:
            seconds: for all of it; None: it may take as long as it likes.
            content_size_bytes_max: bytes that may belong to it.

        Raises:
            DamagedDataError: what came is not what the other end has sent here.
            OSError: the connection broke or ended, or the time is over.
        """
        until = None if seconds is None else time.monotonic() + seconds
        head = _exactly(self.connection, _HEAD.size, until)
        size, content_size = _HEAD.unpack(head)
        if size > _MESSAGE_SIZE_BYTES_MAX or content_size > content_size_bytes_max:
            raise DamagedDataError(
                f"channel of a shared disk: expected a message of {_MESSAGE_SIZE_BYTES_MAX} bytes "
                f"at most with {content_size_bytes_max}, got {size} with {content_size}"
            )
        packed = _exactly(self.connection, size, until)
        content = _exactly(self.connection, content_size, until)
        mac = _exactly(self.connection, _MAC_SIZE_BYTES, until)
        expected = _mac(self._key, self._theirs, self._received, head, packed, content)
        if not hmac.compare_digest(mac, expected):
            raise DamagedDataError("channel of a shared disk: a message is not authentic")
        self._received += 1
        try:
            return _messages.decode(packed), content
        except UNREADABLE as err:
            raise DamagedDataError(f"channel of a shared disk: no message: {err}") from err


def greet(connection: socket.socket, key: bytes, hello: Hello, seconds: float) -> Channel:
    """Begin a follower's end.

    Raises:
        DamagedDataError: the other end is no lead.
        OSError: the connection broke, or the time is over.
    """
    first = _exactly(connection, len(_MAGIC) + _NONCE_SIZE_BYTES, time.monotonic() + seconds)
    if not first.startswith(_MAGIC):
        raise DamagedDataError(f"channel of a shared disk: expected {_MAGIC!r}, got {first[:8]!r}")
    theirs, ours = first[len(_MAGIC) :], os.urandom(_NONCE_SIZE_BYTES)
    packed = _encoder.encode(hello)
    mac = _mac(key, b"hello", 0, theirs, ours, packed)
    connection.sendall(ours + _LENGTH.pack(len(packed)) + packed + mac)
    return Channel(connection, _key_of(key, theirs, ours), is_lead=False)


class Greeting:
    """A lead's end before it knows who has connected.

    Args:
        connection: just accepted.
        seconds: for what the other end says first.

    Raises:
        DamagedDataError: what it says is no hello.
        OSError: the connection broke, or the time is over.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._ours = os.urandom(_NONCE_SIZE_BYTES)
        connection.sendall(_MAGIC + self._ours)
        until = time.monotonic() + seconds
        self._theirs = _exactly(connection, _NONCE_SIZE_BYTES, until)
        (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, until))
        if size > _HELLO_SIZE_BYTES_MAX:
            raise DamagedDataError(
                f"channel of a shared disk: expected a hello of {_HELLO_SIZE_BYTES_MAX} bytes at "
                f"most, got {size}"
            )
        self._packed = _exactly(connection, size, until)
        self._proof = _exactly(connection, _MAC_SIZE_BYTES, until)
        try:
            #: Whoever connected says so; nothing is proven before `accept`.
            self.hello = _hellos.decode(self._packed)
        except UNREADABLE as err:
            raise DamagedDataError(f"channel of a shared disk: no hello: {err}") from err

    def accept(self, key: bytes) -> Channel:
        """Go on, if whoever connected has the key of the cut that it names.

        Raises:
            DamagedDataError: it has not.
        """
        expected = _mac(key, b"hello", 0, self._ours, self._theirs, self._packed)
        if not hmac.compare_digest(self._proof, expected):
            raise DamagedDataError("channel of a shared disk: the hello is not authentic")
        return Channel(self._connection, _key_of(key, self._ours, self._theirs), is_lead=True)


def _mac(key: bytes, direction: bytes, position: int, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(key=key, digest_size=_MAC_SIZE_BYTES)
    digest.update(direction + position.to_bytes(8, "big"))
    for part in parts:
        digest.update(part)
    return digest.digest()


def _key_of(key: bytes, lead_nonce: bytes, follower_nonce: bytes) -> bytes:
    digest = hashlib.blake2b(key=key, digest_size=KEY_SIZE_BYTES, person=b"channel")
    digest.update(lead_nonce + follower_nonce)
    return digest.digest()


def _exactly(connection: socket.socket, size: int, until: float | None) -> bytes:
    """So many bytes.

    Raises:
        OSError: the connection broke or ended, or the time is over.
    """
    received = bytearray()
    while len(received) < size:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("it does not answer")
            connection.settimeout(left)
        else:
            connection.settimeout(None)
        piece = connection.recv(min(size - len(received), 1 << 20))
        if not piece:
            raise ConnectionResetError("it has closed the connection")
        received += piece
    return bytes(received)
