"""Which requests are recorded, and that nobody reads data that cannot be."""

import json
from collections.abc import Iterator
from typing import Annotated

import pytest
import urllib3
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import Scope

from libs.access.recorded import Auditor, NotRecordedError, is_recorded
from libs.errors import ConflictError, TooManyRequestsError, UnavailableError
from libs.rest.auth import Caller, Role, TokenEntry, Tokens, digest_of, require
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

SETTINGS = ServiceSettings(listen="127.0.0.1:0")


class Listed:
    """Keeps records in memory, or refuses them."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, str, int]] = []
        self.is_full = False

    async def note(self, scope: Scope, entry: TokenEntry, status: int) -> None:
        if is_recorded(scope, status):
            if self.is_full:
                raise NotRecordedError(UnavailableError("catalog: not there"))
            self.records.append((entry.label, scope["method"], scope["path"], status))


_: type[Auditor] = Listed


def _add_routes(app: FastAPI, read: list[str]) -> None:
    reader = Annotated[Caller, Depends(require(Role.READER))]
    restorer = Annotated[Caller, Depends(require(Role.RESTORE))]
    operator = Annotated[Caller, Depends(require(Role.OPERATOR))]

    @app.get("/v1/names")
    def names(_: reader) -> str:
        return "names"

    @app.get("/v1/bytes")
    def data(_: restorer) -> StreamingResponse:
        def pieces() -> Iterator[bytes]:
            read.append("piece")
            yield b"secret"

        return StreamingResponse(pieces())

    @app.post("/v1/volumes/{how}")
    def change(how: str, _: operator) -> str:
        if how == "busy":
            raise ConflictError("busy")
        if how == "many":
            raise TooManyRequestsError("too many")
        if how == "bug":
            raise KeyError(how)
        return how

    @app.post("/v1/progress")
    def progress(
        _: Annotated[Caller, Depends(require(Role.RESTORE, audited=False))],
    ) -> str:
        return "heard"


@pytest.fixture
def auditor() -> Listed:
    return Listed()


@pytest.fixture
def read() -> list[str]:
    return []


@pytest.fixture
def url(auditor: Listed, read: list[str]) -> Iterator[str]:
    entries = [
        {"sha256": digest_of(name), "name": name, "tenant": "*", "roles": [name]}
        for name in ("reader", "restore", "operator")
    ]
    tokens = Tokens(json.dumps(entries))
    app = create_app("t", SETTINGS, Health(), new_registry(), tokens, auditor=auditor)
    _add_routes(app, read)
    with serving(app, SETTINGS) as running:
        yield running


def ask(url: str, method: str, path: str, token: str) -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": f"Bearer {token}"}
    return urllib3.request(method, url + path, headers=headers, retries=False, timeout=20)


@pytest.mark.parametrize(
    ("method", "path", "token", "status", "recorded"),
    [
        ("GET", "/v1/names", "reader", 200, False),
        ("GET", "/v1/bytes", "restore", 200, True),
        ("GET", "/v1/bytes", "operator", 403, True),
        ("POST", "/v1/volumes/disk", "operator", 200, True),
        ("POST", "/v1/volumes/busy", "operator", 409, True),
        ("POST", "/v1/volumes/bug", "operator", 500, True),
        ("POST", "/v1/volumes/many", "operator", 429, False),
        ("POST", "/v1/volumes/disk", "reader", 403, True),
        ("POST", "/v1/progress", "restore", 200, False),
        ("POST", "/v1/progress", "reader", 403, True),
        ("POST", "/v1/volumes/disk", "nobody", 401, False),
        ("GET", "/nowhere", "reader", 404, False),
    ],
)
def test_changes_reads_of_data_and_refusals_are_recorded(
    url: str,
    auditor: Listed,
    method: str,
    path: str,
    token: str,
    status: int,
    recorded: bool,
) -> None:
    assert ask(url, method, path, token).status == status
    assert auditor.records == ([(token, method, path, status)] if recorded else [])


def test_what_cannot_be_recorded_is_not_answered(
    url: str, auditor: Listed, read: list[str]
) -> None:
    auditor.is_full = True
    for method, path, token in [
        ("GET", "/v1/bytes", "restore"),
        ("POST", "/v1/volumes/disk", "operator"),
        ("POST", "/v1/volumes/disk", "reader"),
    ]:
        answer = ask(url, method, path, token)
        assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert b"secret" not in answer.data
    assert read == []
    assert ask(url, "GET", "/v1/names", "reader").status == 200
    auditor.is_full = False
    assert ask(url, "GET", "/v1/bytes", "restore").data == b"secret"
