"""Token files, and what is answered while nobody can say whose token it is."""

from collections.abc import Iterator
from typing import Annotated

import pytest
import urllib3
from fastapi import Depends

from libs.errors import ConfigurationError, UnavailableError
from libs.rest.auth import Authority, Caller, Role, TokenEntry, Tokens, require
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

SETTINGS = ServiceSettings(listen="127.0.0.1:0")
TOKENS = ("", "a token of the catalog")


class NobodyKnows:
    """Tokens while the catalog was not heard of for long, as after the loss of its Postgres."""

    def find(self, token: str) -> TokenEntry | None:
        raise UnavailableError("tokens: the catalog was not heard of")

    def holds(self, entry: TokenEntry) -> bool:
        raise UnavailableError("tokens: the catalog was not heard of")


_: type[Authority] = NobodyKnows


@pytest.fixture
def url() -> Iterator[str]:
    health = Health()
    app = create_app("Tried", SETTINGS, health, new_registry(), NobodyKnows())

    @app.get("/v1/tenants/{tenant}/volumes")
    def list_volumes(caller: Annotated[Caller, Depends(require(Role.READER))]) -> str:
        return caller.name

    health.started()
    with serving(app, SETTINGS) as url:
        yield url


def status(url: str, method: str, path: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return urllib3.request(method, url + path, headers=headers, retries=False, timeout=20).status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_service_is_alive_and_ready_while_nobody_knows_whose_tokens_are_good(
    url: str, method: str, path: str
) -> None:
    """Or every service would be restarted for ever, and the catalog could not be rebuilt."""
    assert [status(url, method, path, token) for token in TOKENS] == [200, 200]


def test_a_token_that_nobody_can_judge_is_not_called_wrong(url: str) -> None:
    answers = [status(url, "GET", "/v1/tenants/acme/volumes", token) for token in TOKENS]
    assert answers == [401, 503]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "nonsense",
        '[{"sha256": "AB", "tenant": "*", "role": "admin"}]',
        '[{"sha256": "%s", "tenant": "*", "role": "root"}]' % ("a" * 64),
        '[{"sha256": "%s", "tenant": "*", "role": "admin", "x": 1}]' % ("a" * 64),
        "[%s, %s]" % (('{"sha256": "%s", "tenant": "*", "role": "admin"}' % ("a" * 64),) * 2),
    ],
)
def test_a_malformed_token_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="token file"):
        Tokens(text)
