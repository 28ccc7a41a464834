"""Clients that wait for news over connections of their own, without a thread each."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, Self

from fastapi import FastAPI

from libs.rest.auth import Tokens, digest_of
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

SECONDS_MAX = 30
#: Any tenant may be asked for with it.
TOKEN = "any"


class Poll:
    """A request that waits, as its client sees it."""

    def __init__(self, url: str, path: str, token: str = TOKEN) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._connection = socket.create_connection((host, int(port)), timeout=SECONDS_MAX)
        self._connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Connection: close\r\n\r\n".encode()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._connection.close()

    def answer(self) -> tuple[int, Any]:
        """Status and document, once they come."""
        received = b""
        while piece := self._connection.recv(65536):
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def application(connection_count_max: int, *tokens: str) -> FastAPI:
    """An application with tokens for all tenants, to which the caller adds routes."""
    entries = [
        {"sha256": digest_of(token), "tenant": "*", "role": "admin", "name": token}
        for token in (TOKEN, *tokens)
    ]
    limits = ServerLimits(connection_count_max=connection_count_max)
    return create_app(
        "t", ServiceSettings(), Health(), new_registry(), Tokens(json.dumps(entries)), limits
    )


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port of this machine."""
    with serving(app, ServiceSettings(listen="127.0.0.1:0", stop_timeout_seconds=1)) as url:
        yield url
