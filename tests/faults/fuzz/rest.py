"""Hostile requests, made from an application's own OpenAPI document, and sent to it in process."""

import asyncio
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from fastapi import FastAPI

#: Texts that parsers, databases and clocks trip over.
_TEXTS = (
    "", "\0", "a\0b", "..", "../../etc/passwd", "/", "%", "%00", "\ud7ff\U0010ffff", "é" * 300,
    "x" * 70_000, "-", "-1", "0", "1e400", "NaN", "Infinity", str(2**31), str(2**63), str(2**64),
    "9" * 5000, "null", "true", "latest", "-999999999d", "-0s", "2147483648",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00Z",
    "2026-11-22T10:00:00", "bytes=0-", "bytes=-0", "bytes=9223372036854775807-", "bytes=1-0",
    "' OR 1=1 --", "{}", "[]", str(uuid.UUID(int=0)), "0" * 32, "backcast.packs=-1",
    "backcast.packs=9223372036854775808", "backcast.none=1", "=,=,",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**53, 2**63, 2**64, 10**400, -0.5, 1e308, [], {}, [[]], "",
    {"a": 1}, *_TEXTS,
)  # fmt: skip
_MALFORMED = (
    b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": NaN}', b"null", b'"\\ud800"', b'{"a":1,"a":2}',
    b"0" * 10_000, b"\0", b'{"name": "\\u0000"}', b"-", b"1" * 1_100_000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; `repr` is enough to send it again."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class Requests:
    """Makes requests for one application.

    Args:
        app: the application.
        known: values that name things which are there, by the parameter's name.
        seed: of the random choices.
    """

    def __init__(self, app: FastAPI, known: Mapping[str, Sequence[str]], seed: int) -> None:
        document = app.openapi()
        self._schemas = document.get("components", {}).get("schemas", {})
        self._operations = [
            (method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if path.startswith("/v1")
        ]
        self._known = known
        self._random = random.Random(seed)

    @property
    def operation_count(self) -> int:
        """Operations of the interface."""
        return len(self._operations)

    def make(self, number: int, token: str | None) -> Request:
        """The next request; every operation has its turn."""
        method, path, operation = self._operations[number % len(self._operations)]
        headers = [(b"host", b"test")]
        if token:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        query = []
        for parameter in operation.get("parameters", ()):
            name, where = parameter["name"], parameter["in"]
            if where != "path" and self._random.random() < 0.3:
                continue
            text = self._text(name, parameter["schema"])
            if where == "path":
                path = path.replace(f"{{{name}}}", quote(text[:2000], safe=""))
            elif where == "query":
                query.append(f"{name}={quote(text[:3000], safe='')}")
            else:
                headers.append((name.encode(), text[:3000].encode("latin-1", "replace")))
        body = b""
        if content := operation.get("requestBody", {}).get("content"):
            body = self._body(content["application/json"]["schema"])
            headers.append((b"content-type", self._random.choice(_CONTENT_TYPES)))
        return Request(method, path, "&".join(query), tuple(headers), body)

    def _text(self, name: str, schema: Mapping[str, Any]) -> str:
        if self._random.random() < 0.3:
            return self._random.choice(_TEXTS)
        if name in self._known:
            return self._random.choice(self._known[name])
        value = self._value(name, schema)
        return value if isinstance(value, str) else json.dumps(value)

    def _body(self, schema: Mapping[str, Any]) -> bytes:
        if self._random.random() < 0.1:
            return self._random.choice(_MALFORMED)
        return json.dumps(self._value("", schema)).encode()

    def _value(self, name: str, schema: Mapping[str, Any]) -> Any:  # noqa: C901, PLR0911 -- one case for each word of JSON schema
        if self._random.random() < 0.08:
            return self._random.choice(_VALUES)
        if name in self._known and schema.get("type") == "string":
            return self._random.choice(self._known[name])
        if "$ref" in schema:
            return self._value(name, self._schemas[schema["$ref"].rpartition("/")[2]])
        if options := schema.get("anyOf"):
            return self._value(name, self._random.choice(options))
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return {
                    field: self._value(field, inner)
                    for field, inner in schema.get("properties", {}).items()
                    if self._random.random() > 0.05
                }
            case "array":
                return [
                    self._value(name, schema["items"]) for _ in range(self._random.randrange(3))
                ]
            case "integer" | "number":
                low = int(schema.get("minimum", 0))
                return self._random.choice((low, low, low + 1, int(schema.get("maximum", 7))))
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
        if schema.get("format") == "uuid":
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return self._random.choice(("name", "AAAA", *_TEXTS))


_CONTENT_TYPES = (b"application/json", b"application/json", b"application/json", b"text/plain")


async def send(app: FastAPI, request: Request, timeout_seconds: float) -> Answer:
    """The application's answer.

    Raises:
        TimeoutError: it takes longer.
        Exception: what the application let through instead of answering.
    """
    status, pieces = 0, []
    bodies = iter([{"type": "http.request", "body": request.body, "more_body": False}])

    async def receive() -> dict[str, object]:
        for message in bodies:
            return message
        await asyncio.Event().wait()  # a client that stays
        raise AssertionError

    async def answer(message: Mapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": list(request.headers),
        "client": ("test", 1),
        "server": ("test", 80),
        "app": app,
    }
    async with asyncio.timeout(timeout_seconds):
        await app(scope, receive, answer)
    return Answer(status, b"".join(pieces))
