"""People by OIDC: a running service, a running issuer, and what happens when either changes."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
from prometheus_client import CollectorRegistry

from libs.access.accepted import AcceptedTokens
from libs.access.oidc import keys as issuer_keys
from libs.access.oidc.fetching import DOCUMENT_SIZE_BYTES_MAX, fetch_keys
from libs.access.oidc.issued import IssuedTokens
from libs.access.oidc.keys import IssuerKeys
from libs.access.oidc.mapping import Mapping, MappingEntry
from libs.access.oidc.verifying import Expected
from libs.access.token_file import TokenFile
from libs.rest.auth import Role
from libs.runtime.groups import OidcSettings
from tests.integration.restore.conftest import TENANT, RestoreSite, free_address, serving
from tests.support.issuer import (
    AUDIENCE,
    PATH,
    Issuer,
    SigningKey,
    claims_of,
    hmac_token,
    running_issuer,
    unsigned,
)

SECONDS_MAX = 60.0
#: Instead of half a minute.
AGAIN_SECONDS = 0.2
FIRST, SECOND = SigningKey("first", "RS256"), SigningKey("second")
READERS = {"value": "readers", "tenant": TENANT, "roles": ["reader"]}
RESTORERS = {"value": "restorers", "tenant": TENANT, "roles": ["restore"]}


@dataclass(frozen=True)
class People:
    """A service that accepts tokens of an issuer."""

    url: str
    issuer: Issuer
    mapping: Path

    def token(self, key: SigningKey = FIRST, **claims: Any) -> str:
        return key.token(self.claims(**claims))

    def claims(self, **claims: Any) -> dict[str, Any]:
        return claims_of(self.issuer.url, time.time(), **{"exp": time.time() + 3600, **claims})

    def ask(
        self, token: str, path: str = f"/v1/tenants/{TENANT}/volumes"
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {token}"}
        return urllib3.request("GET", f"{self.url}{path}", headers=headers, retries=False)

    def status(self, token: str) -> int:
        return self.ask(token).status

    def write(self, *entries: dict[str, Any]) -> None:
        beside = self.mapping.with_suffix(".new")
        beside.write_text(json.dumps(entries))
        beside.rename(self.mapping)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        running.keys = [FIRST]
        yield running


@pytest.fixture
def people(
    site: RestoreSite, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[People]:
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", AGAIN_SECONDS)
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps([RESTORERS, READERS]))
    settings = dataclasses.replace(
        site.settings,
        listen=free_address(),
        oidc=OidcSettings(issuer=issuer.url, audience=AUDIENCE, mapping_file=mapping),
    )
    with serving(settings) as url:
        yield People(url, issuer, mapping)


def test_a_person_may_what_the_mapping_says_and_is_in_the_audit_log(
    site: RestoreSite, people: People
) -> None:
    reader, restorer = people.token(), people.token(sub="bob", groups=["restorers"])
    eventually(lambda: people.status(reader) == 200)
    assert people.status(restorer) == 200
    data = f"/v1/tenants/{TENANT}/volumes/disk/points/1/bytes"
    assert people.ask(reader, data).status == 403
    assert people.ask(reader, "/v1/tenants/other/volumes").status == 403
    assert people.ask(restorer, data).status == 200
    host = people.issuer.url.removeprefix("https://")
    found = site.catalog.sql(
        "SELECT token, roles, status FROM audit WHERE token LIKE %s ORDER BY number", f"%@{host}"
    )
    assert [tuple(one) for one in found] == [
        (f"alice@{host}", ["reader"], 403),
        (f"alice@{host}", ["reader"], 403),
        (f"bob@{host}", ["reader", "restore"], 200),
    ]


def test_everything_else_is_refused_without_a_reason(people: People) -> None:
    eventually(lambda: people.status(people.token()) == 200)
    now = time.time()
    refused = {
        "audience": people.token(aud="https://other.example.org"),
        "issuer": people.token(iss="https://other.example.org"),
        "not yet": people.token(nbf=now + 10_000),
        "nothing mapped": people.token(groups=["unknown"]),
        "id token": people.token(nonce="n"),
        "none": unsigned({"alg": "none", "typ": "JWT"}, people.claims()) + ".",
        "confusion": hmac_token(FIRST.pem, people.claims(), FIRST.kid),
        "stranger": SigningKey(FIRST.kid, "RS256").token(people.claims()),
        "long": people.token(more="x" * 9000),
    }
    for what, token in refused.items():
        answer = people.ask(token)
        assert answer.status == 401, what
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert answer.json()["detail"] == "expected 'Authorization: Bearer' with a known token"
    without = urllib3.request("GET", f"{people.url}/v1", retries=False)
    assert without.headers["WWW-Authenticate"] == "Bearer"


def test_whoever_has_a_token_of_the_issuer_is_told_that_it_has_expired(people: People) -> None:
    eventually(lambda: people.status(people.token()) == 200)
    answer = people.ask(people.token(exp=time.time() - 100))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert "has expired; log in at the issuer again" in answer.json()["detail"]
    stranger = SigningKey(FIRST.kid, "RS256").token(people.claims(exp=time.time() - 100))
    assert "expired" not in people.ask(stranger).json()["detail"]


def test_a_flood_of_made_up_keys_does_not_reach_the_issuer(people: People) -> None:
    eventually(lambda: people.status(people.token()) == 200)
    asked, begun = len(people.issuer.asked), time.monotonic()
    claims = people.claims()
    for number in range(100):
        token = SECOND.token(claims, kid=f"made-up-{number}")
        assert people.status(token) == 401
    seconds = time.monotonic() - begun
    # Two exchanges each time, with what was under way before.
    assert len(people.issuer.asked) - asked <= 2 * (seconds / AGAIN_SECONDS + 2)


def test_keys_are_exchanged_while_the_service_runs(people: People) -> None:
    old = people.token()
    eventually(lambda: people.status(old) == 200)
    people.issuer.keys = [FIRST, SECOND]
    new = people.token(SECOND)
    eventually(lambda: people.status(new) == 200)
    assert people.status(old) == 200
    people.issuer.keys = [SECOND]
    unknown = SECOND.token(people.claims(), kid="unknown")  # has the keys looked at again
    eventually(lambda: people.status(unknown) == 401 and people.status(old) == 401)
    assert people.status(new) == 200


def test_a_service_starts_and_goes_on_without_its_issuer(
    site: RestoreSite, issuer: Issuer, people: People
) -> None:
    token = people.token()
    eventually(lambda: people.status(token) == 200)
    issuer.instead[f"{PATH}/keys"] = b'{"keys": []}' + b" " * DOCUMENT_SIZE_BYTES_MAX
    asked = len(issuer.asked)
    unknown = SECOND.token(people.claims())
    eventually(lambda: people.status(unknown) == 401 and len(issuer.asked) > asked + 3)
    assert people.status(token) == 200
    issuer.instead.clear()
    issuer.down = True
    oidc = OidcSettings(issuer=issuer.url, audience=AUDIENCE, mapping_file=people.mapping)
    later = dataclasses.replace(site.settings, listen=free_address(), oidc=oidc)
    with serving(later) as url:  # which waits until it is ready
        other = People(url, issuer, people.mapping)
        assert other.status("reader") == 200  # of the token file
        answer = other.ask(token)
        assert (answer.status, answer.json()["retriable"]) == (503, True)
        issuer.down = False
        eventually(lambda: other.status(token) == 200)
    assert people.status(token) == 200


def test_a_changed_mapping_counts_without_a_restart(people: People) -> None:
    token = people.token()
    eventually(lambda: people.status(token) == 200)
    people.write(RESTORERS)
    eventually(lambda: people.status(token) == 401)
    people.write(RESTORERS, READERS)
    eventually(lambda: people.status(token) == 200)


def test_requests_in_work_are_held_by_the_issuer_alone(site: RestoreSite, issuer: Issuer) -> None:
    """Neither the token file nor the catalog knows such an entry."""
    mapping = Mapping([MappingEntry(value="readers", tenant=TENANT, roles=(Role.READER,))])
    keys = IssuerKeys(issuer.url, lambda: fetch_keys(issuer.url, None), time.monotonic)
    keys.refresh()
    expected = Expected(issuer.url, AUDIENCE, "groups")
    issued = IssuedTokens(expected, keys, lambda: mapping, CollectorRegistry())
    tokens = AcceptedTokens(TokenFile(site.settings.tokens), site.catalog.restore, issued)
    entry = tokens.find(FIRST.token(claims_of(issuer.url, time.time(), exp=time.time() + 3600)))
    assert entry
    assert tokens.holds(entry)
    mapping = Mapping()
    assert not tokens.holds(entry)
