"""Whether a JWT is one that the issuer made for us, and what it says of a person.

Pure: the keys and the time come in. What is asked of a token follows RFC 9068 (access tokens as
JWTs) and RFC 8725 (best practice), as far as issuers in use allow:

* The type in the header is `at+jwt`, as RFC 9068 asks, or `JWT`, as many issuers still write.
* The latter is also the type of ID tokens, which tell a client who has logged in and are no
  permission to call anybody. So a token with a claim that ID tokens alone have (`nonce`, `at_hash`,
  `c_hash`, `s_hash`), log-out tokens (`events`), and what says of itself that it is no bearer token
  (`typ`, as Keycloak writes it) are refused. ID tokens without any of these are told by their
  audience: it is their client, so the audience that is set here must be no client's id.
* A token that only the owner of a key may use (`cnf`) is refused, because nobody is asked for a
  proof of that key here.
* The header names no keys of its own (`jku`, `jwk`, `x5u`, `x5c`), and nothing that must be
  understood (`crit`).
* `client_id` and `jti`, which RFC 9068 wants as well, are not asked for: nothing depends on them.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from libs.access.oidc.key_set import ALGORITHMS, IssuerKey

#: A longer token is not looked at.
TOKEN_SIZE_BYTES_MAX = 8 << 10
#: How far the clocks of the issuer and of this machine may be apart.
LEEWAY_SECONDS = 60.0
#: 9999-12-31T00:00:00Z, with which dates end.
_END_OF_TIME = 253_402_214_400

_TYPES = ("at+jwt", "jwt")
_REFUSED_IN_HEADER = ("jku", "jwk", "x5u", "x5c", "crit")
_OF_OTHER_TOKENS = ("nonce", "at_hash", "c_hash", "s_hash", "events", "cnf")
#: OpenID Connect Core 1.0, section 2: at most 255 ASCII characters. No blank: it is a name in logs.
_SUBJECT = re.compile(r"[!-~]{1,255}")

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=_END_OF_TIME)]


class RefusedError(Exception):
    """A token is not accepted.

    Args:
        reason: short name of the kind of reason, for metrics.
        detail: for the service's log; never for whoever showed the token.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _Claims(msgspec.Struct):
    """The claims that every token must have, and one that it may have (RFC 7519, section 4.1)."""

    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: _Seconds
    iat: _Seconds
    nbf: _Seconds = 0


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token says that was found to be the issuer's."""

    #: Who it is for: unique at the issuer, and never given to another person.
    subject: str
    #: It is refused from then on: Unix time, with the leeway.
    expires_at: float
    #: The values of the claim that the mapping knows.
    values: tuple[str, ...]
    #: Thumbprint of the key that signed it.
    key: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say."""

    issuer: str
    audience: str
    #: Name of the claim whose values the mapping knows.
    claim: str


class Keys(Protocol):
    """The issuer's keys."""

    def find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """The key that a header names; without a name, the only key there is."""


class _Registry(jws.JWSRegistry):
    """The algorithms that are allowed, without a warning that EdDSA has got a second name."""

    max_header_length = TOKEN_SIZE_BYTES_MAX

    def get_alg(self, name: str) -> Any:
        assert name in ALGORITHMS
        return self.algorithms[name]


# Other fields of the header say nothing to us; RFC 7515 has them ignored.
_REGISTRY = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def verify(token: str, keys: Keys, expected: Expected, now: float) -> Verified:
    """Judge a token.

    Args:
        token: as it was shown.
        keys: the issuer's.
        expected: what it must say.
        now: Unix time.

    Raises:
        RefusedError: it is not accepted.
    """
    if len(token) > TOKEN_SIZE_BYTES_MAX:
        raise RefusedError(
            "size", f"expected at most {TOKEN_SIZE_BYTES_MAX} bytes, got {len(token)}"
        )
    signed = _signed_part(token, keys)
    claims = _decoded(signed.payload)
    found = _check_claims(claims, expected, now)
    values = _texts(claims.get(expected.claim))
    return Verified(found.sub, found.exp + LEEWAY_SECONDS, values, signed.key.thumbprint)


