"""Tokens of the catalog: accepted by every service within seconds, revoked, and never revived."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends

from libs.access.accepted import AcceptedTokens
from libs.access.token_file import TokenFile
from libs.catalogdb.access.tokens import (
    NewToken,
    add_token,
    reject_begun_with_revoked,
    revoke_token,
)
from libs.catalogdb.sessions.session import SessionView, open_session, read_session
from libs.errors import (
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.ids import uuid7
from libs.rest.auth import Caller, Role, digest_of, require
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.settings import read_secret
from libs.runtime.signals import Stop
from services.catalog.access.token_endpoints import add_token_routes
from tests.support.catalog import TENANT, CatalogSite, protect

SECONDS_MAX = 30.0
ADMIN = "admin-of-the-file"


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    path = tmp_path / "tokens.json"
    entry = {"sha256": digest_of(ADMIN), "name": "root", "tenant": "*", "roles": ["admin"]}
    path.write_text(json.dumps([entry]))
    return TokenFile(read_secret(str(path)))


@pytest.fixture
def url(site: CatalogSite, file: TokenFile) -> Iterator[str]:
    """The catalog service's endpoints of tokens, and two that others would have."""
    settings, stop = ServiceSettings(), Stop()
    tokens = AcceptedTokens(file, site.catalog)
    app = create_app("test", settings, Health(), new_registry(), tokens)
    add_token_routes(app, site.catalog)

    @app.get("/v1/tenants/{tenant}/volumes")
    def volumes(caller: Annotated[Caller, Depends(require(Role.READER))]) -> list[str]:
        return [caller.name]

    with serving(app, settings) as running:
        threads = start_loops([tokens.loop()], Health(), stop)
        yield running
        stop.request()
        for thread in threads:
            thread.join()


def admin(url: str) -> RestClient:
    return RestClient(url, ADMIN)


def add(url: str, name: str, **more: Any) -> Any:
    body = {"roles": ["reader"], "tenant": TENANT, **more}
    return admin(url).post(f"/v1/tokens/{name}", body)


def volumes(url: str, token: str) -> Any:
    return RestClient(url, token).get(f"/v1/tenants/{TENANT}/volumes")


def eventually(call: Callable[[], Any]) -> Any:
    """What a call gives, once it is let in."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        try:
            return call()
        except ForbiddenError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def eventually_unknown(url: str, token: str) -> str:
    """What is said of a token as soon as it is refused."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        try:
            volumes(url, token)
        except UnauthenticatedError as err:
            return str(err)
        assert time.monotonic() < deadline, "a revoked token is accepted"
        time.sleep(0.05)


def test_a_token_is_shown_once_and_accepted_until_it_is_revoked(
    site: CatalogSite, url: str
) -> None:
    added = add(url, "nightly")
    token = added.pop("token")
    assert eventually(lambda: volumes(url, token)) == ["nightly"]
    (listed,) = admin(url).get("/v1/tokens")
    assert listed == added
    assert (listed["added_by"], listed["accepted"]) == ("root", True)
    kept = " ".join(str(row) for row in site.sql("SELECT * FROM token"))
    assert token not in kept
    assert digest_of(token) in kept
    with pytest.raises(ConflictError, match="one of this name"):
        add(url, "nightly")
    assert admin(url).post("/v1/tokens/nightly/revocation")["accepted"] is False
    eventually_unknown(url, token)
    again = add(url, "nightly")["token"]
    assert eventually(lambda: volumes(url, again)) == ["nightly"]
    assert [one["accepted"] for one in admin(url).get("/v1/tokens")] == [True, False]


def test_a_token_expires(url: str) -> None:
    token = add(url, "short", lasts_seconds=3)["token"]
    eventually(lambda: volumes(url, token))
    assert "token short: has expired at " in eventually_unknown(url, token)
    assert admin(url).get("/v1/tokens")[0]["accepted"] is False


