"""Endpoints of verification: begin one, ask how it goes."""

from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field

from libs.catalogdb.snapshots.points import SnapshotVolume, read_snapshot
from libs.catalogdb.verification import Damaged
from libs.events.fields import DAMAGED_EXTENTS_MAX, VerificationLevel
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from libs.rest.waiting import read_or_wait
from services.catalog.verification.jobs import Job, VerifyJobs
from services.catalog.verification.verifier import Thoroughness, Verifier

Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
Reader = Annotated[Caller, Depends(require(Role.READER))]

#: Longest time that a request may wait for a verification to end.
WAIT_SECONDS_MAX = 30.0
#: What `resume` does not look at again.
_RESUMED_SECONDS = 24 * 60 * 60


class VerificationRequest(Body):
    """Verify a snapshot."""

    verification: UUID = Field(
        description="Chosen by the client; the same one again begins no second verification"
    )
    level: VerificationLevel = "structural"
    sample_percent: float = Field(
        5.0, gt=0, le=100, description="Share of frames that level `sampled` reads"
    )
    resume: bool = Field(
        False, description="Skip packs that were found intact at this level in the last day"
    )


class ExtentAnswer(BaseModel):
    """A range of a volume that cannot be read."""

    volume: str
    offset_bytes: int
    length_bytes: int
    generation: UUID | None = Field(description="Pack that it was stored in")


class VerificationAnswer(BaseModel):
    """A verification as it is now."""

    verification: UUID
    session: UUID
    level: VerificationLevel
    state: str = Field(description="running, intact, damaged or failed")
    chunks: int
    packs_done: int
    packs_total: int
    packs_skipped: int
    pack_bytes_done: int = Field(description="Sizes of the packs that are done")
    pack_bytes_total: int
    frames: int
    fetched_bytes: int
    copies_damaged: int = Field(
        description="Copies of packs that were damaged while another one was intact"
    )
    copies_repaired: int = Field(description="Those of them that were made anew from it")
    damaged_bytes: int
    extent_count: int = Field(
        description=f"All damaged extents; at most {DAMAGED_EXTENTS_MAX} are listed"
    )
    extents: list[ExtentAnswer]
    manifest: str | None = Field(description="What is wrong with the manifest")
    code: str | None = Field(description="Why it failed")
    message: str | None


def add_verify_routes(app: FastAPI, verifier: Verifier, jobs: VerifyJobs) -> None:
    """Add the endpoints to the application."""

    @app.post(
        "/v1/tenants/{tenant}/snapshots/{session}/verifications",
        status_code=202,
        tags=["verification"],
        summary="Verify a snapshot",
    )
    def begin(
        tenant: str, session: UUID, _: Operator, request: VerificationRequest
    ) -> VerificationAnswer:
        points = read_snapshot(verifier.catalog, tenant, session)
        how = Thoroughness(
            request.level,
            request.sample_percent / 100,
            _RESUMED_SECONDS if request.resume else 0,
        )
        job = jobs.begin(request.verification, tenant, session, how)
        return _answer(request.verification, job, points)

    @app.get(
        "/v1/tenants/{tenant}/verifications/{verification}",
        tags=["verification"],
        summary="How a verification goes, waiting for its end",
    )
    async def show(
        http: Request,
        tenant: str,
        verification: UUID,
        _: Reader,
        wait_seconds: Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX)] = 0,
    ) -> VerificationAnswer:
        async def look() -> Job:
            return jobs.find(verification, tenant)

        def enough(job: Job, _news_count: int) -> bool:
            return job.ended.is_set()

        def answer(job: Job) -> VerificationAnswer:
            return _answer(verification, job, read_snapshot(verifier.catalog, tenant, job.session))

        job = await read_or_wait(http, jobs.bells, verification, look, enough, wait_seconds)
        return await to_thread.run_sync(answer, job)


def _answer(id_: UUID, job: Job, points: list[SnapshotVolume]) -> VerificationAnswer:
    names = {point.volume: point.name for point in points}
    found = job.verdict if isinstance(job.verdict, Damaged) else None
    return VerificationAnswer(
        verification=id_,
        session=job.session,
        level=job.how.level,
        state=job.state,
        chunks=job.progress.chunks,
        packs_done=job.progress.packs_done,
        packs_total=job.progress.packs_total,
        packs_skipped=job.progress.packs_skipped,
        pack_bytes_done=job.progress.pack_bytes_done,
        pack_bytes_total=job.progress.pack_bytes_total,
        frames=job.progress.frames,
        fetched_bytes=job.progress.fetched_bytes,
        copies_damaged=job.progress.copies_damaged,
        copies_repaired=job.progress.copies_repaired,
        damaged_bytes=found.damaged_bytes if found else 0,
        extent_count=found.extent_count if found else 0,
        extents=[
            ExtentAnswer(
                volume=names[one.volume],
                offset_bytes=one.offset_bytes,
                length_bytes=one.length_bytes,
                generation=one.generation,
            )
            for one in (found.extents if found else ())
        ],
        manifest=found.manifest if found else None,
        code=job.failure.code if job.failure else None,
        message=str(job.failure) if job.failure else None,
    )
