"""Endpoints of whole restores, which run where the bytes land: plan, progress, outcome."""

import base64
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.snapshots.points import SnapshotVolume, find_volume_at
from libs.catalogdb.snapshots.readers import (
    RestoreOutcome,
    RestoreProgress,
    end_restore,
    open_reader,
    point_of_reader,
    report_planned,
    report_progress,
)
from libs.catalogdb.verification import demand_verification
from libs.errors import BadInputError, DamagedDataError, NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require
from libs.store.port import Presigner
from services.restore.listing import PointAnswer, point_answer
from services.restore.points import parse_point
from services.restore.restores.plans import WINDOW_CHUNK_COUNT_MAX, PlanWindow, plan_window
from services.restore.settings import Settings

DataReader = Annotated[Caller, Depends(require(Role.READER, restore=True))]

#: How a restore fails that met what a verification must look at.
_DAMAGE_CODES = (DamagedDataError.code, NotFoundError.code)

_Total = Annotated[int, Field(ge=0, le=2**63 - 1)]


class RestoreRequest(BaseModel):
    """Begin a restore."""

    restore: UUID = Field(description="Chosen by the client; the same one again is harmless")


class RestoreAnswer(BaseModel):
    """A restore, pinned until its deadline; progress and plans renew it."""

    restore: UUID
    point: PointAnswer
    chunk_size_bytes: int
    chunk_count: int
    window_chunk_count_max: int = Field(description="Largest window that may be asked for")
    deadline_seconds: float
    id_key: str = Field(
        description="Base64. Keys the BLAKE3 ids by which every chunk is verified. It is the "
        "domain's: whoever has it can tell whether some content is stored, and can read nothing"
    )


class PackAnswer(BaseModel):
    """A pack of a window."""

    generation: str
    url: str = Field(description="Presigned GET; a secret until it expires")
    size_bytes: int
    key: str = Field(description="Base64. Opens this pack and no other")
    frames: list[tuple[int, int, int, int]] = Field(
        description="Number, offset in the object, stored bytes, plain bytes of each needed frame"
    )


class WindowAnswer(BaseModel):
    """A window of a plan. Columns are base64; chunks that are not named are zero."""

    first_chunk: int
    chunk_count: int
    packs: list[PackAnswer]
    runs: str = Field(description="Runs of chunk indexes: first (u64), count (u32), little-endian")
    ids: str = Field(description="Chunk ids in the order of the runs, 32 bytes each")
    pack_ordinals: str = Field(description="Positions in `packs`, u16 little-endian each")
    places: str = Field(description="frame << 20 | offset in the plain frame, u32 little-endian")


class ProgressRequest(BaseModel):
    """How far a restore is, in totals since it began."""

    restored_bytes: _Total
    fetched_bytes: _Total


class Failure(BaseModel):
    """Why a restore ended early."""

    code: str = Field(min_length=1, max_length=63)
    message: str = Field(max_length=MESSAGE_LENGTH_MAX)


class OutcomeRequest(ProgressRequest):
    """How a restore ended."""

    seconds: float = Field(ge=0, le=1e12)
    failure: Failure | None = None


def add_restore_routes(
    app: FastAPI, settings: Settings, readers: VolumeReaders, presigner: Presigner
) -> None:
    """Add the endpoints to the application."""
    below = "/v1/tenants/{tenant}/restores/{restore}"

    def presign(key: str) -> str:
        return presigner.presign_get(key, settings.plan_expiry_seconds)

    @app.post(
        "/v1/tenants/{tenant}/volumes/{name}/points/{point}/restores",
        status_code=201,
        tags=["restores"],
        summary="Begin a restore: its recovery point is pinned",
    )
    def begin(
        tenant: str, name: str, point: str, _: DataReader, request: RestoreRequest
    ) -> RestoreAnswer:
        found = find_volume_at(readers.catalog, tenant, name, parse_point(point))
        keys = readers.vault.get(found.domain, found.key_id)
        open_reader(
            readers.catalog, request.restore, found, readers.deadline_seconds, announce=True
        )
        return _restore_answer(readers, request.restore, found, keys.id_key)

    @app.get(f"{below}/plan", tags=["restores"], summary="One window of the plan; pins its packs")
    def plan(
        tenant: str,
        restore: UUID,
        _: DataReader,
        first_chunk: Annotated[int, Query(ge=0)],
        chunk_count: Annotated[int, Query(ge=1, le=WINDOW_CHUNK_COUNT_MAX)],
    ) -> WindowAnswer:
        found = point_of_reader(readers.catalog, tenant, restore)
        left = -(-found.size_bytes // CHUNK_SIZE_BYTES) - first_chunk
        if left <= 0:
            raise BadInputError(f"chunk {first_chunk}: volume {found.label} ends before it")
        wanted = ChunkRun(first_chunk, min(chunk_count, left))
        window = plan_window(readers.join(found, restore), readers.vault, presign, wanted)
        report_planned(readers.catalog, restore, found, window.figures)
        return _window_answer(window)

    @app.post(f"{below}/progress", status_code=204, tags=["restores"], summary="Still restoring")
    def progress(tenant: str, restore: UUID, _: DataReader, request: ProgressRequest) -> None:
        found = point_of_reader(readers.catalog, tenant, restore)
        report_progress(
            readers.catalog, restore, found, _progress(request), readers.deadline_seconds
        )

    @app.post(f"{below}/outcome", status_code=204, tags=["restores"], summary="End a restore")
    def outcome(tenant: str, restore: UUID, _: DataReader, request: OutcomeRequest) -> None:
        failure = (request.failure.code, request.failure.message) if request.failure else None
        end = RestoreOutcome(_progress(request), request.seconds, failure)
        snapshot = end_restore(readers.catalog, tenant, restore, end)
        if request.failure and request.failure.code in _DAMAGE_CODES:
            demand_verification(readers.catalog, snapshot)


def _restore_answer(
    readers: VolumeReaders, restore: UUID, found: SnapshotVolume, id_key: bytes
) -> RestoreAnswer:
    return RestoreAnswer(
        restore=restore,
        point=point_answer(found),
        chunk_size_bytes=CHUNK_SIZE_BYTES,
        chunk_count=-(-found.size_bytes // CHUNK_SIZE_BYTES),
        window_chunk_count_max=WINDOW_CHUNK_COUNT_MAX,
        deadline_seconds=readers.deadline_seconds,
        id_key=_text(id_key),
    )


def _window_answer(window: PlanWindow) -> WindowAnswer:
    return WindowAnswer(
        first_chunk=window.wanted.first,
        chunk_count=window.wanted.count,
        packs=[
            PackAnswer(
                generation=pack.generation,
                url=pack.url,
                size_bytes=pack.size_bytes,
                key=_text(pack.key),
                frames=[(number, *entry) for number, entry in sorted(pack.frames.items())],
            )
            for pack in window.packs
        ],
        runs=_text(window.runs),
        ids=_text(window.ids),
        pack_ordinals=_text(window.pack_ordinals),
        places=_text(window.places),
    )


def _progress(request: ProgressRequest) -> RestoreProgress:
    return RestoreProgress(request.restored_bytes, request.fetched_bytes)


def _text(column: bytes) -> str:
    return base64.b64encode(column).decode()