def test_only_an_administrator_of_all_tenants_adds_tokens(url: str) -> None:
    tokens = {
        name: add(url, name, roles=[name], tenant=tenant)["token"]
        for name, tenant in [("operator", "*"), ("delete", "*"), ("admin", TENANT)]
    }
    eventually(lambda: volumes(url, tokens["admin"]))
    for token in tokens.values():
        for path, body in [
            ("/v1/tokens/mine", {"roles": ["admin"], "tenant": "*"}),
            ("/v1/tokens/delete/revocation", None),
        ]:
            with pytest.raises(ForbiddenError):
                RestClient(url, token).post(path, body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"roles": ["operator", "delete"], "tenant": TENANT}, "must not delete"),
        ({"roles": ["coordinator"], "tenant": "*"}, "roles"),
        ({"roles": ["workstation"], "tenant": "*"}, "roles"),
        ({"roles": [], "tenant": "*"}, "roles"),
        ({"roles": ["reader"], "tenant": "*", "groups": ["web"]}, "name the tenant"),
        ({"roles": ["reader"], "tenant": "No Name"}, "tenant"),
        ({"roles": ["reader"], "tenant": TENANT, "lasts_seconds": 0}, "lasts_seconds"),
    ],
)
def test_a_token_that_nobody_may_have_is_refused(
    url: str, body: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        admin(url).post("/v1/tokens/odd", body)
    assert admin(url).get("/v1/tokens") == []


def test_a_token_that_is_not_there_cannot_be_revoked(url: str) -> None:
    with pytest.raises(NotFoundError, match="revoked in the file"):
        admin(url).post("/v1/tokens/root/revocation")


def new(name: str) -> NewToken:
    return NewToken(name, digest_of(name), TENANT, ["operator"], [], None)


@pytest.mark.parametrize("service", ["coordinator", "restore", "catalog"])
def test_each_service_that_has_the_catalog_looks_tokens_up(
    site: CatalogSite, file: TokenFile, service: str
) -> None:
    tokens = AcceptedTokens(file, getattr(site, service))
    add_token(site.catalog, new("one"), "root")
    tokens.refresh()
    found = tokens.find("one")
    assert found
    assert found.rights == {Role.READER, Role.OPERATOR}
    revoke_token(site.catalog, "one", "root")
    tokens.refresh()
    assert tokens.find("one") is None
    assert not tokens.holds(found)


def test_nobody_is_believed_for_ever_while_the_catalog_is_away(
    site: CatalogSite, file: TokenFile
) -> None:
    tokens = AcceptedTokens(file, site.restore, trust_seconds=0.5)
    add_token(site.catalog, new("one"), "root")
    tokens.refresh()
    found = tokens.find("one")
    assert found
    deadline = time.monotonic() + SECONDS_MAX
    with contextlib.suppress(UnavailableError):
        while tokens.find("one"):
            assert time.monotonic() < deadline, "it is believed for ever"
            threading.Event().wait(0.05)
    for ask in (lambda: tokens.find("one"), lambda: tokens.holds(found)):
        with pytest.raises(UnavailableError, match="those of token files are"):
            ask()
    assert tokens.find(ADMIN)  # whoever mends it
    tokens.refresh()
    assert tokens.find("one")


def test_a_catalog_that_went_back_revives_no_token(site: CatalogSite, file: TokenFile) -> None:
    tokens = AcceptedTokens(file, site.restore, trust_seconds=0.0)
    add_token(site.catalog, new("one"), "root")
    (life,) = site.sql("SELECT life FROM incarnation")[0]
    site.sql("UPDATE incarnation SET life = 'another'")
    try:
        tokens.refresh()  # it may have gone back, and is not compared yet
        with pytest.raises(UnavailableError):
            tokens.find("one")
    finally:
        site.sql("UPDATE incarnation SET life = %s, number = number + 1", life)
    trusting = AcceptedTokens(file, site.restore)
    trusting.refresh()
    assert trusting.find("one") is None
    site.sql("UPDATE incarnation SET number = number - 1")


def test_a_session_ends_with_the_token_that_began_it(site: CatalogSite) -> None:
    for group in ("vm", "other"):
        protect(site, group)
    add_token(site.catalog, new("one"), "root")

    def begun(group: str, token: str) -> SessionView:
        view = open_session(
            site.coordinator, TENANT, group, uuid7(), 60, opened_with=digest_of(token)
        )
        assert isinstance(view, SessionView)
        return view

    revoked, kept = begun("vm", "one"), begun("other", "of a file")
    revoke_token(site.catalog, "one", "root")
    view = read_session(site.coordinator, revoked.session)
    assert (view.state, view.reject_code) == ("rejected", "token-revoked")
    assert read_session(site.coordinator, kept.session).state == "open"
    late = begun("vm", "one")  # by a service that did not know yet
    assert reject_begun_with_revoked(site.catalog) == [late.session]
    assert reject_begun_with_revoked(site.catalog) == []
