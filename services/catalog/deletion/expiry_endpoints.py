"""Endpoints that decide how long snapshots stay: expiry, holds, and the retention of groups."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import group_of, require_names, require_tenant
from libs.catalogdb.snapshots.expiry import Refused, expire, list_expired
from libs.catalogdb.snapshots.holds import list_holds, place_hold, release_hold
from libs.catalogdb.snapshots.notes import note_snapshot
from libs.catalogdb.snapshots.retention import (
    Kept,
    RetentionPolicy,
    points_given_up,
    read_retention,
    set_retention,
)
from libs.errors import ConflictError, NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX, NAME_LENGTH_MAX
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body

Deleter = Annotated[Caller, Depends(require(Role.DELETE))]
#: Holds may only keep what would go, so that both may place them.
Keeper = Annotated[Caller, Depends(require(Role.OPERATOR, Role.DELETE, Role.RELEASE))]
Releaser = Annotated[Caller, Depends(require(Role.DELETE, Role.RELEASE))]
Retainer = Annotated[Caller, Depends(require(Role.OPERATOR, Role.DELETE))]
Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
Reader = Annotated[Caller, Depends(require(Role.READER))]

DryRun = Annotated[bool, Query(description="Only say what would be done; nothing is")]

Owner = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=NAME_LENGTH_MAX,
        description="Whose hold; by default the name of the token",
    ),
]

_PATH = "/v1/tenants/{tenant}/snapshots/{session}"


class ExpiredAnswer(BaseModel):
    """A snapshot that cannot be restored any more."""

    session: UUID
    sequence: int


class ExpiredSnapshotAnswer(BaseModel):
    """What is left of a snapshot that expired."""

    session: UUID
    group: str
    sequence: int
    sealed_at: datetime
    expired_at: datetime | None = Field(description="Null if a rebuilt catalog does not know it")


class HoldRequest(Body):
    """Forbid a snapshot to expire."""

    reason: str = Field(min_length=1, max_length=MESSAGE_LENGTH_MAX)
    owner: Owner = None


class ReleaseRequest(Body):
    """Give up a hold."""

    owner: Owner = None


class NoteRequest(Body):
    """What people want to remember about a snapshot."""

    note: str | None = Field(
        min_length=1, max_length=MESSAGE_LENGTH_MAX, description="Null: no note any more"
    )


class HoldAnswer(BaseModel):
    """A hold on a snapshot."""

    session: UUID
    owner: str
    reason: str
    placed_at: datetime


class RetentionDocument(Body):
    """What retention keeps of a group.

    If `keep_last` and `keep_for_seconds` are null, nothing expires by itself. A change that leaves
    both of them out changes the number of copies alone.
    """

    keep_last: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Newest good recovery points that stay at any age"
    )
    keep_for_seconds: int | None = Field(
        None, ge=0, le=2**40, description="Age up to which older ones stay"
    )
    copies: int | None = Field(
        None,
        ge=1,
        le=2,
        description="Stores that should have each recovery point whole; null changes nothing",
    )


class ChangedRetention(RetentionDocument):
    """A rule that was set, or would be, and what it gives up of what there is."""

    expires: list[int] = Field(
        description="Sequences that it gives up soon, unless somebody holds or reads them, or they "
        "are so many that a person must accept it"
    )


def add_snapshot_routes(app: FastAPI, catalog: Catalog, witness: Callable[[], None]) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        witness: returns when the store knows what was decided; only then is it answered, so that a
            catalog that falls back or is rebuilt knows it too.
    """

    @app.post(f"{_PATH}/expire", tags=["retention"], summary="Give up a snapshot")
    def give_up(
        tenant: str, session: UUID, caller: Deleter, dry_run: DryRun = False
    ) -> ExpiredAnswer:
        outcome = expire(catalog, tenant, session, _name_of(caller), dry_run=dry_run)
        if isinstance(outcome, Refused):
            raise ConflictError(f"snapshot {outcome.sequence} stays: {outcome.message}")
        if not dry_run:
            witness()
        return ExpiredAnswer(session=outcome.session, sequence=outcome.sequence)

    @app.get("/v1/tenants/{tenant}/expired", tags=["retention"], summary="Expired snapshots")
    def expired(
        tenant: str,
        _: Reader,
        name: Annotated[str | None, Query(description="Only of this volume or group")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> list[ExpiredSnapshotAnswer]:
        require_names(catalog, tenant, name)
        return [
            ExpiredSnapshotAnswer(
                session=one.session,
                group=one.group,
                sequence=one.sequence,
                sealed_at=one.sealed_at,
                expired_at=one.expired_at,
            )
            for one in list_expired(catalog, tenant, name, limit)
        ]

    _add_hold_routes(app, catalog, witness)
    _add_note_route(app, catalog)
    _add_retention_routes(app, catalog)


def _add_hold_routes(app: FastAPI, catalog: Catalog, witness: Callable[[], None]) -> None:
    @app.post(f"{_PATH}/hold", tags=["retention"], summary="Forbid a snapshot to expire")
    def hold(tenant: str, session: UUID, caller: Keeper, request: HoldRequest) -> HoldAnswer:
        owner = _owner(caller, request.owner)
        placed = place_hold(catalog, tenant, session, owner, request.reason)
        witness()
        return HoldAnswer(
            session=placed.session,
            owner=placed.owner,
            reason=placed.reason,
            placed_at=placed.placed_at,
        )

    @app.post(f"{_PATH}/release", status_code=204, tags=["retention"], summary="Give up a hold")
    def release(tenant: str, session: UUID, caller: Releaser, request: ReleaseRequest) -> None:
        owner = _owner(caller, request.owner)
        if not release_hold(catalog, tenant, session, owner):
            raise NotFoundError(f"snapshot {session}: {owner} does not hold it")

    @app.get("/v1/tenants/{tenant}/holds", tags=["retention"], summary="Holds on snapshots")
    def holds(tenant: str, _: Reader) -> list[HoldAnswer]:
        require_tenant(catalog, tenant)
        return [
            HoldAnswer(
                session=one.session, owner=one.owner, reason=one.reason, placed_at=one.placed_at
            )
            for one in list_holds(catalog, tenant)
        ]


def _add_note_route(app: FastAPI, catalog: Catalog) -> None:
    @app.post(f"{_PATH}/note", status_code=204, tags=["retention"], summary="Note something on it")
    def note(tenant: str, session: UUID, caller: Operator, request: NoteRequest) -> None:
        note_snapshot(catalog, tenant, session, _name_of(caller), request.note)


def _add_retention_routes(app: FastAPI, catalog: Catalog) -> None:
    path = "/v1/tenants/{tenant}/volumes/{name}/retention"

    @app.get(path, tags=["retention"], summary="What is kept of a volume's or group's snapshots")
    def retention(tenant: str, name: str, _: Reader) -> RetentionDocument:
        return _document(read_retention(catalog, tenant, group_of(catalog, tenant, name)))

    @app.post(path, tags=["retention"], summary="Change what is kept")
    def retain(
        tenant: str,
        name: str,
        caller: Retainer,
        document: RetentionDocument,
        dry_run: DryRun = False,
    ) -> ChangedRetention:
        rule = _rule_of(document)
        # Before the change: once it holds, retention may give them up at any moment.
        group = group_of(catalog, tenant, name)
        expires = [] if rule == "unchanged" else points_given_up(catalog, tenant, group, rule)
        kept = set_retention(
            catalog,
            tenant,
            group,
            rule,
            document.copies,
            may_shorten=Role.DELETE in caller.roles,
            dry_run=dry_run,
        )
        return ChangedRetention(**_document(kept).model_dump(), expires=expires)


def _rule_of(document: RetentionDocument) -> RetentionPolicy | Literal["unchanged"] | None:
    """The rule that is asked for. What is not mentioned at all is not changed."""
    if document.keep_last is not None or document.keep_for_seconds is not None:
        return RetentionPolicy(document.keep_last or 1, document.keep_for_seconds or 0)
    if document.model_fields_set.isdisjoint({"keep_last", "keep_for_seconds"}):
        return "unchanged"
    return None


def _owner(caller: Caller, named: str | None) -> str:
    """Whose hold is meant.

    Raises:
        ForbiddenError: somebody else's, and the caller may not release those.
    """
    own = _name_of(caller)
    if named is not None and named != own:
        caller.require(Role.RELEASE)
        return named
    return own


def _name_of(caller: Caller) -> str:
    return caller.name[:NAME_LENGTH_MAX]


def _document(kept: Kept) -> RetentionDocument:
    return RetentionDocument(
        keep_last=kept.rule.keep_last if kept.rule else None,
        keep_for_seconds=kept.rule.keep_for_seconds if kept.rule else None,
        copies=kept.copies,
    )
