"""Endpoints of whole restores, which run where the bytes land: plan, progress, outcome."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query, Response
from pydantic import Field

from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.snapshots.leases import (
    RestoreOutcome,
    RestoreProgress,
    end_restore,
    open_lease,
    point_of_lease,
    report_planned,
    report_progress,
)
from libs.catalogdb.snapshots.points import SnapshotVolume, find_volume_at
from libs.catalogdb.verification import demand_verification
from libs.copies.stores import presigned_urls
from libs.errors import BadInputError, DamagedDataError, NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.ranges import ChunkRun
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require
from libs.rest.documents import answers
from libs.rest.strict import Body
from libs.restoring.plan import WINDOW_CHUNK_COUNT_MAX, PlannedPoint, PlanStart, PlanWindow, encode
from libs.store.port import Presigner
from services.restore.restores.plans import figures_of, plan_window
from services.restore.settings import Settings

DataReader = Annotated[Caller, Depends(require(Role.RESTORE))]
#: A step of a restore, whose beginning and end the audit log has.
Restoring = Annotated[Caller, Depends(require(Role.RESTORE, audited=False))]

#: How a restore fails that met what a verification must look at.
_DAMAGE_CODES = (DamagedDataError.code, NotFoundError.code)

_RESTORE = "/v1/tenants/{tenant}/restores/{restore}"

_Total = Annotated[int, Field(ge=0, le=2**63 - 1)]


class RestoreRequest(Body):
    """Begin a restore."""

    restore: UUID = Field(description="Chosen by the client; the same one again is harmless")


class ProgressRequest(Body):
    """How far a restore is, in totals since it began."""

    restored_bytes: _Total
    fetched_bytes: _Total


class Failure(Body):
    """Why a restore ended early."""

    code: str = Field(min_length=1, max_length=63)
    message: str = Field(max_length=MESSAGE_LENGTH_MAX)


class OutcomeRequest(ProgressRequest):
    """How a restore ended."""

    seconds: float = Field(ge=0, le=1e12)
    failure: Failure | None = None


def add_restore_routes(
    app: FastAPI, settings: Settings, readers: VolumeReaders, presigners: Mapping[int, Presigner]
) -> None:
    """Add the endpoints to the application."""

    def presign(pack: PackLocation) -> list[str]:
        return presigned_urls(presigners, pack, settings.plan_expiry_seconds)

    @app.post(
        "/v1/tenants/{tenant}/volumes/{name}/points/{point}/restores",
        tags=["restores"],
        summary="Begin a restore: its recovery point is pinned",
        **answers(PlanStart, HTTPStatus.CREATED),
    )
    def begin(
        tenant: str, name: str, point: str, _: DataReader, request: RestoreRequest
    ) -> Response:
        found = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, point))
        keys = readers.vault.get(found.domain, found.key_id)
        open_lease(readers.catalog, request.restore, found, readers.deadline_seconds, announce=True)
        return _answer(_start(readers, request.restore, found, keys.id_key), HTTPStatus.CREATED)

    @app.get(
        f"{_RESTORE}/plan",
        tags=["restores"],
        summary="One window of the plan; pins its packs",
        **answers(PlanWindow),
    )
    def plan(
        tenant: str,
        restore: UUID,
        _: Restoring,
        first_chunk: Annotated[int, Query(ge=0)],
        chunk_count: Annotated[int, Query(ge=1, le=WINDOW_CHUNK_COUNT_MAX)],
    ) -> Response:
        found = point_of_lease(readers.catalog, tenant, restore)
        left = -(-found.size_bytes // CHUNK_SIZE_BYTES) - first_chunk
        if left <= 0:
            raise BadInputError(f"chunk {first_chunk}: volume {found.label} ends before it")
        wanted = ChunkRun(first_chunk, min(chunk_count, left))
        window = plan_window(readers.join(found, restore), readers.vault, presign, wanted)
        report_planned(readers.catalog, restore, found, figures_of(window))
        return _answer(window)

    @app.post(f"{_RESTORE}/progress", status_code=204, tags=["restores"], summary="Still restoring")
    def progress(tenant: str, restore: UUID, _: Restoring, request: ProgressRequest) -> None:
        found = point_of_lease(readers.catalog, tenant, restore)
        report_progress(
            readers.catalog, restore, found, _progress(request), readers.deadline_seconds
        )

    @app.post(f"{_RESTORE}/outcome", status_code=204, tags=["restores"], summary="End a restore")
    def outcome(tenant: str, restore: UUID, _: DataReader, request: OutcomeRequest) -> None:
        failure = (request.failure.code, request.failure.message) if request.failure else None
        end = RestoreOutcome(_progress(request), request.seconds, failure)
        snapshot = end_restore(readers.catalog, tenant, restore, end)
        if request.failure and request.failure.code in _DAMAGE_CODES:
            demand_verification(readers.catalog, snapshot)


def _start(
    readers: VolumeReaders, restore: UUID, found: SnapshotVolume, id_key: bytes
) -> PlanStart:
    return PlanStart(
        restore=restore,
        point=PlannedPoint(
            volume=found.name,
            sequence=found.sequence,
            session=found.session,
            sealed_at=found.sealed_at,
            size_bytes=found.size_bytes,
        ),
        chunk_size_bytes=CHUNK_SIZE_BYTES,
        chunk_count=-(-found.size_bytes // CHUNK_SIZE_BYTES),
        window_chunk_count_max=WINDOW_CHUNK_COUNT_MAX,
        deadline_seconds=readers.deadline_seconds,
        id_key=id_key,
    )


def _progress(request: ProgressRequest) -> RestoreProgress:
    return RestoreProgress(request.restored_bytes, request.fetched_bytes)


def _answer(document: PlanStart | PlanWindow, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(encode(document), status, media_type="application/json")
