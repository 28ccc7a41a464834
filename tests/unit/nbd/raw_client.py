"""A client that says what it likes to our server's session."""

import struct

from libs.nbd.layout import (
    OPTION_REPLY,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    Option,
)
from libs.nbd.options import pack_info_request, pack_option
from libs.nbd.server.events import TlsMode
from libs.nbd.server.session import ServerSession
from tests.support.nbd_serving import NbdDisk, Serving, disk

FLAGS = struct.pack(">I", 3)
GO = pack_option(Option.GO, pack_info_request("disk", []))
STRUCTURED = pack_option(Option.STRUCTURED_REPLY)


def named(value: object) -> str:
    """Ids of cases: bytes say nothing to people."""
    return value[:40] if isinstance(value, str) else ""


def push(session: ServerSession, data: bytes) -> None:
    """All of it, in one or more pieces; the session reads nothing meanwhile."""
    while data:
        buffer = session.buffer()
        count = min(len(buffer), len(data))
        assert count, "there is no room"
        buffer[:count] = data[:count]
        session.received(count)
        data = data[count:]


class Raw:
    """A client that says what it likes to a server of one disk."""

    def __init__(self, served: NbdDisk | None = None, tls: TlsMode = TlsMode.NONE) -> None:
        self.disk = served or disk()
        self.session = ServerSession("client", tls)
        self.serving = Serving(self.session, {"disk": self.disk})
        self.session.take_output()
        self.say(FLAGS)

    def say(self, data: bytes) -> bytes:
        """Returns what the server answers."""
        said = bytearray()
        while True:
            self.serving.go_on()
            said += b"".join(map(bytes, self.session.take_output()))
            if not data:
                return bytes(said)
            piece, data = data[:65536], data[65536:]
            push(self.session, piece)

    def replies(self, data: bytes) -> list[tuple[int, int]]:
        """Option and kind of each reply."""
        said, found = self.say(data), []
        while said:
            _, option, reply, size = OPTION_REPLY.unpack_from(said)
            found.append((option, reply))
            said = said[OPTION_REPLY.size + size :]
        return found

    def entered(self, *, structured: bool = False) -> "Raw":
        self.say((STRUCTURED if structured else b"") + GO)
        return self

    def error(
        self, command: int, offset: int, length: int, flags: int = 0, data: bytes = b""
    ) -> int:
        """The error of the simple reply to a request."""
        said = self.say(REQUEST.pack(REQUEST_MAGIC, flags, command, 7, offset, length) + data)
        _, error, cookie = SIMPLE_REPLY.unpack_from(said)
        assert cookie == 7
        return int(error)
