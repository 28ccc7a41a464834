"""A fault proxy for S3: HTTP/1.1 requests labelled ``CLIENT METHOD KEY``, without the bucket."""

import re
import socket
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tests.faults.proxies.link import Cut, Exchange, Fault, Link, Proxy, receive

_HEAD_SIZE_BYTES_MAX = 1 << 16


class S3Proxy(Proxy):
    """Passes requests to an S3 server, signatures and all: the Host header stays as it was."""

    def converse(self, link: Link) -> None:
        while True:
            link.await_request()
            head = _receive_head(link.client)
            method, target = head.split(b" ", 2)[:2]
            body = receive(link.client, _length(head))
            path = unquote(urlsplit(target.decode()).path).lstrip("/")
            key = path.partition("/")[2] or path

            def ask(request: bytes, method: bytes = method) -> bytes:
                link.server.sendall(request)
                return _receive_answer(link.server, has_body=method != b"HEAD")

            self.play(link, f"{method.decode()} {key}", head + body, ask)


class ServerError(Fault):
    """The server refuses before it does anything: 500 of a crashing node, 503 of one that sheds
    load or waits for a quorum of disks, 507 of one whose disks are full.

    Args:
        pattern: see `Fault`.
        nth: see `Fault`.
        count: see `Fault`.
        status: HTTP status; each comes with the code that MinIO sends with it.
    """

    _CODES: ClassVar = {500: "InternalError", 503: "SlowDown", 507: "XMinioStorageFull"}

    def __init__(self, pattern: str, nth: int = 1, count: int = 1, status: int = 500) -> None:
        super().__init__(pattern, nth, count)
        self._status = status

    def strike(self, exchange: Exchange) -> None:
        code = self._CODES[self._status]
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        if exchange.request.startswith(b"HEAD "):
            body = b""
        head = (
            f"HTTP/1.1 {self._status} {code}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        exchange.reply(head.encode() + body)


class WrongBody(Fault):
    """A bit flips between the disk and us: bad memory in a cache, a proxy that mixes answers."""

    def strike(self, exchange: Exchange) -> None:
        answer = bytearray(exchange.ask(exchange.request))
        body = answer.index(b"\r\n\r\n") + 4
        if body < len(answer):
            answer[(body + len(answer)) // 2] ^= 0x10
        exchange.reply(bytes(answer))


def _receive_head(peer: socket.socket) -> bytes:
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        # Peek, so that nothing of the body is taken.
        seen = peer.recv(4096, socket.MSG_PEEK)
        if not seen or len(head) > _HEAD_SIZE_BYTES_MAX:
            raise Cut
        end = (bytes(head[-3:]) + seen).find(b"\r\n\r\n")
        take = len(seen) if end < 0 else end + 4 - len(head[-3:])
        head += receive(peer, take)
    return bytes(head)


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
    return int(found[1]) if found else 0


def _receive_answer(server: socket.socket, *, has_body: bool) -> bytes:
    head = _receive_head(server)
    if not has_body:
        return head
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked\r\n", head):
        return head + receive(server, _length(head))
    body = bytearray()
    while True:
        line = bytearray()
        while not line.endswith(b"\r\n"):
            line += receive(server, 1)
        size = int(line.split(b";")[0], 16)
        body += line + receive(server, size + 2)
        if size == 0:
            return head + bytes(body)
