"""Endpoints for one screen: whether all is well, and how much room recovery points take."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.deletion.brake import read_halts
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import require_tenant
from libs.catalogdb.sessions.chunkers import ChunkerState, read_chunkers
from libs.catalogdb.status import (
    GroupStatus,
    read_installation_status,
    read_tenant_status,
)
from libs.catalogdb.stores import read_store_figures, read_stores
from libs.catalogdb.usage import freed_by_expiry, volume_usage
from libs.rest.auth import Caller, Role, require
from services.catalog.recovery.endpoints import RecoveryTools
from services.catalog.status.judging import Finding, judge_installation, judge_quota, judge_tenant

Reader = Annotated[Caller, Depends(require(Role.READER))]


class FindingAnswer(BaseModel):
    """Something to look at, or to know."""

    code: str = Field(description="A stable word for programs")
    about: str = Field(description="A group, a node, a store or a brake; empty: everything")
    message: str


class GroupAnswer(BaseModel):
    """How the backups of a group stand."""

    group: str
    volumes: list[str]
    sequence: int | None = Field(description="Of its newest recovery point")
    sealed_at: datetime | None
    age_seconds: float | None
    open_session: UUID | None
    open_seconds: float | None = Field(description="Since it was opened")
    failed_session: UUID | None = Field(description="Its last session, if it was rejected")
    failed_code: str | None
    paused_by: str | None


class StatusAnswer(BaseModel):
    """Whether all is well."""

    ok: bool = Field(description="Whether there are no problems")
    problems: list[FindingAnswer]
    remarks: list[FindingAnswer]


class ChunkerAnswer(BaseModel):
    """A chunker that has announced itself within the last hour."""

    name: str
    partitions: int = Field(description="Of the captures, that it reads; none: others have all")
    trouble: str = Field(description="Why it is not ready; empty: it is")
    silent_seconds: float = Field(description="Since it last announced itself")


class InstallationStatusAnswer(StatusAnswer):
    """Whether all is well with the installation."""

    chunkers: list[ChunkerAnswer]


class TenantStatusAnswer(StatusAnswer):
    """Whether all is well with a tenant's backups."""

    groups: list[GroupAnswer] = Field(description="Groups with volumes that are protected")
    stored_bytes: int | None = Field(description="What it stores; null: it has no quota")
    quota_bytes: int | None = Field(description="What it may store; null: it has no quota")


class UsageAnswer(BaseModel):
    """The room that a volume's recovery points take at one store."""

    volume: str
    group: str
    removed_at: datetime | None
    points: int
    logical_bytes: int = Field(description="Its size at its newest recovery point")
    protected_bytes: int = Field(description="The sizes of all its recovery points")
    unique_bytes: int = Field(description="Packs that no other volume uses")
    attributed_bytes: int = Field(description="Each pack divided evenly among its volumes")


class FreedAnswer(BaseModel):
    """What the expiry of a recovery point would free, if nothing else expired."""

    session: UUID
    sequence: int
    packs: int
    freed_bytes: int


def add_status_routes(app: FastAPI, catalog: Catalog, tools: RecoveryTools) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        tools: know what the catalog waits for.
    """

    @app.get("/v1/status", tags=["status"], summary="Whether all is well with the installation")
    def installation(_: Reader) -> InstallationStatusAnswer:
        stores = [
            (state, read_store_figures(catalog, state.store_no)) for state in read_stores(catalog)
        ]
        chunkers = read_chunkers(catalog)
        verdict = judge_installation(
            read_installation_status(catalog),
            read_halts(catalog),
            stores,
            chunkers,
            tools.loop.waits_for_person(),
        )
        return InstallationStatusAnswer(
            ok=not verdict.problems,
            problems=_findings(verdict.problems),
            remarks=_findings(verdict.remarks),
            chunkers=[_chunker(one) for one in chunkers],
        )

    @app.get(
        "/v1/tenants/{tenant}/status",
        tags=["status"],
        summary="Whether all is well with a tenant's backups",
    )
    def status(
        tenant: str,
        _: Reader,
        age_seconds_max: Annotated[
            float | None,
            Query(ge=1, le=2**40, description="Age that a newest recovery point may have"),
        ] = None,
    ) -> TenantStatusAnswer:
        require_tenant(catalog, tenant)
        found = read_tenant_status(catalog, tenant)
        verdict = judge_tenant(found.groups, found.nodes, age_seconds_max)
        room = judge_quota(found.stored_bytes, found.quota_bytes)
        return TenantStatusAnswer(
            ok=not verdict.problems and not room.problems,
            problems=_findings([*verdict.problems, *room.problems]),
            remarks=_findings([*verdict.remarks, *room.remarks]),
            groups=[_group(one) for one in found.groups],
            stored_bytes=found.stored_bytes,
            quota_bytes=found.quota_bytes,
        )

    _add_usage_routes(app, catalog)


def _add_usage_routes(app: FastAPI, catalog: Catalog) -> None:
    @app.get(
        "/v1/tenants/{tenant}/usage",
        tags=["status"],
        summary="The room that each volume's recovery points take",
    )
    def usage(tenant: str, _: Reader) -> list[UsageAnswer]:
        require_tenant(catalog, tenant)
        return [
            UsageAnswer(
                volume=one.name,
                group=one.group,
                removed_at=one.removed_at,
                points=one.points,
                logical_bytes=one.logical_bytes,
                protected_bytes=one.protected_bytes,
                unique_bytes=one.unique_bytes,
                attributed_bytes=one.attributed_bytes,
            )
            for one in volume_usage(catalog, tenant)
        ]

    @app.get(
        "/v1/tenants/{tenant}/snapshots/{session}/freed",
        tags=["status"],
        summary="What the expiry of a snapshot would free by itself",
    )
    def freed(tenant: str, session: UUID, _: Reader) -> FreedAnswer:
        found = freed_by_expiry(catalog, tenant, session)
        return FreedAnswer(
            session=found.session,
            sequence=found.sequence,
            packs=found.packs,
            freed_bytes=found.bytes,
        )


def _findings(findings: Iterable[Finding]) -> list[FindingAnswer]:
    return [FindingAnswer(code=one.code, about=one.about, message=one.message) for one in findings]


def _chunker(one: ChunkerState) -> ChunkerAnswer:
    return ChunkerAnswer(
        name=one.name,
        partitions=one.partitions,
        trouble=one.trouble,
        silent_seconds=one.silent_seconds,
    )


def _group(one: GroupStatus) -> GroupAnswer:
    return GroupAnswer(
        group=one.group,
        volumes=one.volumes,
        sequence=one.sequence,
        sealed_at=one.sealed_at,
        age_seconds=one.age_seconds,
        open_session=one.open_session,
        open_seconds=one.open_seconds,
        failed_session=one.failed_session,
        failed_code=one.failed_code,
        paused_by=one.paused_by,
    )
