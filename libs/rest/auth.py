"""Who calls an endpoint and what they may do: bearer tokens, their roles and their tenants.

Only hashes of tokens are kept. The tenant is a property of the token; the ``{tenant}`` of a path is
checked against it before anything is looked up, so that a foreign tenant's objects cannot be told
from missing ones.
"""

import enum
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from libs.errors import ConfigurationError, ForbiddenError, UnauthenticatedError

#: In a token's entry: every tenant.
ALL_TENANTS = "*"

#: Said to whoever has no token that is known.
EXPECTED_TOKEN = "expected 'Authorization: Bearer' with a known token"  # noqa: S105 -- no password

_bearer = HTTPBearer(auto_error=False, description="A token of the service's token file.")


class Role(enum.IntEnum):
    """What a token may do; each role includes those before it. To restore is a right apart."""

    #: Lists and shows names, recovery points and states, never data.
    READER = 1
    #: Also takes snapshots and starts jobs.
    OPERATOR = 2
    #: Also changes policies, tenants and holds.
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller of one request."""

    #: Name of the token, for logs and audit.
    name: str
    #: Tenant that the request acts in: the path's; ALL_TENANTS on paths that have none.
    tenant: str
    role: Role
    #: Whether the caller may read backed-up data.
    may_restore: bool


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token of the file: ``{"sha256": …, "tenant": …, "role": …, "restore": …, "name": …}``."""

    #: SHA-256 of the token in lower-case hexadecimal. Tokens are random, so no slow hash is needed.
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    #: The one tenant that it acts in, or '*' for all.
    tenant: str
    role: Literal["reader", "operator", "admin"]
    #: The right to read backed-up data, which no role includes.
    restore: bool = False
    #: For logs; the beginning of the hash if empty.
    name: str = ""

    @property
    def label(self) -> str:
        """What logs and messages call it."""
        return self.name or self.sha256[:8]


class Tokens:
    """The tokens that a service accepts, read once at start.

    Args:
        text: a JSON list of `TokenEntry`.

    Raises:
        ConfigurationError: not such a list, or the same token twice.
    """

    def __init__(self, text: str) -> None:
        try:
            self._entries = msgspec.json.decode(text, type=tuple[TokenEntry, ...])
        except msgspec.DecodeError as err:
            raise ConfigurationError(f"token file: {err}") from None
        if len({entry.sha256 for entry in self._entries}) < len(self._entries):
            raise ConfigurationError("token file: the same sha256 stands in it twice")

    def of_request(self, authorization: str) -> TokenEntry | None:
        """The entry that the value of an Authorization header names; None if it names none."""
        scheme, _, token = authorization.partition(" ")
        return self.find(token.strip()) if scheme.lower() == "bearer" else None

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a presented token. Takes the same time whichever entry matches, or none."""
        digest, found = digest_of(token), None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found


def digest_of(token: str) -> str:
    """What stands in the token file for ``token``."""
    return hashlib.sha256(token.encode()).hexdigest()


def require(role: Role, *, restore: bool = False) -> Callable[..., Awaitable[Caller]]:
    """A dependency of a route: ``caller: Annotated[Caller, Depends(require(Role.READER))]``.

    A path without ``{tenant}`` concerns all tenants and needs a token that does.

    Args:
        role: the least role.
        restore: whether the route gives out backed-up data.

    Raises:
        UnauthenticatedError: no token, or none that is known (when called).
        ForbiddenError: another tenant's token, too low a role, no right to restore (when called).
    """

    async def authorize(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        entry = _entry_of(request, credentials)
        return _authorized(entry, request.path_params.get("tenant", ALL_TENANTS), role, restore)

    return authorize


async def authenticated(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """A dependency of a route that tells the same to everybody who has any known token.

    Raises:
        UnauthenticatedError: no token, or none that is known.
    """
    _entry_of(request, credentials)


def _entry_of(request: Request, credentials: HTTPAuthorizationCredentials | None) -> TokenEntry:
    tokens: Tokens = request.app.state.tokens
    entry = tokens.find(credentials.credentials) if credentials else None
    if entry is None:
        raise UnauthenticatedError(EXPECTED_TOKEN)
    return entry


def _authorized(entry: TokenEntry, tenant: str, role: Role, restore: bool) -> Caller:
    name = entry.label
    held = Role[entry.role.upper()]
    if entry.tenant not in (ALL_TENANTS, tenant):
        scope = "all tenants" if tenant == ALL_TENANTS else f"tenant {tenant}"
        raise ForbiddenError(f"token {name}: does not act for {scope}")
    if held < role:
        raise ForbiddenError(f"token {name}: needs role {role.name.lower()}, has {entry.role}")
    if restore and not entry.restore:
        raise ForbiddenError(f"token {name}: lacks the right to restore")
    return Caller(name, tenant, held, entry.restore)
