"""Tokens of an issuer under the mapping: what they may, for how long, and under which name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from libs.access.oidc.entry import looks_issued
from libs.access.oidc.issued import IssuedTokens, name_of
from libs.access.oidc.key_set import KeySet, parse_key_set
from libs.access.oidc.keys import KEEP_SECONDS, IssuerKeys
from libs.access.oidc.mapping import Mapping, MappingEntry, read_mapping
from libs.access.oidc.verifying import LEEWAY_SECONDS, Expected
from libs.errors import ConfigurationError, UnauthenticatedError, UnavailableError
from libs.rest.auth import Role, TokenEntry
from libs.runtime.groups import NO_ISSUER, OidcSettings
from tests.support.issuer import AUDIENCE, SigningKey, claims_of

ISSUER = "https://login.example.org/realms/test"
NOW = 1_800_000_000.0
KEY, NEXT = SigningKey("first"), SigningKey("second")


class Site:
    """Issued tokens whose issuer, mapping and clocks a test moves."""

    def __init__(self) -> None:
        self.now = NOW
        self.monotonic = 1_000.0
        self.published = [KEY]
        self.mapping = Mapping(
            [
                mapped("admins", roles=(Role.ADMIN,), tenant="*"),
                mapped("web", roles=(Role.OPERATOR,), groups=("web",)),
                mapped("readers"),
            ]
        )
        self.registry = CollectorRegistry()
        self.keys = IssuerKeys(ISSUER, self._fetch, lambda: self.monotonic)
        self.keys.refresh()
        self.tokens = IssuedTokens(
            Expected(ISSUER, AUDIENCE, "groups"),
            self.keys,
            lambda: self.mapping,
            self.registry,
            lambda: self.now,
        )

    def _fetch(self) -> KeySet:
        return parse_key_set(json.dumps({"keys": [one.jwk for one in self.published]}).encode())

    def token(self, **claims: Any) -> str:
        return KEY.token(claims_of(ISSUER, NOW, **claims))

    def found(self, token: str) -> TokenEntry:
        entry = self.tokens.find(token)
        assert entry
        return entry

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0


def mapped(value: str, **more: Any) -> MappingEntry:
    return MappingEntry(**{"value": value, "tenant": "acme", "roles": (Role.READER,), **more})


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_person_may_what_the_mapping_says(site: Site) -> None:
    entry = site.found(site.token(groups=["unknown", "web"]))
    assert (entry.tenant, entry.groups) == ("acme", ("web",))
    assert entry.rights == {Role.READER, Role.OPERATOR}
    assert entry.label == "alice@login.example.org/realms/test"
    assert site.tokens.holds(entry)


@pytest.mark.parametrize("groups", [None, [], ["unknown"], ["Readers"], ["readers "], "reader", 5])
def test_nobody_may_do_anything_by_default(site: Site, groups: Any) -> None:
    assert site.tokens.find(site.token(groups=groups)) is None
    assert site.count("backcast_oidc_refused_total", reason="mapping") == 1


def test_the_first_entry_that_fits_decides_alone(site: Site) -> None:
    both = site.found(site.token(groups=["readers", "web", "admins"]))
    assert (both.tenant, both.roles) == ("*", (Role.ADMIN,))


def test_a_changed_mapping_counts_at_once(site: Site) -> None:
    token = site.token()
    before = site.found(token)
    site.mapping = Mapping([mapped("readers", roles=(Role.RESTORE,))])
    assert not site.tokens.holds(before)
    assert site.found(token).roles == (Role.RESTORE,)
    site.mapping = Mapping()
    assert site.tokens.find(token) is None
    assert not site.tokens.holds(before)


def test_a_token_ends_with_its_time(site: Site) -> None:
    token = site.token(exp=NOW + 100)
    entry = site.found(token)
    site.now = NOW + 100 + LEEWAY_SECONDS - 1
    assert site.found(token) == entry
    assert site.tokens.holds(entry)
    site.now += 1
    with pytest.raises(UnauthenticatedError, match=r"has expired; log in at the issuer"):
        site.tokens.find(token)
    assert not site.tokens.holds(entry)


def test_a_token_that_was_never_ours_is_not_called_expired(site: Site) -> None:
    over = NOW - LEEWAY_SECONDS
    for claims in ({"aud": "other"}, {"iss": "other"}):
        assert site.tokens.find(site.token(exp=over, **claims)) is None
    forged = site.token(exp=over)[:-8] + "AAAAAAAA"
    assert site.tokens.find(forged) is None


def test_a_token_ends_with_its_key(site: Site) -> None:
    token = site.token()
    entry = site.found(token)
    site.published = [KEY, NEXT]
    site.keys.refresh()
    assert site.tokens.holds(entry)
    site.published = [NEXT]
    site.keys.refresh()
    assert site.tokens.find(token) is None
    assert not site.tokens.holds(entry)


def test_a_remembered_token_does_not_outlive_what_is_known_of_keys(site: Site) -> None:
    token = site.token(exp=NOW + 10 * KEEP_SECONDS)
    entry = site.found(token)
    site.monotonic += KEEP_SECONDS + 1
    for ask in (lambda: site.tokens.find(token), lambda: site.tokens.holds(entry)):
        with pytest.raises(UnavailableError):
            ask()


def test_a_token_is_verified_once(site: Site) -> None:
    token = site.token()
    for _ in range(100):
        site.found(token)
    assert site.count("backcast_oidc_verified_total") == 1


def test_what_is_remembered_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.access.oidc.issued._REMEMBERED_COUNT_MAX", 2)
    one, two, three = (site.token(sub=name) for name in ("one", "two", "three"))
    entry = site.found(one)
    for token in (two, one, three, one):
        site.found(token)
    assert site.count("backcast_oidc_verified_total") == 3  # `one` was used last
    site.found(two)
    assert site.count("backcast_oidc_verified_total") == 4
    assert site.tokens.holds(entry)


def test_entries_of_others_are_not_held(site: Site) -> None:
    other = TokenEntry(sha256="a" * 64, tenant="*", roles=(Role.ADMIN,))
    assert not site.tokens.holds(other)


def test_the_reason_of_a_refusal_is_in_the_log_and_floods_it_not(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        assert site.tokens.find(site.token(aud="other")) is None
    assert site.tokens.find(site.token(iss="other")) is None
    reasons = [record.__dict__["reason"] for record in caplog.records]
    assert reasons == ["audience", "issuer"]
    assert site.count("backcast_oidc_refused_total", reason="audience") == 100
    site.now += 1
    site.tokens.find(site.token(aud="other"))
    assert len(caplog.records) == 3
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_keys_have_an_age_in_the_metrics(site: Site) -> None:
    site.monotonic += 5
    assert site.count("backcast_oidc_keys_age_seconds") == 5


def test_nobody_is_called_like_somebody_else() -> None:
    long = "x" * 100
    names = {
        name_of(issuer, subject)
        for issuer in (ISSUER, "https://other.example.org", "https://" + "y" * 80)
        for subject in ("alice", "bob", long, long + "1", "x" * 38)
    }
    assert len(names) == 15
    assert all(len(name) <= 63 for name in names)
    shortened = name_of(ISSUER, long)
    assert not shortened.isascii()  # no subject and no issuer has such a character


def test_only_jwts_are_asked_for_at_the_issuer(site: Site) -> None:
    assert looks_issued(site.token())
    for other in ("", "secret", "a.b.c", "eyJ", "eyJh.b", "eyJh.b.c.d"):
        assert not looks_issued(other)


def entry(**changes: Any) -> dict[str, Any]:
    return {"value": "a", "tenant": "acme", "roles": ["reader"], **changes}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry(), entry(tenant="other")], "twice"),
        ([entry(roles=["operator", "delete"])], "must not delete"),
        ([entry(roles=["coordinator"])], "for no person"),
        ([entry(roles=["workstation"])], "for no person"),
        ([entry(roles=["root"])], "root"),
        ([entry(roles=[])], "roles"),
        ([entry(value="")], "empty value"),
        ([entry(tenant="No Name")], "tenant name"),
        ([entry(tenant="*", groups=["web"])], "no tenant whose they are"),
        ([{"value": "a", "roles": ["reader"]}], "tenant"),
        ([entry(role="admin")], "role"),
        ({}, "array"),
    ],
)
def test_a_mapping_that_nobody_may_have_is_refused(
    entries: Any, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=reason):
        read_mapping(file)


def test_a_service_without_an_issuer_asks_nobody_and_a_wrong_file_stops_it(tmp_path: Path) -> None:
    assert IssuedTokens.of(NO_ISSUER, CollectorRegistry()) is None
    file = tmp_path / "mapping.json"
    settings = OidcSettings(issuer=ISSUER, audience=AUDIENCE, mapping_file=file)
    for text in (None, "nonsense"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(ConfigurationError, match="OIDC mapping"):
            IssuedTokens.of(settings, CollectorRegistry())
    file.write_text("[]")
    tokens = IssuedTokens.of(settings, CollectorRegistry())
    assert tokens
    assert tokens.loop().name == "oidc"


def test_a_mapping_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps([entry(groups=["web"]), entry(value="b", tenant="*")]))
    mapping = read_mapping(file)
    assert mapping.find(["b"]) == mapped("b", tenant="*")
    assert mapping.find(["c"]) is None
    file.write_text(" " * (1 << 20) + "[]")
    with pytest.raises(ValueError, match="longer than"):
        read_mapping(file)
