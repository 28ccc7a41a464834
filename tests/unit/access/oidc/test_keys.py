"""The issuer's keys: fetched in bounds, asked for no more often than is good, kept for a while."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from libs.access.oidc.fetching import DOCUMENT_SIZE_BYTES_MAX, fetch_keys
from libs.access.oidc.key_set import KeySet, parse_key_set
from libs.access.oidc.keys import AGAIN_SECONDS, KEEP_SECONDS, IssuerKeys
from libs.errors import ConfigurationError, UnavailableError
from libs.runtime.groups import OidcSettings
from tests.support.clock import SleepingClock
from tests.support.issuer import PATH, Issuer, SigningKey, b64, running_issuer

DISCOVERY = f"{PATH}/.well-known/openid-configuration"
KEYS = f"{PATH}/keys"
FIRST, SECOND = SigningKey("first"), SigningKey("second")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        running.keys = [FIRST]
        yield running


@pytest.fixture
def clock() -> SleepingClock:
    return SleepingClock()


@pytest.fixture
def keys(issuer: Issuer, clock: SleepingClock) -> IssuerKeys:
    return IssuerKeys(issuer.url, lambda: fetch_keys(issuer.url, None), lambda: clock.now)


def wanted(keys: IssuerKeys) -> bool:
    """Whether its loop has been woken."""
    wake = keys.loop().wake
    assert wake
    return wake.is_set()


def test_keys_come_from_where_the_discovery_document_says(issuer: Issuer, keys: IssuerKeys) -> None:
    keys.refresh()
    assert issuer.asked == [DISCOVERY, KEYS]
    assert keys.find("first", "ES256")
    assert keys.find("first", "RS256") is None
    assert keys.age_seconds == 0


def document(url: str, **changes: Any) -> bytes:
    return json.dumps({"issuer": url, "jwks_uri": f"{url}/keys"} | changes).encode()


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        (DISCOVERY, b"<html>", "discovery document is none"),
        (DISCOVERY, b"{}", "discovery document is none"),
        (DISCOVERY, b"[" * 50_000, "discovery document is none"),
        (DISCOVERY, b" " * (DOCUMENT_SIZE_BYTES_MAX + 1), "longer than"),
        (DISCOVERY, {"issuer": "https://other.example.org"}, "is of 'https://other"),
        (DISCOVERY, {"jwks_uri": "http://192.0.2.1/keys"}, "expected https:"),
        (DISCOVERY, {"jwks_uri": "file:///etc/passwd"}, "expected https:"),
        (DISCOVERY, {"jwks_uri": "//x"}, "expected https:"),
        (DISCOVERY, {"jwks_uri": "https://["}, "cannot be asked"),
        (DISCOVERY, {"jwks_uri": "https://a..b/keys"}, "its keys: encoding"),
        (DISCOVERY, {"jwks_uri": "http://127.0.0.1:1/\u00e4"}, "GET /"),
        (DISCOVERY, {"jwks_uri": "http://127.0.0.1:1/a b"}, "GET /a b"),
        (KEYS, b"<html>", "expected a JWK set"),
        (KEYS, b'{"keys": []}', "none of the 0"),
        (KEYS, b'{"keys": [{"kty": "oct", "k": "AAAA"}]}', "none of the 1"),
        (KEYS, json.dumps({"keys": [{}] * 101}).encode(), "expected a JWK set"),
        (KEYS, b'{"keys": []}' + b" " * DOCUMENT_SIZE_BYTES_MAX, "longer than"),
    ],
)
def test_a_wrong_answer_changes_nothing(
    issuer: Issuer, keys: IssuerKeys, path: str, answer: Any, reason: str
) -> None:
    keys.refresh()
    issuer.instead[path] = answer if isinstance(answer, bytes) else document(issuer.url, **answer)
    with pytest.raises(UnavailableError, match=reason):
        keys.refresh()
    assert keys.find("first", "ES256")


def test_another_status_is_no_document(issuer: Issuer) -> None:
    with pytest.raises(UnavailableError, match="expected status 200, got 503"):
        fetch_keys(issuer.url + "/other", None)


def test_a_document_may_come_in_pieces(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.in_pieces = True
    keys.refresh()
    assert keys.find("first", "ES256")
    issuer.instead[KEYS] = b'{"keys": []}' + b" " * DOCUMENT_SIZE_BYTES_MAX
    with pytest.raises(UnavailableError, match="longer than"):
        keys.refresh()


def test_keys_that_are_of_no_use_are_passed_over() -> None:
    good = FIRST.jwk
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "later"},
        good | {"kid": "for-encryption", "use": "enc"},
        good | {"kid": "for-signing", "key_ops": ["sign"], "use": "sig"},
        good | {"kid": "of-another-algorithm", "alg": "ES512"},
        good | {"kid": "broken", "x": "AA"},
        good | {"kid": "no-text", "x": 5},
        good | {"kid": 5},
        good | {"kid": "private", "d": b64(_private_of(FIRST))},
        {"kid": "short"} | _short_rsa(),
    ]
    found = parse_key_set(json.dumps({"keys": [*others, good]}).encode())
    assert [one.kid for one in found.keys] == ["first"]


def _private_of(key: SigningKey) -> bytes:
    assert isinstance(key.key, ec.EllipticCurvePrivateKey)
    return key.key.private_numbers().private_value.to_bytes(32)


def _short_rsa() -> dict[str, Any]:
    return SigningKey("short", "RS256", size_bits=1024).jwk


def test_a_flood_of_names_asks_the_issuer_once(keys: IssuerKeys, clock: SleepingClock) -> None:
    keys.refresh()
    for number in range(1000):
        assert keys.find(f"made-up-{number}", "ES256") is None
    assert not wanted(keys)  # it was asked a moment ago
    clock.now += AGAIN_SECONDS
    for number in range(1000):
        assert keys.find(f"made-up-{number}", "ES256") is None
    assert wanted(keys)
    keys.refresh()
    for number in range(1000):
        assert keys.find(f"made-up-{number}", "ES256") is None
    assert not wanted(keys)


def test_a_known_name_asks_nobody(keys: IssuerKeys, clock: SleepingClock) -> None:
    keys.refresh()
    clock.now += AGAIN_SECONDS
    assert keys.find("first", "ES256")
    assert keys.find("first", "EdDSA") is None
    assert not wanted(keys)


def test_new_keys_take_the_place_of_old_ones(
    issuer: Issuer, keys: IssuerKeys, clock: SleepingClock
) -> None:
    keys.refresh()
    old = keys.find("first", "ES256")
    assert old
    issuer.keys = [SECOND]
    clock.now += AGAIN_SECONDS
    assert keys.find("second", "ES256") is None
    assert wanted(keys)
    keys.refresh()
    assert keys.find("second", "ES256")
    assert keys.find("first", "ES256") is None
    assert not keys.has(old.thumbprint)


def test_old_keys_count_for_a_while_without_their_issuer(
    issuer: Issuer, keys: IssuerKeys, clock: SleepingClock
) -> None:
    keys.refresh()
    issuer.down = True
    clock.now += KEEP_SECONDS
    with pytest.raises(UnavailableError):
        keys.refresh()
    known = keys.find("first", "ES256")
    assert known
    clock.now += 1
    for ask in (lambda: keys.find("first", "ES256"), lambda: keys.has(known.thumbprint)):
        with pytest.raises(UnavailableError, match="other tokens are good"):
            ask()
    issuer.down = False
    keys.refresh()
    assert keys.find("first", "ES256")


def test_before_the_first_answer_nobody_is_judged(keys: IssuerKeys) -> None:
    assert keys.age_seconds == float("inf")
    with pytest.raises(UnavailableError, match="nobody knows its keys"):
        keys.find("first", "ES256")


def test_names_are_asked_for_while_an_answer_is_under_way(clock: SleepingClock) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def fetch() -> KeySet:
        begun.set()
        assert goes_on.wait(30)
        return parse_key_set(json.dumps({"keys": [FIRST.jwk]}).encode())

    keys = IssuerKeys("https://i", fetch, lambda: clock.now)
    asking = threading.Thread(target=keys.refresh)
    asking.start()
    assert begun.wait(30)
    with pytest.raises(UnavailableError):  # and it does not wait
        keys.find("first", "ES256")
    goes_on.set()
    asking.join()
    assert keys.find("first", "ES256")


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://login.example.org"},
        {"issuer": "https://"},
        {"issuer": "https://login.example.org?x=1"},
        {"issuer": "https://login.example.org#x"},
        {"issuer": "https://u:p@login.example.org"},
        {"issuer": "https://login.example.org/ä"},
        {"audience": None},
        {"mapping_file": None},
        {"issuer": None},
    ],
)
def test_settings_that_would_let_in_others_are_refused(
    changes: dict[str, Any], tmp_path: Any
) -> None:
    good = {"issuer": "https://i.example.org/x", "audience": "a", "mapping_file": tmp_path / "m"}
    OidcSettings(**good)
    OidcSettings(**good | {"issuer": "http://127.0.0.1:8080/x"})
    with pytest.raises(ValueError, match="OIDC_"):
        OidcSettings(**good | changes)


def test_an_issuer_behind_a_stranger_is_not_believed(issuer: Issuer) -> None:
    """The port speaks no TLS: whoever sits there may be anybody."""
    with pytest.raises((UnavailableError, ConfigurationError)):
        fetch_keys(issuer.url.replace("http:", "https:"), None)
