"""Which tokens are the issuer's, made for us, and good now."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.access.oidc.key_set import ALGORITHMS, KeySet, parse_key_set
from libs.access.oidc.verifying import (
    LEEWAY_SECONDS,
    TOKEN_SIZE_BYTES_MAX,
    Expected,
    RefusedError,
    Verified,
    verify,
)
from tests.support.issuer import AUDIENCE, SigningKey, b64, claims_of, hmac_token, unsigned

ISSUER = "https://login.example.org/realms/test"
EXPECTED = Expected(ISSUER, AUDIENCE, "groups")
NOW = 1_800_000_000.0

KEYS = {one: SigningKey(f"key-{one}", one) for one in ALGORITHMS}
STRANGER = SigningKey("key-ES256")
SET = parse_key_set(json.dumps({"keys": [one.jwk for one in KEYS.values()]}).encode())
ES = KEYS["ES256"]


def claims(**more: Any) -> dict[str, Any]:
    return claims_of(ISSUER, NOW, **more)


def judge(token: str, keys: KeySet = SET, now: float = NOW) -> Verified:
    return verify(token, keys, EXPECTED, now)


def refusal(token: str, keys: KeySet = SET, now: float = NOW) -> str:
    with pytest.raises(RefusedError) as refused:
        judge(token, keys, now)
    return refused.value.reason


def only(key: SigningKey, **changes: Any) -> KeySet:
    return parse_key_set(json.dumps({"keys": [key.jwk | changes]}).encode())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_the_issuer_is_accepted(algorithm: str) -> None:
    found = judge(KEYS[algorithm].token(claims()))
    assert (found.subject, found.values) == ("alice", ("readers",))
    assert found.expires_at == NOW + 290 + LEEWAY_SECONDS
    assert SET.has(found.key)


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])
def test_both_types_of_access_tokens_are_accepted(kind: str) -> None:
    assert judge(ES.token(claims(), typ=kind)).subject


def test_fields_that_nobody_knows_are_passed_over() -> None:
    assert judge(ES.token(claims(scope="x", azp={"y": 1}), x5t="abc", more=[1])).subject


def test_one_of_several_audiences_is_enough() -> None:
    assert judge(ES.token(claims(aud=["https://other.example.org", AUDIENCE]))).subject


@pytest.mark.parametrize(
    ("groups", "values"),
    [("one", ("one",)), (["a", 5, None, "b"], ("a", "b")), ({"a": 1}, ()), (None, ()), (7, ())],
)
def test_values_of_the_claim(groups: Any, values: tuple[str, ...]) -> None:
    assert judge(ES.token(claims(groups=groups))).values == values


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://login.example.org/realms/other"}, "issuer"),
        ({"iss": ISSUER + "/"}, "issuer"),
        ({"iss": None}, "claims"),
        ({"aud": "https://other.example.org"}, "audience"),
        ({"aud": AUDIENCE + "/"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": None}, "claims"),
        ({"aud": {AUDIENCE: 1}}, "claims"),
        ({"exp": NOW - LEEWAY_SECONDS}, "expired"),
        ({"exp": None}, "claims"),
        ({"exp": str(NOW + 100)}, "claims"),
        ({"exp": 1e300}, "claims"),
        ({"exp": True}, "claims"),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, "not-yet"),
        ({"iat": NOW + LEEWAY_SECONDS + 1}, "not-yet"),
        ({"iat": None}, "claims"),
        ({"nbf": "soon"}, "claims"),
        ({"sub": None}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": "a\nb"}, "claims"),
        ({"sub": "ä"}, "claims"),
        ({"sub": "x" * 256}, "claims"),
        ({"nonce": "n"}, "purpose"),
        ({"at_hash": "h"}, "purpose"),
        ({"c_hash": "h"}, "purpose"),
        ({"events": {}}, "purpose"),
        ({"cnf": {"jkt": "t"}}, "purpose"),
        ({"typ": "ID"}, "purpose"),
        ({"typ": "Refresh"}, "purpose"),
    ],
)
def test_a_token_for_others_or_for_another_time_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    assert refusal(ES.token(claims(**changes))) == reason


def test_clocks_may_differ_a_little() -> None:
    assert judge(ES.token(claims(exp=NOW - LEEWAY_SECONDS + 1))).subject
    assert judge(ES.token(claims(nbf=NOW + LEEWAY_SECONDS, iat=NOW + LEEWAY_SECONDS))).subject


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none"}, "algorithm"),
        ({"alg": "HS256"}, "algorithm"),
        ({"alg": "RS512"}, "algorithm"),
        ({"alg": "es256"}, "algorithm"),
        ({"alg": ["ES256"]}, "algorithm"),
        ({"alg": None}, "malformed"),
        ({"alg": "RS256"}, "key"),
        ({"typ": None}, "type"),
        ({"typ": "logout+jwt"}, "type"),
        ({"typ": "dpop+jwt"}, "type"),
        ({"typ": 5}, "type"),
        ({"kid": "unknown"}, "key"),
        ({"kid": None}, "key"),
        ({"kid": 5}, "malformed"),
        ({"kid": "key-RS256"}, "key"),
        ({"jku": "https://evil.example.org/keys"}, "header"),
        ({"jwk": STRANGER.jwk}, "header"),
        ({"x5u": "https://evil.example.org/cert"}, "header"),
        ({"x5c": ["AA"]}, "header"),
        ({"crit": ["exp"]}, "header"),
        ({"crit": []}, "header"),
        ({"b64": False}, "malformed"),
    ],
)
def test_a_header_that_asks_for_more_is_refused(header: dict[str, Any], reason: str) -> None:
    assert refusal(ES.token(claims(), **header)) == reason


def test_nobody_else_signs() -> None:
    assert refusal(STRANGER.token(claims())) == "signature"


def test_what_was_signed_is_not_changed() -> None:
    head, payload, signature = ES.token(claims()).split(".")
    more = b64(json.dumps(claims(groups=["admins"])).encode())
    assert refusal(f"{head}.{more}.{signature}") == "signature"
    assert refusal(f"{head}.{payload}.") == "signature"
    assert refusal(f"{head}.{payload}.{signature[:-8]}") == "signature"


def test_a_token_without_a_signature_is_refused() -> None:
    for algorithm in ("none", "None", "NONE"):
        header = {"alg": algorithm, "typ": "at+jwt", "kid": ES.kid}
        assert refusal(f"{unsigned(header, claims())}.") == "algorithm"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_public_key_is_no_secret_of_an_hmac(algorithm: str) -> None:
    key = KEYS[algorithm]
    for secret in (key.pem, key.pem.strip(), json.dumps(key.jwk).encode()):
        assert refusal(hmac_token(secret, claims(), key.kid)) == "algorithm"


def test_one_algorithm_of_a_key_is_not_another() -> None:
    rs, ps = KEYS["RS256"], KEYS["PS256"]
    assert refusal(rs.token(claims(), alg="PS256")) == "signature"
    assert refusal(ps.token(claims()), only(ps, alg="RS256")) == "key"


def test_a_single_key_needs_no_name() -> None:
    token = ES.token(claims(), kid=None)
    assert judge(token, only(ES)).subject
    assert refusal(token) == "key"
    assert refusal(ES.token(claims(), kid="another"), only(ES)) == "key"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "eyJ.e.x",
        "a.b.c.d",
        "eyJhbGciOiJFUzI1NiJ9..",
        "é.é.é",
        f"{b64(b'[]')}.{b64(b'{}')}.AA",
        f"{b64(b'5')}.{b64(b'{}')}.AA",
        f"{b64(b'[' * 5000)}.{b64(b'{}')}.AA",
    ],
)
def test_what_is_no_jwt_is_refused(token: str) -> None:
    assert refusal(token) in ("malformed", "algorithm", "type")


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b"{", b"[" * 5000, b"\xff"])
def test_claims_that_are_none_are_refused(payload: bytes) -> None:
    head = b64(json.dumps({"alg": "ES256", "kid": ES.kid, "typ": "JWT"}).encode())
    signed = f"{head}.{b64(payload)}"
    assert refusal(f"{signed}.{b64(ES.signature(signed.encode()))}") == "malformed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
HEADER_FIELDS = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x5t", "zip", "enc"])
CLAIMS = st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "groups", "typ", "nonce"])


@given(st.dictionaries(HEADER_FIELDS, JSON), st.dictionaries(CLAIMS, JSON))
def test_whatever_stands_in_a_token_is_judged(header: dict[str, Any], more: dict[str, Any]) -> None:
    with contextlib.suppress(RefusedError):
        found = judge(ES.token({**claims(), **more}, **header))
        assert found.subject == more.get("sub", "alice")
        assert found.expires_at > NOW


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: f"{b64(raw)}.{b64(raw)}.AA"))
def test_whatever_is_shown_is_judged(token: str) -> None:
    assert refusal(token)


def test_a_long_token_is_not_looked_at() -> None:
    short = ES.token(claims(more=""))
    room = TOKEN_SIZE_BYTES_MAX - len(short)
    assert judge(ES.token(claims(more="x" * (room * 3 // 4 - 4)))).subject
    assert refusal(ES.token(claims(more="x" * room))) == "size"
