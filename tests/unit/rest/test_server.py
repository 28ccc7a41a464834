"""The application is served by the real server and asked over a real socket."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import urllib3
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from libs.errors import ConfigurationError, NotFoundError, UnavailableError
from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

SETTINGS = ServiceSettings(listen="127.0.0.1:0", request_body_size_bytes_max=1000)
#: token → (tenant, role, restore)
TOKENS = {
    "acme-reader": ("acme", "reader", False),
    "acme-operator": ("acme", "operator", False),
    "acme-restorer": ("acme", "reader", True),
    "all-admin": ("*", "admin", False),
}


class Volume(BaseModel):
    name: str
    size_bytes: int


class Gate:
    """Lets a test hold a request in the middle."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()


def _add_routes(app: FastAPI, gate: Gate) -> None:
    @app.get("/v1/tenants/{tenant}/volumes")
    def list_volumes(caller: Annotated[Caller, Depends(require(Role.READER))]) -> list[str]:
        return [caller.name, caller.tenant]

    @app.post("/v1/tenants/{tenant}/volumes")
    def add_volume(
        volume: Volume, caller: Annotated[Caller, Depends(require(Role.OPERATOR))]
    ) -> str:
        return volume.name

    @app.get("/v1/tenants/{tenant}/bytes")
    def read_bytes(
        caller: Annotated[Caller, Depends(require(Role.RESTORE))],
    ) -> str:
        return "data"

    @app.get("/v1/tenants")
    def list_tenants(caller: Annotated[Caller, Depends(require(Role.ADMIN))]) -> str:
        return caller.tenant

    @app.get("/fail/{how}")
    def fail(how: str) -> None:
        raise {
            "missing": NotFoundError("volume vm: not in this tenant"),
            "down": UnavailableError("s3: refused"),
            "bug": KeyError("password=hunter2"),
        }[how]

    @app.get("/slow")
    def slow() -> str:
        gate.entered.set()
        gate.opened.wait(20)
        return "done"


class Client:
    def __init__(self, url: str, pool: urllib3.PoolManager | None = None) -> None:
        self.url = url
        self._pool = pool or urllib3.PoolManager(retries=False, timeout=20)

    def get(self, path: str, token: str = "") -> urllib3.BaseHTTPResponse:
        return self.send("GET", path, token)

    def send(
        self, method: str, path: str, token: str = "", body: bytes | Iterator[bytes] | None = None
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/json"} if body else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        return self._pool.request(method, self.url + path, headers=headers, body=body)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def app(gate: Gate, health: Health) -> FastAPI:
    entries = [
        {"sha256": digest_of(token), "tenant": tenant, "role": role, "restore": restore}
        | {"name": token}
        for token, (tenant, role, restore) in TOKENS.items()
    ]
    app = create_app("Tried", SETTINGS, health, new_registry(), Tokens(json.dumps(entries)))
    _add_routes(app, gate)
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[Client]:
    with serving(app, SETTINGS) as url:
        yield Client(url)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/tenants/acme/volumes", set(TOKENS)),
        ("GET", "/v1/tenants/other/volumes", {"all-admin"}),
        ("POST", "/v1/tenants/acme/volumes", {"acme-operator", "all-admin"}),
        ("GET", "/v1/tenants/acme/bytes", {"acme-restorer"}),
        ("GET", "/v1/tenants", {"all-admin"}),
    ],
)
def test_each_route_lets_in_exactly_the_tokens_that_may(
    client: Client, method: str, path: str, allowed: set[str]
) -> None:
    body = b'{"name": "vm", "size_bytes": 1}' if method == "POST" else None
    for token in TOKENS:
        expected = 200 if token in allowed else 403
        assert client.send(method, path, token, body).status == expected, token
    for token in ("", "unknown", "acme-reader "[:-2]):
        refused = client.send(method, path, token, body)
        assert refused.status == 401
        why = ' error="invalid_token"' if token else ""
        assert refused.headers["WWW-Authenticate"] == f"Bearer{why}"
        assert refused.json()["code"] == "unauthenticated"


