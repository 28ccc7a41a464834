"""One tenant asks for as much as it can, and the others are served as if it were not there."""

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Annotated

import pytest
import urllib3
from fastapi import Depends, FastAPI

from libs.errors import TooManyRequestsError
from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

#: Two of these threads are one tenant's at most, and one of those one token's.
SETTINGS = ServiceSettings(listen="127.0.0.1:0", request_thread_count_max=4)
#: Of one token: in work, and in line for that.
CLAIM_COUNT_MAX = 1 + 48
TENANTS = {"greedy": "greedy", "greedy-too": "greedy", "modest": "modest", "machine": "*"}


class Site:
    """A server with a route that waits for `opened`, and how many are in it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        entries = [
            {"sha256": digest_of(token), "tenant": tenant, "role": "admin", "name": token}
            for token, tenant in TENANTS.items()
        ]
        tokens = Tokens(json.dumps(entries))
        health = Health()
        health.started()
        self.app: FastAPI = create_app("t", SETTINGS, health, new_registry(), tokens)
        self.url = ""
        self._pool = urllib3.PoolManager(retries=False, timeout=20, maxsize=100)

        @self.app.get("/v1/tenants/{tenant}/news")
        def news(caller: Annotated[Caller, Depends(require(Role.READER))]) -> str:
            self.entered.release()
            self.opened.wait(60)
            return caller.name

        @self.app.get("/v1/tenants/{tenant}/volumes")
        def volumes(caller: Annotated[Caller, Depends(require(Role.READER))]) -> str:
            return caller.name

        @self.app.post("/v1/tenants/{tenant}/volumes")
        def add(body: list[str], caller: Annotated[Caller, Depends(require(Role.READER))]) -> int:
            return len(body)

    def get(self, token: str, what: str) -> urllib3.BaseHTTPResponse:
        tenant = TENANTS[token].replace("*", "greedy")
        headers = {"Authorization": f"Bearer {token}"}
        return self._pool.request("GET", f"{self.url}/v1/tenants/{tenant}/{what}", headers=headers)

    def ask(self, path: str) -> int:
        return self._pool.request("GET", self.url + path).status


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with serving(site.app, SETTINGS) as site.url:
        yield site
        site.opened.set()


@pytest.fixture
def callers(site: Site) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for answers; they end because the site opens first."""
    with ThreadPoolExecutor(CLAIM_COUNT_MAX + 10) as threads:
        yield threads
        site.opened.set()


def test_other_tenants_and_probes_do_not_wait_for_a_greedy_one(
    site: Site, callers: ThreadPoolExecutor
) -> None:
    greedy = [
        callers.submit(site.get, token, "news")
        for token in ("greedy", "greedy-too")
        for _ in range(10)
    ]
    for _ in range(2):
        assert site.entered.acquire(timeout=20)
    for _ in range(20):
        assert site.get("modest", "volumes").status == 200
        assert site.get("machine", "volumes").status == 200
        assert site.ask("/readyz") == 200
        assert site.ask("/metrics") == 200
    assert not site.entered.acquire(blocking=False)
    site.opened.set()
    assert {one.result(20).status for one in greedy} == {200}


def test_probes_are_answered_while_every_thread_waits(
    site: Site, callers: ThreadPoolExecutor
) -> None:
    tokens = ("greedy", "greedy-too", "machine", "machine")
    waiting = [callers.submit(site.get, token, "news") for token in tokens]
    for _ in waiting:
        assert site.entered.acquire(timeout=20)
    assert site.ask("/readyz") == 200
    assert site.ask("/metrics") == 200


def test_one_token_leaves_room_to_the_others_of_its_tenant(
    site: Site, callers: ThreadPoolExecutor
) -> None:
    greedy = [callers.submit(site.get, "greedy", "news") for _ in range(CLAIM_COUNT_MAX + 5)]
    assert site.entered.acquire(timeout=20)
    for one in itertools.islice(as_completed(greedy, timeout=20), 5):
        assert one.result().status == 429
    for _ in range(20):
        assert site.get("greedy-too", "volumes").status == 200
    site.opened.set()


def test_what_is_far_too_much_is_refused_and_may_come_again(
    site: Site, callers: ThreadPoolExecutor
) -> None:
    asked = [callers.submit(site.get, "greedy", "news") for _ in range(CLAIM_COUNT_MAX + 5)]
    refused = list(itertools.islice(as_completed(asked, timeout=20), 5))
    for one in refused:
        answer = one.result()
        assert (answer.status, answer.json()["code"]) == (429, "too-many-requests")
        assert answer.json()["retriable"] is True
        assert answer.headers["Retry-After"] == "1"
    with pytest.raises(TooManyRequestsError):
        RestClient(site.url, "greedy").get("/v1/tenants/greedy/volumes")
    site.opened.set()
    assert [one.result(20).status for one in asked].count(200) == CLAIM_COUNT_MAX
    assert site.get("greedy", "volumes").status == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked", b"Content-Length: 1"]
)
def test_no_body_is_waited_for_without_a_token(site: Site, framing: bytes) -> None:
    host, port = site.url.removeprefix("http://").split(":")
    for authorization in (b"", b"Authorization: Bearer unknown\r\n", b"Authorization: known\r\n"):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(
                b"POST /v1/tenants/modest/volumes HTTP/1.1\r\nHost: x\r\n"
                b"Expect: 100-continue\r\n" + authorization + framing + b"\r\n\r\n"
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
