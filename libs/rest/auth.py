"""Who calls an endpoint and what they may do: bearer tokens, their roles, tenants and groups.

Only hashes of tokens are kept. The tenant is a property of the token; the ``{tenant}`` of a path is
checked against it before anything is looked up, so that a foreign tenant's objects cannot be told
from missing ones. A token may be narrowed to some groups of its tenant; the same holds for them.
"""

import enum
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol

import anyio.to_thread
import msgspec
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from libs.errors import BackcastError, ConfigurationError, ForbiddenError, UnauthenticatedError

#: In a token's entry: every tenant.
ALL_TENANTS = "*"

#: Said to whoever has no token that is known.
EXPECTED_TOKEN = "expected 'Authorization: Bearer' with a known token"  # noqa: S105 -- no password

_bearer = HTTPBearer(
    auto_error=False,
    description="A token of the service's token file; of the services that have the catalog also "
    "one of the catalog, or of the issuer (OIDC).",
)


class Role(enum.StrEnum):
    """What a token may do. A token has one role or several; no role of a person includes another.

    All of a person's roles may also do what a reader may. Whoever backs up cannot delete: no token
    has both `OPERATOR` and `DELETE`.
    """

    #: Lists and shows names, recovery points and states, never data.
    READER = "reader"
    #: Reads backed-up data: restores and downloads.
    RESTORE = "restore"
    #: Protects volumes, takes, verifies and holds snapshots, keeps more of them.
    OPERATOR = "operator"
    #: Gives snapshots up, keeps fewer, releases its own holds, collects, and sweeps.
    DELETE = "delete"
    #: Places and releases holds of other owners.
    RELEASE = "release"
    #: Tokens, stores, brakes, the audit log, and the catalog itself.
    ADMIN = "admin"
    #: Of a machine: orders agents. It is for agents alone, and no person's.
    COORDINATOR = "coordinator"
    #: In a token file: everything. For a machine on which one person is everybody.
    WORKSTATION = "workstation"


#: What a person may have by command.
PEOPLE = (Role.READER, Role.RESTORE, Role.OPERATOR, Role.DELETE, Role.RELEASE, Role.ADMIN)

#: What entries of the earlier form may do: exactly what they could before there were more roles.
_EARLIER: Mapping[str, frozenset[Role]] = {
    "reader": frozenset({Role.READER}),
    "operator": frozenset({Role.READER, Role.OPERATOR, Role.COORDINATOR}),
    "admin": frozenset(Role) - {Role.RESTORE, Role.WORKSTATION},
}