def test_a_caller_acts_in_the_tenant_of_the_path(client: Client) -> None:
    assert client.get("/v1/tenants/acme/volumes", "all-admin").json() == ["all-admin", "acme"]


@pytest.mark.parametrize("half", [rb'"\udc80"', rb'"\uDC80"', b'"\xed\xb2\x80"'])
def test_text_that_is_none_is_bad_input(client: Client, half: bytes) -> None:
    body = b'{"name": ' + half + b', "size_bytes": 1}'
    answer = client.send("POST", "/v1/tenants/acme/volumes", "acme-operator", body)
    assert (answer.status, answer.json()["code"]) == (422, "bad-input")
    assert "UTF-8" in answer.json()["detail"]
    whole = rb'{"name": "\ud83d\ude00 \u00fc", "size_bytes": 1}'
    answer = client.send("POST", "/v1/tenants/acme/volumes", "acme-operator", whole)
    assert answer.json() == "\U0001f600 \u00fc"


def test_a_parameter_that_nobody_knows_is_refused(client: Client) -> None:
    for path in ("/v1/tenants/acme/volumes", "/healthz"):
        answer = client.get(f"{path}?dryrun=true", "acme-reader")
        assert (answer.status, answer.json()["code"]) == (422, "bad-input")
        assert "dryrun: no such parameter" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_may_ask_for_the_head_alone(client: Client, health: Health, path: str) -> None:
    for _ in ("not started", "started"):
        head, whole = client.send("HEAD", path), client.get(path)
        assert head.status == whole.status
        assert head.data == b""
        assert head.headers["Content-Type"] == whole.headers["Content-Type"]
        health.started()


def test_an_error_becomes_a_problem_document(client: Client) -> None:
    response = client.get("/fail/missing")
    assert response.status == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:backcast:error:not-found",
        "title": "The named object does not exist in this tenant",
        "status": 404,
        "detail": "volume vm: not in this tenant",
        "code": "not-found",
        "retriable": False,
    }
    assert client.get("/fail/down").json()["retriable"] is True


def test_an_unexpected_error_tells_only_the_id_that_the_log_has(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.get("/fail/bug")
    assert (response.status, response.json()["code"]) == (500, "internal")
    assert b"hunter2" not in response.data
    (record,) = (one for one in caplog.records if one.message == "unexpected error")
    assert record.problem_id == response.json()["instance"]  # type: ignore[attr-defined]  # extra field
    assert record.exc_info


@pytest.mark.parametrize("body", [b"{", b'{"name": "vm"}', b'{"name": 1, "size_bytes": "secret"}'])
def test_malformed_input_is_named_but_not_repeated(client: Client, body: bytes) -> None:
    response = client.send("POST", "/v1/tenants/acme/volumes", "acme-operator", body)
    assert (response.status, response.json()["code"]) == (422, "bad-input")
    assert "body" in response.json()["detail"]
    assert b"secret" not in response.data


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("PUT", "/slow", 405)])
def test_what_the_framework_refuses_is_a_problem_too(
    client: Client, method: str, path: str, status: int
) -> None:
    response = client.send(method, path)
    assert (response.status, response.json()["status"]) == (status, status)
    assert response.headers["Content-Type"] == "application/problem+json"


def test_a_long_body_is_refused_whether_declared_or_not(client: Client) -> None:
    path, token = "/v1/tenants/acme/volumes", "acme-operator"
    long = b'{"name": "' + b"x" * 2000 + b'", "size_bytes": 1}'
    declared = client.send("POST", path, token, long)
    streamed = client.send("POST", path, token, iter([long[:900], long[900:]]))
    for response in (declared, streamed):
        assert (response.status, response.json()["code"]) == (413, "request-entity-too-large")


