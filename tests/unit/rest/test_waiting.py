"""Requests wait for news over real sockets, and hold nothing but their connection."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import pytest
import urllib3
from anyio import to_thread
from fastapi import Depends, FastAPI, Request

from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.rest.waiting import Bells, read_or_wait
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from tests.support.polling import Poll

SETTINGS = ServiceSettings(
    listen="127.0.0.1:0", request_thread_count_max=4, stop_timeout_seconds=30
)
TOKENS = {"one": "acme", "two": "acme", "modest": "modest", "any": "*", "other": "*", "third": "*"}
SECONDS_MAX = 20
#: Far longer than any test takes: who is answered sooner was woken.
LONG_SECONDS = 300
Reader = Annotated[Caller, Depends(require(Role.READER))]


class Site:
    """A server with a number that may be waited for."""

    def __init__(self, connection_count_max: int) -> None:
        self.bells: Bells[str] = Bells()
        self.number = 0
        #: Called in the middle of each read of the number, which does not see what it does.
        self.while_reading: Callable[[], object] = lambda: None
        entries = [
            {"sha256": digest_of(token), "tenant": tenant, "role": "reader", "name": token}
            for token, tenant in TOKENS.items()
        ]
        health = Health()
        health.started()
        limits = ServerLimits(connection_count_max=connection_count_max)
        self.app: FastAPI = create_app(
            "t", SETTINGS, health, new_registry(), Tokens(json.dumps(entries)), limits
        )
        self.url = ""

        def read() -> int:
            number = self.number
            self.while_reading()
            return number

        @self.app.get("/v1/tenants/{tenant}/number")
        async def number(http: Request, _: Reader, above: int, wait_seconds: float = 0) -> int:
            async def look() -> int:
                return await to_thread.run_sync(read)

            def enough(found: int, _news_count: int) -> bool:
                return found > above

            return await read_or_wait(http, self.bells, "number", look, enough, wait_seconds)

        @self.app.get("/v1/tenants/{tenant}/volumes")
        def volumes(_: Reader) -> str:
            return "none"

    def change(self) -> None:
        self.number += 1
        self.bells.ring("number")

    def poll(self, token: str) -> Poll:
        """Somebody waits for the number to change."""
        query = f"above={self.number}&wait_seconds={LONG_SECONDS}"
        return Poll(self.url, f"/v1/tenants/{tenant_of(token)}/number?{query}", token)

    def status(self, token: str) -> int:
        """Of a request that does not wait."""
        url = f"{self.url}/v1/tenants/{tenant_of(token)}/volumes"
        headers = {"Authorization": f"Bearer {token}"}
        return urllib3.request("GET", url, headers=headers, retries=False, timeout=20).status

    def wait_for_polls(self, count: int) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while self.bells.waiting_count != count:
            assert time.monotonic() < deadline, f"{self.bells.waiting_count} wait, not {count}"
            time.sleep(0.01)


@contextlib.contextmanager
def running(connection_count_max: int) -> Iterator[Site]:
    site = Site(connection_count_max)
    with serving(site.app, SETTINGS) as site.url:
        yield site
        site.bells.close()


@pytest.fixture
def site() -> Iterator[Site]:
    """Four polls of a tenant, three of a token, twelve of all."""
    with running(16) as site:
        yield site


def tenant_of(token: str) -> str:
    return TOKENS[token].replace("*", "acme")


def test_500_who_wait_hold_no_thread_and_all_are_woken() -> None:
    earlier = set(threading.enumerate())  # a test before this one may have left some
    with running(2048) as site, contextlib.ExitStack() as stack:
        for _ in range(2 * SETTINGS.request_thread_count_max):
            assert site.status("modest") == 200
        polls: list[Poll] = []
        while len(polls) < 500:  # no more at once than may be in line
            polls += [stack.enter_context(site.poll(token)) for token in ("any", "other") * 25]
            site.wait_for_polls(len(polls))
        names = sorted(thread.name for thread in {*threading.enumerate()} - earlier)
        workers = [name for name in names if "AnyIO" in name]
        assert len(workers) <= SETTINGS.request_thread_count_max
        assert len(names) - len(workers) <= 4, names
        assert site.status("modest") == 200
        site.change()
        assert {poll.answer() for poll in polls} == {(200, 1)}
        assert site.bells.wake_count == 500


def test_news_while_one_reads_is_not_missed(site: Site) -> None:
    def change_once() -> None:
        site.while_reading = lambda: None
        site.change()

    site.while_reading = change_once
    with site.poll("one") as poll:
        assert poll.answer() == (200, 1)


def test_a_bell_without_news_wakes_and_the_wait_goes_on(site: Site) -> None:
    with site.poll("one") as poll:
        site.wait_for_polls(1)
        for count in range(1, 4):
            site.bells.ring_all()
            deadline = time.monotonic() + SECONDS_MAX
            while site.bells.wake_count < count:
                assert time.monotonic() < deadline
        site.bells.ring("something else")
        site.change()
        assert poll.answer() == (200, 1)


def test_who_waits_in_vain_gets_what_there_is(site: Site) -> None:
    url = f"{site.url}/v1/tenants/acme/number?above=0&wait_seconds=0.05"
    answer = urllib3.request("GET", url, headers={"Authorization": "Bearer one"}, timeout=20)
    assert (answer.status, answer.json()) == (200, 0)


def test_one_token_and_one_tenant_leave_polls_to_others(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for token, count in (("one", 3), ("two", 1)):
            for _ in range(count):
                stack.enter_context(site.poll(token))
        site.wait_for_polls(4)
        for token, whose in (("one", "token one of tenant acme"), ("two", "tenant acme")):
            with site.poll(token) as refused:
                status, problem = refused.answer()
            assert (status, problem["code"], problem["retriable"]) == (
                429,
                "too-many-requests",
                True,
            )
            assert whose in problem["detail"]
        for token in ("modest", "modest", "modest", "any", "any", "any", "any", "other"):
            stack.enter_context(site.poll(token))
        site.wait_for_polls(12)
        with site.poll("other") as refused:
            status, problem = refused.answer()
        assert (status, "of all tenants" in problem["detail"]) == (429, True)
        # Whoever does not wait is served as ever, and so is the tenant whose polls are all taken.
        for token in ("one", "two", "modest", "third"):
            assert site.status(token) == 200


def test_a_client_that_goes_away_frees_its_place_and_is_no_error(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(site.poll("one"))
            site.wait_for_polls(3)
        site.wait_for_polls(0)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    with site.poll("one") as poll:
        site.wait_for_polls(1)
        site.change()
        assert poll.answer() == (200, 1)


def test_polls_do_not_keep_a_server_from_ending() -> None:
    begun = time.monotonic()
    with running(64) as site, contextlib.ExitStack() as stack:
        polls = [stack.enter_context(site.poll("one")) for _ in range(10)]
        site.wait_for_polls(10)
        site.bells.close()
        assert {poll.answer() for poll in polls} == {(200, 0)}
    assert time.monotonic() - begun < SETTINGS.stop_timeout_seconds
