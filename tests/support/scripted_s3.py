"""An S3 server that plays answers which a real one gives only when something is wrong."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from libs.ranges import ByteRange
from libs.rest.connections import Timeouts
from libs.store.s3 import S3Bucket, S3Store

BODY = bytes(range(200))
WHOLE = ByteRange(0, len(BODY))
ACCESS_KEY = "AKIA-OURS"


class ScriptedServer:
    """Answers each request with the next of ``answers`` (raw bytes), then closes if told to."""

    def __init__(self, *answers: bytes, keep_open: bool = True, read_body: bool = True) -> None:
        self._answers = iter(answers)
        self._keep_open = keep_open
        self._read_body = read_body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self.connection_count = 0
        self._thread = threading.Thread(target=self._serve)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connection_count += 1
            with connection, connection.makefile("rb") as stream:
                connection.settimeout(10)
                while self._answer(connection, stream.readline, stream.read) and self._keep_open:
                    pass

    def _answer(
        self,
        connection: socket.socket,
        readline: Callable[[], bytes],
        read: Callable[[int], bytes],
    ) -> bool:
        length = 0
        lines = iter(readline, b"\r\n")
        for line in lines:
            if not line:
                return False  # the client closed the connection
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if self._read_body:
            read(length)
        answer = next(self._answers, None)
        if answer is None:  # silence, until the client gives up
            self._stopping.wait(10)
            return False
        connection.sendall(answer)
        return True


def reply(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    stated = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {stated}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refusal(status: str, code: str) -> bytes:
    document = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>because</Message>"
        f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>"
    )
    return reply(status, document.encode(), "Content-Type: application/xml")


def partial(body: bytes = BODY, stated: str = f"bytes 0-{len(BODY) - 1}/{len(BODY)}") -> bytes:
    return reply("206 Partial Content", body, f"Content-Range: {stated}")


@contextmanager
def serving(*answers: bytes, keep_open: bool = False, read_body: bool = True) -> Iterator[S3Store]:
    with ScriptedServer(*answers, keep_open=keep_open, read_body=read_body) as server:
        store = S3Store(
            S3Bucket(
                endpoint=server.endpoint,
                bucket="b",
                access_key=ACCESS_KEY,
                secret_key="top-secret",
            ),
            timeouts=Timeouts(connect_seconds=1, read_seconds=0.3),
        )
        with contextlib.closing(store):  # or the server waits for the next request
            yield store
