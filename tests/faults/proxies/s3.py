"""A fault proxy for S3: HTTP/1.1 requests labelled ``CLIENT METHOD KEY``, without the bucket.

A page of a listing is labelled ``CLIENT LIST PREFIX``.
"""

import re
import socket
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

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
            what = _what(method.decode(), target.decode())

            def ask(request: bytes, method: bytes = method) -> bytes:
                link.server.sendall(request)
                return _receive_answer(link.server, has_body=method != b"HEAD")

            self.play(link, what, head + body, ask)


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
        document = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
        if exchange.request.startswith(b"HEAD "):
            document = ""
        exchange.reply(_answer(self._status, code, document))


class WrongBody(Fault):
    """A bit flips between the disk and us: bad memory in a cache, a proxy that mixes answers."""

    def strike(self, exchange: Exchange) -> None:
        answer = bytearray(exchange.ask(exchange.request))
        body = answer.index(b"\r\n\r\n") + 4
        if body < len(answer):
            answer[(body + len(answer)) // 2] ^= 0x10
        exchange.reply(bytes(answer))


class BrokenListing(Fault):
    """A server or proxy whose listings are not whole; whoever believes them deletes everything.

    Args:
        pattern: see `Fault`.
        how: ``no-token``: more follows, but no token says how to go on (Ceph's answers to version 1
            clients, mocks); ``empty``: the same, and without a key; ``early-end``: no key, and that
            is all (SeaweedFS, where empty folders fill the first page); ``again``: the first page
            for ever (MEGA S4, servers that ignore what to start after); ``page``: a proxy's own,
            with status 200.
        nth: see `Fault`.
    """

    def __init__(self, pattern: str, how: str, nth: int = 1) -> None:
        super().__init__(pattern, nth, count=1 << 30)
        self._how = how
        self._first = ""

    def strike(self, exchange: Exchange) -> None:
        document = _document_of(exchange.ask(exchange.request))
        self._first = self._first or document
        match self._how:
            case "no-token":
                document = _truncated(document)
            case "empty":
                document = _truncated(_without_keys(document))
            case "early-end":
                document = _without_keys(document)
                document = document.replace("<IsTruncated>true</", "<IsTruncated>false</")
            case "again":
                document = self._first
            case "page":
                document = "<html><body>back soon</body></html>"
        exchange.reply(_answer(200, "OK", document))


class Denied(Fault):
    """404 for an object that is there.

    A replica that is behind and has taken over says so for the key; an ingress without its backend
    answers with a page of its own.

    Args:
        pattern: see `Fault`.
        code: of the error document; empty: a page of a proxy.
        count: see `Fault`.
    """

    def __init__(self, pattern: str, code: str = "NoSuchKey", count: int = 1 << 30) -> None:
        super().__init__(pattern, count=count)
        self._code = code

    def strike(self, exchange: Exchange) -> None:
        document = f"<Error><Code>{self._code}</Code><Message>injected</Message></Error>"
        if not self._code:
            document = "<html><body>default backend - 404</body></html>"
        if exchange.request.startswith(b"HEAD "):
            document = ""
        exchange.reply(_answer(404, "Not Found", document))


def _what(method: str, target: str) -> str:
    url = urlsplit(target)
    query = parse_qs(url.query)
    if "list-type" in query:
        return f"LIST {query.get('prefix', [''])[0]}"
    path = unquote(url.path).lstrip("/")
    return f"{method} {path.partition('/')[2] or path}"


def _truncated(document: str) -> str:
    without = re.sub(r"<NextContinuationToken>.*?</NextContinuationToken>", "", document)
    return without.replace("<IsTruncated>false</", "<IsTruncated>true</")


def _without_keys(document: str) -> str:
    without = re.sub(r"(?s)<Contents>.*</Contents>", "", document)
    return re.sub(r"<KeyCount>\d+</KeyCount>", "<KeyCount>0</KeyCount>", without)


def _answer(status: int, reason: str, document: str) -> bytes:
    body = document.encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _document_of(answer: bytes) -> str:
    """The body of an answer, out of its chunks if it has any."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return body.decode()
    content = bytearray()
    while body:
        line, _, body = body.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        content += body[:size]
        body = body[size + 2 :]
        if size == 0:
            break
    return content.decode()


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