def test_health_endpoints_tell_alive_from_ready_and_why_without_addresses(
    client: Client, health: Health
) -> None:
    def refuse() -> None:
        raise UnavailableError("postgres at 10.0.0.7: refused")

    assert client.get("/healthz").status == 200
    assert client.get("/readyz").status == 503
    health.started()
    assert client.get("/readyz").status == 200
    health.depend_on("postgres", refuse)
    unready = client.get("/readyz")
    assert unready.status == 503
    assert b"10.0.0.7" not in unready.data
    assert unready.json()["checks"][-1] == {
        "name": "postgres",
        "ok": False,
        "needed": True,
        "server": True,
        "last_ok_seconds_ago": None,
        "reason": "does not answer as it should (unavailable); the log says more",
    }
    assert unready.json()["code"] == "unavailable"
    assert unready.json()["detail"].startswith("postgres: does not answer")
    health.loop("relay", deadline_seconds=-1)
    assert client.get("/healthz").status == 503


def test_requests_are_counted_by_route_not_by_path(client: Client) -> None:
    client.get("/v1/tenants/acme/volumes", "acme-reader")
    client.get("/nowhere/at/all")
    client.send("MADEUP", "/slow")
    text = client.get("/metrics").data.decode()
    assert 'route="/v1/tenants/{tenant}/volumes",status="200"' in text
    assert 'method="GET",route="none",status="404"' in text
    assert "MADEUP" not in text


def test_the_openapi_document_is_3_1_and_promises_problems(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operation = document["paths"]["/v1/tenants/{tenant}/volumes"]["post"]
    assert set(operation["responses"]) == {"200", "default"}
    assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}
    assert operation["security"] == [{"HTTPBearer": []}]


def test_the_page_of_the_api_has_everything_and_loads_nothing(client: Client) -> None:
    response = client.get("/docs")
    page = response.data.decode()
    assert response.status == 200
    assert not re.search(r"<script|<link|<img|src=|https?:", page)
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}<" in page
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page
    assert '<a href="#Volume">' in page


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/healthz", "/metrics", "/no-such"])
def test_a_browser_may_do_nothing_with_an_answer_but_show_it(client: Client, path: str) -> None:
    headers = client.get(path).headers
    policy = {rule.strip() for rule in headers["Content-Security-Policy"].split(";")}
    nothing = {"default-src", "base-uri", "form-action", "frame-ancestors", "object-src"}
    assert policy == {f"{one} 'none'" for one in nothing} | {"style-src 'unsafe-inline'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_a_request_in_flight_finishes_when_the_server_stops(app: FastAPI, gate: Gate) -> None:
    answers: list[int] = []
    with serving(app, SETTINGS) as url:
        host, port = url.removeprefix("http://").split(":")
        caller = threading.Thread(target=lambda: answers.append(Client(url).get("/slow").status))
        caller.start()
        assert gate.entered.wait(20)
        opener = threading.Thread(target=_open_once_refused, args=(gate, (host, int(port))))
        opener.start()
    caller.join(20)
    opener.join(20)
    assert answers == [200]


def test_answers_do_not_wait_for_acknowledgements(app: FastAPI) -> None:
    """Without TCP_NODELAY the body of a connection's second answer comes 40 ms after its head."""
    with serving(app, SETTINGS) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1)
            ours = _socket_of(client.getpeername(), client.getsockname())
            with contextlib.closing(ours):
                assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _socket_of(local: object, peer: object) -> socket.socket:
    """This process's socket between two addresses."""
    for file in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(file.name)))
        except OSError:  # no socket
            continue
        with contextlib.suppress(OSError):  # not connected
            if (found.getsockname(), found.getpeername()) == (local, peer):
                return found
        found.close()
    raise AssertionError(f"no socket between {local} and {peer}")


def _open_once_refused(gate: Gate, address: tuple[str, int]) -> None:
    """Let the held request go on when the server no longer takes connections."""
    with contextlib.suppress(OSError):
        while True:
            socket.create_connection(address, timeout=20).close()
    gate.opened.set()


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "127.0.0.1:x", "192.0.2.1:80"])
def test_an_address_that_cannot_be_listened_on_is_a_configuration_error(
    app: FastAPI, listen: str
) -> None:
    settings = dataclasses.replace(SETTINGS, listen=listen, plaintext="anywhere")
    with pytest.raises(ConfigurationError, match="LISTEN"), serving(app, settings):
        pass


def test_a_port_in_use_is_a_configuration_error(app: FastAPI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = dataclasses.replace(SETTINGS, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConfigurationError, match="in use"), serving(app, settings):
            pass
