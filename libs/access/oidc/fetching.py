"""The issuer's documents: fetched over HTTP, short, and in a bounded time."""

from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from libs.access.oidc.key_set import KeySet, parse_key_set
from libs.errors import UnavailableError
from libs.rest.connections import ConnectionPool, Origin, Timeouts
from libs.runtime.tls import is_loopback

#: Where OpenID Connect Discovery 1.0, section 4, has the document, below the issuer's URL.
DISCOVERY = "/.well-known/openid-configuration"
#: Both documents of the issuers in use have less than 20 KiB.
DOCUMENT_SIZE_BYTES_MAX = 256 << 10
_TIMEOUTS = Timeouts(connect_seconds=5.0, read_seconds=5.0, total_seconds=10.0)


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


def fetch_keys(issuer: str, ca_file: Path | None) -> KeySet:
    """The keys that the issuer's discovery document leads to.

    Two exchanges of at most 10 s each. No redirect is followed.

    Args:
        issuer: its URL, as the settings have it.
        ca_file: who signs the certificates of both servers; the system's authorities if None.

    Raises:
        UnavailableError: a server does not answer, or not with what was asked for.
        ConfigurationError: the certificate of one is not trusted.
    """
    try:
        return _fetch_keys(issuer, ca_file)
    except ValueError as err:  # of what parses URLs, encodes host names, and writes requests
        raise UnavailableError(f"issuer {issuer}: what it names cannot be asked: {err}") from None


def _fetch_keys(issuer: str, ca_file: Path | None) -> KeySet:
    document = _fetch(issuer.removesuffix("/") + DISCOVERY, ca_file)
    try:
        found = msgspec.json.decode(document, type=_Discovery)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise UnavailableError(f"issuer {issuer}: its discovery document is none: {err}") from None
    if found.issuer != issuer:  # as the standard asks: it is another one's document
        raise UnavailableError(
            f"issuer {issuer}: its discovery document is of {found.issuer[:200]!r}; set the issuer "
            f"exactly as it is written there"
        )
    _check_server("jwks_uri", found.jwks_uri, loopback=urlsplit(issuer).scheme == "http")
    try:
        return parse_key_set(_fetch(found.jwks_uri, ca_file))
    except ValueError as err:
        raise UnavailableError(f"issuer {issuer}: its keys: {err}") from None


def _check_server(name: str, url: str, *, loopback: bool) -> None:
    """Refuse to believe what a server without TLS says of who may come in.

    Args:
        name: what the URL is.
        url: of the server.
        loopback: whether a server of this host may be without TLS.

    Raises:
        UnavailableError: somebody else could answer in its place.
    """
    parts = urlsplit(url)
    plain = parts.scheme == "http" and loopback and is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not plain:
        raise UnavailableError(f"{name} {url[:200]!r}: expected https:")


def _fetch(url: str, ca_file: Path | None) -> bytes:
    parts = urlsplit(url)
    pool = ConnectionPool(Origin.parse(f"{parts.scheme}://{parts.netloc}"), _TIMEOUTS, ca_file)
    headers = {"Host": pool.origin.authority, "Accept": "application/json"}
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    what = f"GET {parts.path}"
    try:
        with pool.exchange(what, "GET", target, headers) as response:
            document = response.read(DOCUMENT_SIZE_BYTES_MAX + 1)
            whole = response.isclosed()
    finally:
        pool.close()
    where = f"{what} at {pool.origin}"
    if response.status != HTTPStatus.OK:
        raise UnavailableError(f"{where}: expected status 200, got {response.status}")
    if len(document) > DOCUMENT_SIZE_BYTES_MAX:
        raise UnavailableError(f"{where}: longer than {DOCUMENT_SIZE_BYTES_MAX} bytes")
    if not whole:
        raise UnavailableError(f"{where}: the document was cut off")
    return document