def check_roles(roles: Iterable[Role]) -> None:
    """Refuse roles that no token may have together.

    Raises:
        ValueError: none, or `Role.OPERATOR` with `Role.DELETE`.
    """
    found = set(roles)
    if not found:
        raise ValueError(f"roles: expected one or more of {', '.join(PEOPLE)}")
    if {Role.OPERATOR, Role.DELETE} <= found:
        raise ValueError(
            "roles: operator and delete in one token; whoever backs up must not delete, so use two "
            "tokens"
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller of one request."""

    #: Name of the token, for logs and audit.
    name: str
    #: Tenant that the request acts in: the path's; ALL_TENANTS on paths that have none.
    tenant: str
    roles: frozenset[Role]
    #: The groups of the tenant that it may act for; empty: all of them.
    groups: frozenset[str] = frozenset()
    #: SHA-256 of its token.
    sha256: str = ""

    def require(self, *roles: Role) -> None:
        """Refuse a caller that has none of some roles.

        Raises:
            ForbiddenError: it has none of them.
        """
        if self.roles.isdisjoint(roles):
            had = ", ".join(sorted(self.roles))
            raise ForbiddenError(f"token {self.name}: needs role {' or '.join(roles)}, has {had}")

    def within(self, find: Callable[[], str]) -> str:
        """The group that a request is about, if the caller may act for it.

        Args:
            find: the group's name. What it raises passes on, unless the caller may act for some
                groups alone: then a group that is missing looks like one of others.

        Raises:
            ForbiddenError: the caller may not.
        """
        if not self.groups:
            return find()
        try:
            group = find()
        except BackcastError as err:
            if isinstance(err, ForbiddenError) or err.retriable:
                raise
            group = ""
        if group not in self.groups:
            raise ForbiddenError(
                f"token {self.name}: is for {_groups(self.groups)} alone, and this is not of it; "
                f"a list needs the name of one"
            )
        return group


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token: ``{"sha256": …, "tenant": …, "roles": […], "groups": […], "name": …}``."""

    #: SHA-256 of the token in lower-case hexadecimal. Tokens are random, so no slow hash is needed.
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    #: The one tenant that it acts in, or '*' for all.
    tenant: str
    #: Its roles.
    roles: tuple[Role, ...] = ()
    #: The groups of the tenant that it acts for; empty: all.
    groups: tuple[str, ...] = ()
    #: It is unknown from then on.
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    #: For logs, holds and the audit log; the beginning of the hash if empty.
    name: str = ""
    #: The earlier form: what it may do. An admin could both back up and delete.
    role: Literal["reader", "operator", "admin"] | None = None
    #: The earlier form: the right to read backed-up data.
    restore: bool = False

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: both forms or none; roles that no token may have together; groups of all
                tenants.
        """
        if bool(self.roles) == (self.role is not None):
            raise ValueError(f"token {self.label}: expected `roles` (or `role`, the earlier form)")
        if self.restore and self.role is None:
            raise ValueError(f"token {self.label}: `restore` is now one of the `roles`")
        if self.roles:
            check_roles(self.roles)
        if self.groups and self.tenant == ALL_TENANTS:
            raise ValueError(f"token {self.label}: has groups, but no tenant whose they are")

    @property
    def label(self) -> str:
        """What logs and messages call it."""
        return self.name or self.sha256[:8]

    @property
    def rights(self) -> frozenset[Role]:
        """Every role whose requests it may make."""
        if self.role is not None:
            return _EARLIER[self.role] | ({Role.RESTORE} if self.restore else set())
        if Role.WORKSTATION in self.roles:
            return frozenset(Role)
        roles = frozenset(self.roles)
        return roles | ({Role.READER} if roles.intersection(PEOPLE) else set())

    @property
    def has_expired(self) -> bool:
        """Whether its time is over, by this machine's clock."""
        return self.expires_at is not None and self.expires_at.timestamp() <= time.time()


class Authority(Protocol):
    """Knows the tokens that a service accepts. Thread-safe; never waits for another server."""

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a presented token, or None. It takes the same time in both cases.

        Raises:
            UnauthenticatedError: it is known, and its time is over.
            UnavailableError: nobody can say now; nothing else is accepted instead.
        """

    def holds(self, entry: TokenEntry) -> bool:
        """Whether an entry that was found once is still as it was."""


class Tokens:
    """Tokens that never change, such as those of one reading of a token file.

    Args:
        text: a JSON list of `TokenEntry`.

    Raises:
        ConfigurationError: not such a list, or the same token twice.
    """

    def __init__(self, text: str) -> None:
        try:
            entries = msgspec.json.decode(text, type=tuple[TokenEntry, ...])
        except msgspec.DecodeError as err:
            raise ConfigurationError(f"token file: {err}") from None
        self._entries = {entry.sha256: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise ConfigurationError("token file: the same sha256 stands in it twice")

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a presented token, or None.

        It is looked up by its hash. How long that takes depends on the hash, which nobody can
        choose, and never on the token.

        Raises:
            UnauthenticatedError: it is known, and its time is over.
        """
        return find_presented(self._entries, digest_of(token))

    def holds(self, entry: TokenEntry) -> bool:
        """Whether the entry has not expired."""
        return find_entry(self._entries, entry.sha256) == entry


_: type[Authority] = Tokens

#: Compared with where no entry was found, so that it takes the same time.
_NOBODY = TokenEntry(sha256="0" * 64, tenant="", roles=(Role.READER,))


def find_presented(entries: Mapping[str, TokenEntry], digest: str) -> TokenEntry | None:
    """The entry of the hash of a token that somebody shows.

    Only whoever has the token can show it, so nobody else learns that it was good once.

    Raises:
        UnauthenticatedError: it has expired.
    """
    entry = entries.get(digest, _NOBODY)
    equal = hmac.compare_digest(entry.sha256, digest)
    if not equal or entry is _NOBODY:
        return None
    if entry.has_expired:
        raise expired_error(entry)
    return entry


def find_entry(entries: Mapping[str, TokenEntry], digest: str) -> TokenEntry | None:
    """The entry of a token's hash, unless it has expired."""
    try:
        return find_presented(entries, digest)
    except UnauthenticatedError:
        return None


def expired_error(entry: TokenEntry) -> UnauthenticatedError:
    """What is said to whoever shows a token whose time is over."""
    return UnauthenticatedError(
        f"token {entry.label}: has expired{_at(entry.expires_at)}; ask an administrator for "
        f"another one (`backcast token add`, or a new entry of the token file)",
        presented=True,
    )


def digest_of(token: str) -> str:
    """What stands in the token file for ``token``."""
    return hashlib.sha256(token.encode()).hexdigest()


def presented_token(authorization: str) -> str:
    """The token in the value of an Authorization header; empty if there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


#: Of a tenant: the group that a value of a parameter means, by the name of the parameter.
GroupOf = Callable[[str, str, str], str]

#: Parameters of paths, and of queries, that say which group a request is about.
_GROUP_PARAMETERS = ("name", "session", "restore")


class Requirement:
    """A dependency of a route: what its callers must be. Made by `require`."""

    def __init__(self, roles: tuple[Role, ...], *, by_route: bool, audited: bool | None) -> None:
        #: A caller needs one of them. Empty: any known token.
        self.roles = roles
        #: Whether the route itself says which group it is about, by `Caller.within`.
        self.by_route = by_route
        #: Whether the audit log gets each request; None: if it changes something or gives data.
        self.audited = audited

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        """The caller of a request.

        Raises:
            UnauthenticatedError: no token, one that is not known, or one that has expired.
            ForbiddenError: another tenant's token, another group's, or none of the roles.
        """
        tokens: Authority = request.app.state.tokens
        entry = tokens.find(credentials.credentials) if credentials else None
        if entry is None:
            raise UnauthenticatedError(EXPECTED_TOKEN, presented=credentials is not None)
        tenant = request.path_params.get("tenant", ALL_TENANTS)
        groups = frozenset(entry.groups)
        caller = Caller(entry.label, tenant, entry.rights, groups, entry.sha256)
        if not self.roles:
            return caller
        if entry.tenant not in (ALL_TENANTS, tenant):
            scope = "all tenants" if tenant == ALL_TENANTS else f"tenant {tenant}"
            raise ForbiddenError(f"token {caller.name}: does not act for {scope}")
        caller.require(*self.roles)
        if caller.groups and not self.by_route:
            await _require_group(request, caller)
        return caller


def require(*roles: Role, by_route: bool = False, audited: bool | None = None) -> Requirement:
    """A dependency of a route: ``caller: Annotated[Caller, Depends(require(Role.READER))]``.

    A path without ``{tenant}`` concerns all tenants and needs a token that does. A token of some
    groups needs a parameter that names a group, or what is of one.

    Args:
        roles: the caller needs one of them.
        by_route: the route itself calls `Caller.within`.
        audited: see `Requirement`.
    """
    assert roles, "a route says who may call it"
    return Requirement(roles, by_route=by_route, audited=audited)


#: A dependency of a route that tells the same to everybody who has any known token.
authenticated = Requirement((), by_route=True, audited=None)


async def _require_group(request: Request, caller: Caller) -> None:
    """Refuse what is about no group of the caller, or about others as well."""
    group_of: GroupOf | None = request.app.state.group_of
    given = {**request.query_params, **request.path_params}
    named = [one for one in _GROUP_PARAMETERS if given.get(one)] if group_of else []
    for one in named or [""]:

        def find(parameter: str = one) -> str:
            if group_of is None or not parameter:
                return ""
            return group_of(caller.tenant, parameter, str(given[parameter]))

        await anyio.to_thread.run_sync(caller.within, find)


def _groups(groups: frozenset[str]) -> str:
    names = ", ".join(sorted(groups))
    return f"group{'s' if len(groups) > 1 else ''} {names}"


def _at(instant: datetime | None) -> str:
    return f" at {instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if instant else ""
