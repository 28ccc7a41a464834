"""Requests in work end with an issuer's token, and one person has one share under all tokens."""

import threading
import time
from typing import Annotated

import pytest
import urllib3
from fastapi import Depends

from libs.access.oidc.verifying import LEEWAY_SECONDS
from libs.rest.auth import Caller, Role, require
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from tests.unit.access.oidc.test_issued import NOW, Site

#: One tenant gets two requests at once, and one token or person of it one.
SETTINGS = ServiceSettings(listen="127.0.0.1:0", request_thread_count_max=4)
SECONDS_MAX = 60.0


class Service:
    """A service whose requests last until a test lets them end."""

    def __init__(self, site: Site) -> None:
        self.begun, self.goes_on = threading.Semaphore(0), threading.Event()
        #: Whose requests have begun.
        self.names: list[str] = []
        limits = ServerLimits(connection_count_max=100)
        self.app = create_app("t", SETTINGS, Health(), new_registry(), site.tokens, limits)

        @self.app.get("/v1/tenants/{tenant}/x")
        def wait(caller: Annotated[Caller, Depends(require(Role.READER))]) -> str:
            self.names.append(caller.name)
            self.begun.release()
            self.goes_on.wait(SECONDS_MAX)
            return caller.name


class Asking(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._url, self._token = url, token
        self.start()

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        url = f"{self._url}/v1/tenants/acme/x"
        self.answer = urllib3.request("GET", url, headers=headers, retries=False)


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_request_ends_with_the_time_of_its_token(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service = Service(site)
    with serving(service.app, SETTINGS) as url:
        asking = Asking(url, site.token(exp=NOW + 100))
        assert service.begun.acquire(timeout=SECONDS_MAX)
        site.now = NOW + 100 + LEEWAY_SECONDS
        deadline = time.monotonic() + SECONDS_MAX
        while "request ended with its token" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        service.goes_on.set()
        asking.join()
    assert asking.answer.status == 401
    assert asking.answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_a_person_has_one_share_under_all_tokens(site: Site) -> None:
    service = Service(site)
    with serving(service.app, SETTINGS) as url:
        first = Asking(url, site.token())
        assert service.begun.acquire(timeout=SECONDS_MAX)
        again = Asking(url, site.token(jti="another"))
        other = Asking(url, site.token(sub="bob"))
        assert service.begun.acquire(timeout=SECONDS_MAX)
        host = "login.example.org/realms/test"
        assert service.names == [f"alice@{host}", f"bob@{host}"]
        service.goes_on.set()
        for asking in (first, again, other):
            asking.join()
    names = [one.answer.json() for one in (first, again, other)]
    assert names == [f"alice@{host}", f"alice@{host}", f"bob@{host}"]
