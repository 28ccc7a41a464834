"""Tokens in the catalog: added and revoked by a person, looked up by every service with endpoints.

The token itself is nowhere: rows have its SHA-256. A row is good in the incarnation in which it was
added. So a catalog that went back in time, and may not know what was revoked since, accepts none of
its tokens after it was reconciled, and a rebuilt one has none.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg import errors

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_compared
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.sessions.session import reject_session
from libs.errors import ConflictError, NotFoundError, NotReconciledError
from libs.ids import uuid7

#: Tokens that are not revoked: every service keeps all of them in memory.
TOKEN_COUNT_MAX = 10_000
#: Revoked tokens that a list shows, the last ones.
_REVOKED_SHOWN_MAX = 1_000


@dataclass(frozen=True, slots=True)
class NewToken:
    """What is to be added."""

    name: str
    sha256: str
    #: Or '*'.
    tenant: str
    roles: Sequence[str]
    groups: Sequence[str]
    #: None: it does not expire.
    lasts_seconds: float | None


@dataclass(frozen=True, slots=True)
class CatalogToken:
    """A token as the catalog knows it."""

    token_id: UUID
    name: str
    sha256: str
    tenant: str
    roles: list[str]
    groups: list[str]
    added_by: str
    added_at: datetime
    expires_at: datetime | None
    revoked_by: str | None
    revoked_at: datetime | None
    #: Whether it was added in this incarnation; otherwise nobody accepts it.
    current: bool


@dataclass(frozen=True, slots=True)
class TokenState:
    """What changes whenever other tokens are to be accepted."""

    change: int
    incarnation: int
    #: Whether this life of the server was compared with the store: it may be older than it seems.
    compared: bool


_TOKENS: LiteralString = """
    SELECT token_id, t.name, sha256, tenant, roles, groups, added_by, added_at, expires_at,
           revoked_by, revoked_at, t.incarnation = i.number AS current
    FROM token t CROSS JOIN incarnation i"""


def add_token(catalog: Catalog, token: NewToken, added_by: str) -> CatalogToken:
    """Add a token.

    Raises:
        ConflictError: there is one of this name, or there are too many.
    """
    id_ = uuid7()
    with catalog.transaction() as tx:
        require_compared(tx)
        # One at a time: the count is exact, and whoever reads the number reads the rows before it.
        tx.execute("UPDATE token_change SET number = number + 1")
        live = tx.execute("SELECT count(*) FROM token WHERE revoked_at IS NULL").fetchone()
        if live and live[0] >= TOKEN_COUNT_MAX:
            raise ConflictError(f"token {token.name}: there are {live[0]} already; revoke some")
        try:
            tx.execute(
                """INSERT INTO token (token_id, name, sha256, tenant, roles, groups, incarnation,
                                      added_by, expires_at)
                   SELECT %s, %s, %s, %s, %s, %s, number, %s,
                          now() + make_interval(secs => %s) FROM incarnation""",
                [
                    id_,
                    token.name,
                    token.sha256,
                    token.tenant,
                    list(token.roles),
                    list(token.groups),
                    added_by,
                    token.lasts_seconds,
                ],
            )
        except errors.UniqueViolation:
            raise ConflictError(
                f"token {token.name}: there is one of this name; revoke it first, or choose another"
            ) from None
        added = one_row(tx, CatalogToken, _TOKENS + " WHERE token_id = %s", [id_])
    assert added is not None
    return added


def revoke_token(catalog: Catalog, name: str, revoked_by: str) -> CatalogToken:
    """Revoke a token, and reject the open sessions that were begun with it.

    Order: revoked, which is the commit; then the sessions, one by one. The catalog service goes on
    with those that a crash has left, and with those that were begun before every service knew.

    Raises:
        NotFoundError: there is no token of this name.
    """
    with catalog.transaction() as tx:
        tx.execute("UPDATE token_change SET number = number + 1")
        tx.execute(
            """UPDATE token SET revoked_by = %s, revoked_at = now()
               WHERE name = %s AND revoked_at IS NULL""",
            [revoked_by, name],
        )
        revoked = _newest(tx, name)
        if revoked is None:
            raise NotFoundError(
                f"token {name}: the catalog has none of this name; one of a token file is revoked "
                f"in the file"
            )
    with contextlib.suppress(NotReconciledError):  # then sessions cannot go on anyhow
        reject_begun_with_revoked(catalog)
    return revoked


def reject_begun_with_revoked(catalog: Catalog) -> list[UUID]:
    """Reject the open sessions that were begun with tokens that are revoked now; their ids."""
    with catalog.reading() as tx:
        begun = tx.execute(
            """SELECT session, t.name FROM session JOIN token t ON sha256 = opened_with
               WHERE state = 'o' AND revoked_at IS NOT NULL"""
        ).fetchall()
    for session, name in begun:
        reason = (
            f"token {name}, with which it was begun, was revoked; use another one, and try again"
        )
        reject_session(catalog, "catalog", session, "token-revoked", reason)
    return [session for session, _ in begun]


def list_tokens(catalog: Catalog) -> list[CatalogToken]:
    """All tokens that are not revoked, by name, then those that were revoked last."""
    with catalog.transaction() as tx:
        live = all_rows(tx, CatalogToken, _TOKENS + " WHERE revoked_at IS NULL ORDER BY t.name", [])
        revoked = all_rows(
            tx,
            CatalogToken,
            _TOKENS + " WHERE revoked_at IS NOT NULL ORDER BY revoked_at DESC LIMIT %s",
            [_REVOKED_SHOWN_MAX],
        )
    return live + revoked


def read_token_state(catalog: Catalog) -> TokenState:
    """What a service compares with what it has read before. One round trip."""
    with catalog.reading() as tx:
        state = one_row(
            tx,
            TokenState,
            """SELECT c.number AS change, i.number AS incarnation,
                      life = catalog_life() AS compared
               FROM token_change c CROSS JOIN incarnation i""",
        )
    assert state is not None
    return state


def read_accepted(catalog: Catalog) -> list[CatalogToken]:
    """The tokens that are to be accepted now, besides those that have expired."""
    with catalog.reading() as tx:
        return all_rows(
            tx,
            CatalogToken,
            _TOKENS + " WHERE revoked_at IS NULL AND t.incarnation = i.number",
            [],
        )


def _newest(tx: Tx, name: str) -> CatalogToken | None:
    return one_row(
        tx,
        CatalogToken,
        _TOKENS + " WHERE t.name = %s ORDER BY revoked_at DESC LIMIT 1",
        [name],
    )
