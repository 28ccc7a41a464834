"""Tokens come and go while a service runs: in its token file, and under requests in work."""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import urllib3
from fastapi import Depends, FastAPI

from libs.access.token_file import TokenFile
from libs.errors import ConfigurationError, UnauthenticatedError
from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.settings import read_secret
from services.restore.downloads.streaming import ClosingStream

SETTINGS = ServiceSettings(listen="127.0.0.1:0")
SECONDS_MAX = 60.0


def entry(token: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {"sha256": digest_of(token), "name": token, "tenant": "*", "roles": roles, **more}


def write(file: Path, *entries: dict[str, Any]) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(entries))
    beside.rename(file)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    write(path, entry("old", "reader"), entry("stays", "reader"))
    return path


@pytest.fixture
def tokens(file: Path) -> TokenFile:
    return TokenFile(read_secret(str(file)))


def test_a_changed_file_counts_without_a_restart(file: Path, tokens: TokenFile) -> None:
    old = tokens.find("old")
    assert old
    assert tokens.holds(old)
    write(file, entry("new", "reader"), entry("stays", "reader"))
    eventually(lambda: tokens.find("new"))
    assert tokens.find("old") is None
    assert not tokens.holds(old)
    assert tokens.find("stays")


def test_other_rights_under_the_same_token_are_a_change(file: Path, tokens: TokenFile) -> None:
    before = tokens.find("old")
    assert before
    write(file, entry("old", "delete"))
    eventually(lambda: (found := tokens.find("old")) and "delete" in found.rights)
    assert not tokens.holds(before)


@pytest.mark.parametrize("text", ["", "[", '[{"sha256": "x"}]'])
def test_a_file_that_is_none_locks_nobody_out(
    file: Path, tokens: TokenFile, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        file.write_text(text)
        eventually(lambda: tokens.find("old") and caplog.records)
    assert "the tokens of before stay" in caplog.text
    assert len(caplog.records) == 1
    file.unlink()
    write(file, entry("stays", "reader"))
    eventually(lambda: not tokens.find("old"))


def test_an_expired_token_is_refused_as_one() -> None:
    gone = entry("gone", "reader", expires_at="2020-01-01T00:00:00Z")
    later = entry("later", "reader", expires_at="2999-01-01T00:00:00Z")
    tokens = Tokens(json.dumps([gone, later]))
    with pytest.raises(
        UnauthenticatedError, match="token gone: has expired at 2020-01-01T00:00:00Z; ask an admin"
    ):
        tokens.find("gone")
    assert tokens.find("later")
    assert tokens.find("unknown") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roles": ["operator", "delete"]}, "two tokens"),
        ({"roles": ["root"]}, "root"),
        ({"roles": []}, "expected `roles`"),
        ({"restore": True}, "one of the `roles`"),
        ({"role": "admin"}, "expected `roles`"),
        ({"groups": ["web"]}, "no tenant whose they are"),
        ({"expires_at": "2020-01-01T00:00:00"}, "timezone"),
    ],
)
def test_what_a_token_file_says_wrongly_is_told(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Tokens(json.dumps([entry("t", "reader") | changes]))


class Site:
    """A service with a long poll and a download that lasts until the client goes."""

    def __init__(self, tokens: TokenFile) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()
        self.news = threading.Event()
        self.app = create_app("t", SETTINGS, Health(), new_registry(), tokens)
        reader = Annotated[Caller, Depends(require(Role.READER))]
        self._add(self.app, reader)

    def _add(self, app: FastAPI, reader: Any) -> None:
        @app.get("/v1/poll")
        def poll(_: reader) -> str:
            self.begun.set()
            self.news.wait(SECONDS_MAX)
            return "secret news"

        def pieces() -> Iterator[bytes]:
            while True:
                self.begun.set()
                yield b"secret" * 1000
                time.sleep(0.01)

        @app.get("/v1/bytes")
        def data(_: reader) -> ClosingStream:
            return ClosingStream(pieces(), 200, {}, self.ended.set)


def test_a_long_poll_ends_with_its_token(
    file: Path, tokens: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = Site(tokens)
    answers = []
    with serving(site.app, SETTINGS) as url:

        def ask() -> None:
            headers = {"Authorization": "Bearer old"}
            answers.append(urllib3.request("GET", f"{url}/v1/poll", headers=headers, retries=False))

        asking = threading.Thread(target=ask)
        asking.start()
        assert site.begun.wait(SECONDS_MAX)
        write(file, entry("stays", "reader"))
        eventually(lambda: "request ended with its token" in caplog.text)
        site.news.set()
        asking.join()
    assert answers[0].status == 401
    assert b"secret" not in answers[0].data


def test_a_download_ends_with_its_token(file: Path, tokens: TokenFile) -> None:
    site = Site(tokens)
    with serving(site.app, SETTINGS) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as client:
            client.sendall(
                b"GET /v1/bytes HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer old\r\n\r\n"
            )
            assert site.begun.wait(SECONDS_MAX)
            write(file, entry("stays", "reader"))
            received = b""
            with contextlib.suppress(ConnectionResetError):  # as good as an end
                while piece := client.recv(1 << 16):
                    received += piece
        assert site.ended.wait(SECONDS_MAX)
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")  # cut off: nobody takes it for the whole