@dataclass(frozen=True, slots=True)
class _Signed:
    payload: bytes
    key: IssuerKey


def _signed_part(token: str, keys: Keys) -> _Signed:
    """The payload of a token, once its signature is known to be good.

    Raises:
        RefusedError: it is not.
    """
    try:
        found = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
        header = found.headers()
    except (JoseError, ValueError, TypeError, RecursionError) as err:
        raise RefusedError("malformed", f"is no JWT: {type(err).__name__}") from None
    algorithm, kid = _check_header(header)
    key = keys.find(kid, algorithm)
    if key is None:
        raise RefusedError(
            "key", f"no key of the issuer has kid {_shown(kid)} and is for {algorithm}"
        )
    try:
        good = jws.validate_compact(found, key.key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError) as err:
        raise RefusedError("signature", f"cannot be verified: {err}") from None
    if not good:
        raise RefusedError("signature", f"was not made by the issuer's key {_shown(kid)}")
    return _Signed(found.payload, key)


def _check_header(header: Any) -> tuple[str, str | None]:
    """The algorithm and the name of the key; nothing in the header is believed yet.

    Raises:
        RefusedError: the header asks for something that is not done.
    """
    if not isinstance(header, dict):
        raise RefusedError("malformed", "its header is no JSON object")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if algorithm not in ALGORITHMS:
        allowed = ", ".join(ALGORITHMS)
        raise RefusedError("algorithm", f"expected one of {allowed}, got {_shown(algorithm)}")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise RefusedError("type", f"expected type at+jwt or JWT, got {_shown(kind)}")
    for name in _REFUSED_IN_HEADER:
        if name in header:
            raise RefusedError("header", f"its header has {name}")
    if kid is not None and not isinstance(kid, str):
        raise RefusedError("malformed", f"expected a text as kid, got {_shown(kid)}")
    return algorithm, kid


def _decoded(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise RefusedError("malformed", f"its claims are no JSON object: {err}") from None


def _check_claims(claims: dict[str, Any], expected: Expected, now: float) -> _Claims:
    """The claims that every token has, if it was made by whom, for whom and for when it must be.

    Raises:
        RefusedError: it was not.
    """
    try:
        found = msgspec.convert(claims, _Claims)
    except msgspec.ValidationError as err:
        raise RefusedError("claims", str(err)) from None
    for name in _OF_OTHER_TOKENS:
        if name in claims:
            raise RefusedError("purpose", f"is no access token for bearers: it has {name}")
    if claims.get("typ", "Bearer") != "Bearer":
        raise RefusedError("purpose", f"is no access token: typ is {_shown(claims['typ'])}")
    if found.iss != expected.issuer:
        raise RefusedError("issuer", f"expected {expected.issuer}, got {_shown(found.iss)}")
    audiences = (found.aud,) if isinstance(found.aud, str) else found.aud
    if expected.audience not in audiences:
        raise RefusedError("audience", f"expected {expected.audience}, got {_shown(found.aud)}")
    if not _SUBJECT.fullmatch(found.sub):
        raise RefusedError("claims", "its sub is not 1 to 255 ASCII characters without blanks")
    if now >= found.exp + LEEWAY_SECONDS:
        raise RefusedError("expired", f"its time ended {now - found.exp:.0f} s ago")
    begins_at = max(found.nbf, found.iat)
    if now < begins_at - LEEWAY_SECONDS:
        raise RefusedError("not-yet", f"its time begins in {begins_at - now:.0f} s")
    return found


def _texts(values: Any) -> tuple[str, ...]:
    """The values of a claim: a text, or a list of which other things are left out."""
    if isinstance(values, str):
        return (values,)
    return tuple(one for one in values if isinstance(one, str)) if isinstance(values, list) else ()


def _shown(value: object) -> str:
    """What a stranger wrote, short enough for a line of the log."""
    return repr(value)[:100]
