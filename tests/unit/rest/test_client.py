"""The REST client against real services and against what is none."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from libs import errors
from libs.errors import (
    BackcastError,
    ConfigurationError,
    ConflictError,
    TooManyRequestsError,
    UnavailableError,
)
from libs.rest.client import RestClient, problem_error
from libs.rest.connections import Timeouts


@contextmanager
def answering(
    status: int,
    body: bytes,
    content_type: str = "application/json",
    sent_bytes: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A server that gives every request the same answer, or its beginning; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:sent_bytes])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def problem(code: str) -> bytes:
    return json.dumps({"code": code, "detail": "what went wrong"}).encode()


def every_class() -> list[type[BackcastError]]:
    classes: list[type[BackcastError]] = [BackcastError]
    for cls in classes:
        classes += cls.__subclasses__()
    return [cls for cls in classes if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", every_class(), ids=lambda cls: cls.__name__)
def test_every_problem_becomes_its_error_again(cls: type[BackcastError]) -> None:
    err = problem_error(cls.http_status, problem(cls.code), "GET /x")
    assert type(err) is cls
    assert str(err) == "what went wrong"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"code": "conflict"}', b"\xff\xfe", b"1"]
)
def test_an_error_that_does_not_say_why_is_unavailable(body: bytes) -> None:
    err = problem_error(502, body, "GET /x")
    assert type(err) is UnavailableError
    assert "502" in str(err)


def test_a_code_of_a_newer_release_is_still_an_error() -> None:
    assert type(problem_error(400, problem("unheard-of"), "GET /x")) is BackcastError


def test_answers_are_json_or_nothing() -> None:
    with answering(200, b'{"a": [1]}') as url:
        assert RestClient(url, "t").get("/x", {"q": 1, "none": None}) == {"a": [1]}
    with answering(204, b"") as url:
        assert RestClient(url, "t").post("/x", {"a": 1}) is None


@pytest.mark.parametrize("sent_bytes", [0, 1, 10])
def test_an_answer_that_is_cut_off_is_none(sent_bytes: int) -> None:
    """A service that is killed has often sent the head already."""
    with (
        answering(200, b'{"state": "open"}', sent_bytes=sent_bytes) as url,
        pytest.raises(UnavailableError, match="IncompleteRead"),
    ):
        RestClient(url, "token").get("/v1/x")


def test_a_refusal_is_raised() -> None:
    with answering(409, problem("conflict")) as url, pytest.raises(ConflictError):
        RestClient(url, "t").post("/x")


@pytest.mark.parametrize(
    ("header", "told"), [("7", 7.0), ("0", 0.0), (None, None), ("-1", None), ("Fri, 31 Dec", None)]
)
@pytest.mark.parametrize("body", [problem("too-many-requests"), b"too much"])
def test_an_error_knows_when_to_ask_again(
    header: str | None, told: float | None, body: bytes
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    with answering(429, body, headers=headers) as url, pytest.raises(TooManyRequestsError) as err:
        RestClient(url, "token").get("/x")
    assert err.value.retry_after_seconds == told


def test_who_answers_something_else_is_unavailable() -> None:
    with (
        answering(200, b"<html>hello</html>", "text/html") as url,
        pytest.raises(UnavailableError, match="without JSON"),
    ):
        RestClient(url, "t").get("/x")


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        RestClient("http://127.0.0.1:1", "t", timeouts=Timeouts(0.5, 0.5)).get("/x")


@pytest.mark.parametrize("url", ["", "ftp://host", "127.0.0.1:80", "http://h/?q", "http://h/#f"])
def test_a_url_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RestClient(url, "t")
