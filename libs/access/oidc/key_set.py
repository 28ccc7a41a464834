"""The issuer's public keys (RFC 7517), each with what it may verify."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OctKey, OKPKey, RSAKey

#: Signatures that are accepted. None of them can be made with what only verifies, as HMAC can.
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
#: NIST SP 800-131A: shorter ones are forged by whoever can afford it.
_RSA_SIZE_BITS_MIN = 2048
#: Longer ones are not in use, and cost time to verify with.
_RSA_SIZE_BITS_MAX = 8192
#: Issuers have about ten at most, of which two or three are in use.
_KEY_COUNT_MAX = 100

_PublicKey = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key."""

    kid: str | None
    #: What it verifies.
    algorithms: tuple[str, ...]
    key: _PublicKey
    #: RFC 7638: the same for the same key, under whatever name.
    thumbprint: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one answer of an issuer."""

    keys: tuple[IssuerKey, ...] = ()

    def find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """The key of a name that is for an algorithm; without a name, the only key there is."""
        if kid is None and len(self.keys) != 1:
            return None
        fits = (one for one in self.keys if kid is None or one.kid == kid)
        return next((one for one in fits if algorithm in one.algorithms), None)

    def knows(self, kid: str | None) -> bool:
        """Whether a name is one of its keys', so that asking the issuer again would not help."""
        return kid is None or any(one.kid == kid for one in self.keys)

    def has(self, thumbprint: str) -> bool:
        """Whether a key is one of them."""
        return any(one.thumbprint == thumbprint for one in self.keys)


class _Document(msgspec.Struct):
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=_KEY_COUNT_MAX)]


def parse_key_set(document: bytes) -> KeySet:
    """The keys of a JWK set that can be used here. Others in it are passed over, as RFC 7517 asks.

    Raises:
        ValueError: it is no JWK set, or none of its keys can be used.
    """
    try:
        entries = msgspec.json.decode(document, type=_Document).keys
    except (msgspec.MsgspecError, RecursionError) as err:
        raise ValueError(f"expected a JWK set, got something else: {err}") from None
    keys = tuple(_usable(entries))
    if not keys:
        raise ValueError(
            f"expected keys for {', '.join(ALGORITHMS)}; none of the {len(entries)} in it is one"
        )
    return KeySet(keys)


def _usable(entries: Iterable[dict[str, Any]]) -> Iterable[IssuerKey]:
    for entry in entries:
        kid = entry.get("kid")
        if kid is not None and not isinstance(kid, str):
            continue
        try:
            key = JWKRegistry.import_key(entry)
            if isinstance(key, OctKey) or key.get("use", "sig") != "sig" or key.is_private:
                continue  # with a private key that was published, everybody signs
            key.check_key_op("verify")
            algorithms = tuple(one for one in _algorithms_of(key) if key.get("alg", one) == one)
            if algorithms:
                yield IssuerKey(kid, algorithms, key, key.thumbprint())
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue  # a key of a kind, or with parameters, that nobody here knows


def _algorithms_of(key: _PublicKey) -> tuple[str, ...]:
    match key:
        case RSAKey():
            size_bits = key.public_key.key_size
            fits = _RSA_SIZE_BITS_MIN <= size_bits <= _RSA_SIZE_BITS_MAX
            return ("RS256", "PS256") if fits else ()
        case ECKey():
            return ("ES256",) if key.curve_name == "P-256" else ()
        case OKPKey():
            return ("EdDSA",) if key.curve_name == "Ed25519" else ()
