"""Endpoints of tokens: add one, which is shown once, list them, revoke one."""

import secrets
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.access.tokens import (
    CatalogToken,
    NewToken,
    add_token,
    list_tokens,
    revoke_token,
)
from libs.catalogdb.pool import Catalog
from libs.errors import BadInputError
from libs.ids import check_name
from libs.rest.auth import ALL_TENANTS, Caller, Role, check_roles, digest_of, require
from libs.rest.strict import Body

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]

#: Tells people, and scanners of their files, what it is.
_PREFIX = "backcast_"
_GROUP_COUNT_MAX = 100
_LASTS_SECONDS_MAX = 10 * 365 * 86_400

PersonRole = Literal["reader", "restore", "operator", "delete", "release", "admin"]


class TokenRequest(Body):
    """Add a token."""

    roles: list[PersonRole] = Field(
        min_length=1, description="Not operator with delete: whoever backs up must not delete"
    )
    tenant: str = Field(description="The one that it acts in, or '*' for all")
    groups: list[str] = Field(
        [], max_length=_GROUP_COUNT_MAX, description="Groups of the tenant; none: all of them"
    )
    lasts_seconds: float | None = Field(
        None, gt=0, le=_LASTS_SECONDS_MAX, description="It expires then; null: it does not"
    )


class TokenAnswer(BaseModel):
    """A token, without itself."""

    token_id: UUID
    name: str
    tenant: str
    roles: list[str]
    groups: list[str]
    added_by: str
    added_at: datetime
    expires_at: datetime | None
    revoked_by: str | None
    revoked_at: datetime | None
    accepted: bool = Field(
        description="False: it was revoked, has expired, or the catalog went back in time since it "
        "was added"
    )


class AddedToken(TokenAnswer):
    """A token that was added."""

    token: str = Field(description="The token itself, which nobody can show again")


def add_token_routes(app: FastAPI, catalog: Catalog) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/tokens", tags=["access"], summary="Tokens of the catalog, without themselves")
    def tokens(_: Admin) -> list[TokenAnswer]:
        return [_answer(one) for one in list_tokens(catalog)]

    @app.post("/v1/tokens/{token_name}", status_code=201, tags=["access"], summary="Add a token")
    def add(caller: Admin, token_name: str, request: TokenRequest) -> AddedToken:
        text = _PREFIX + secrets.token_urlsafe(32)
        new = NewToken(
            check_name("token", token_name),
            digest_of(text),
            _checked_tenant(request),
            request.roles,
            [check_name("group", group) for group in request.groups],
            request.lasts_seconds,
        )
        added = add_token(catalog, new, caller.name)
        return AddedToken(**_answer(added).model_dump(), token=text)

    @app.post("/v1/tokens/{token_name}/revocation", tags=["access"], summary="Revoke a token")
    def revoke(caller: Admin, token_name: str) -> TokenAnswer:
        return _answer(revoke_token(catalog, token_name, caller.name))


def _checked_tenant(request: TokenRequest) -> str:
    try:
        check_roles(Role(role) for role in request.roles)
    except ValueError as err:
        raise BadInputError(str(err)) from None
    if request.tenant != ALL_TENANTS:
        return check_name("tenant", request.tenant)
    if request.groups:
        raise BadInputError("groups: name the tenant whose they are, not '*'")
    return request.tenant


def _answer(token: CatalogToken) -> TokenAnswer:
    expired = token.expires_at is not None and token.expires_at <= datetime.now(
        token.expires_at.tzinfo
    )
    return TokenAnswer(
        token_id=token.token_id,
        name=token.name,
        tenant=token.tenant,
        roles=token.roles,
        groups=token.groups,
        added_by=token.added_by,
        added_at=token.added_at,
        expires_at=token.expires_at,
        revoked_by=token.revoked_by,
        revoked_at=token.revoked_at,
        accepted=token.current and token.revoked_at is None and not expired,
    )
