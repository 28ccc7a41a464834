"""Endpoints of upkeep: what it would free, looked at step by step, and asking for it now."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field

from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from libs.rest.waiting import read_or_wait
from services.catalog.deletion.rewriter import RewriteTally
from services.catalog.deletion.sweeper import SweepTally
from services.catalog.deletion.upkeep import ENDED, State, Upkeep

Deleter = Annotated[Caller, Depends(require(Role.DELETE))]

#: Longest time that a request may wait for a pass to end.
WAIT_SECONDS_MAX = 30.0


class SweepAnswer(BaseModel):
    """What a sweep has deleted, or would delete."""

    objects: int = Field(description="Objects that were looked at")
    packs: int = Field(description="Deleted objects of packs")
    manifests: int = Field(description="Deleted objects of manifests")
    freed_bytes: int = Field(description="Bytes of both")
    unnamed: int = Field(
        description="Those of them that no row of the catalog names; the others are of dead "
        "generations and of sessions that ended"
    )
    unnamed_bytes: int
    held_back: int = Field(
        description="Objects that no row names and that wait for a person's word: too many"
    )
    held_back_bytes: int
    young: int = Field(description="Objects that no row names and that are too young to be judged")
    young_bytes: int
    foreign: int = Field(description="Objects that are none of ours; they are never touched")


class SweepSurveyAnswer(SweepAnswer):
    """What a sweep of a piece of the store would delete; nothing was changed."""

    cursor: str | None = Field(description="Of the next piece; null: that was all")


class RewritingSurveyAnswer(BaseModel):
    """What rewriting some packs would free; nothing was changed."""

    packs: int = Field(description="Packs that look mostly dead: these would be marked")
    pack_bytes: int
    live_bytes_estimated: int = Field(
        description="Bytes that would be moved, by what the heads use"
    )
    freed_bytes_estimated: int = Field(description="The rest")
    unsure_packs: int = Field(
        description="Those of the packs that older snapshots use too: how much of them, only "
        "reading block maps tells"
    )
    unsure_bytes: int = Field(
        description="Bytes of `freed_bytes_estimated` that lie in those, and may be needed"
    )
    small_packs: int = Field(
        description="Small packs that would be merged; counted in the first step alone"
    )
    small_bytes: int
    cursor: int | None = Field(description="Of the next packs; null: these were all")


class RewritingAnswer(BaseModel):
    """What rewriting has done."""

    candidates: int = Field(description="Packs that looked mostly dead")
    small: int = Field(description="Small packs that were to be merged")
    rewritten: int = Field(description="Packs whose live items were moved; collection deletes them")
    rewritten_bytes: int
    written: int = Field(description="New packs")
    written_bytes: int
    given_up: int = Field(
        description="Packs that a session came to need meanwhile, or that were condemned"
    )
    damaged: int = Field(description="Packs that could not be read")


class UpkeepRequest(Body):
    """Sweep and rewrite now."""

    upkeep: UUID = Field(
        description="Chosen by the client; the same one again begins no second pass, and tells how "
        "it goes"
    )


class UpkeepAnswer(BaseModel):
    """A pass of upkeep as it is now."""

    upkeep: UUID
    state: State
    sweep: SweepAnswer
    rewriting: RewritingAnswer
    code: str | None = Field(description="Why something of it was put off")
    message: str | None


def add_upkeep_routes(app: FastAPI, upkeep: Upkeep) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/upkeep/sweep", tags=["upkeep"], summary="What a sweep would delete now")
    def survey_sweep(
        _: Deleter,
        cursor: Annotated[
            str | None,
            Query(max_length=600, description="As the step before answered it; none begins"),
        ] = None,
    ) -> SweepSurveyAnswer:
        tally, after = upkeep.sweeper.survey(cursor)
        return SweepSurveyAnswer(**_sweep(tally).model_dump(), cursor=after)

    @app.get("/v1/upkeep/rewriting", tags=["upkeep"], summary="What rewriting would free now")
    def survey_rewriting(
        _: Deleter,
        cursor: Annotated[
            int, Query(ge=0, lt=2**31, description="As the step before answered it; 0 begins")
        ] = 0,
    ) -> RewritingSurveyAnswer:
        found, weight = upkeep.rewriter.survey(cursor)
        small_packs, small_bytes = upkeep.rewriter.survey_small() if cursor == 0 else (0, 0)
        return RewritingSurveyAnswer(
            packs=len(found.packs),
            pack_bytes=weight.size_bytes,
            live_bytes_estimated=weight.live_bytes,
            freed_bytes_estimated=weight.size_bytes - weight.live_bytes,
            unsure_packs=weight.unsure,
            unsure_bytes=weight.unsure_bytes,
            small_packs=small_packs,
            small_bytes=small_bytes,
            cursor=found.next_pack_no,
        )

    @app.post("/v1/upkeep", tags=["upkeep"], summary="Sweep and rewrite now, waiting for the end")
    async def ask(
        http: Request,
        _: Deleter,
        request: UpkeepRequest,
        wait_seconds: Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX)] = 0,
    ) -> UpkeepAnswer:
        asked = upkeep.ask(request.upkeep)

        async def look() -> bool:
            return asked.ended.is_set()

        def enough(ended: bool, _news_count: int) -> bool:
            return ended

        await read_or_wait(http, upkeep.bells, ENDED, look, enough, wait_seconds)
        return UpkeepAnswer(
            upkeep=request.upkeep,
            state=asked.state,
            sweep=_sweep(asked.swept),
            rewriting=_rewriting(asked.rewritten),
            code=asked.failure.code if asked.failure else None,
            message=str(asked.failure) if asked.failure else None,
        )


def _sweep(tally: SweepTally) -> SweepAnswer:
    return SweepAnswer(
        objects=tally.objects,
        packs=tally.packs,
        manifests=tally.manifests,
        freed_bytes=tally.deleted_bytes,
        unnamed=tally.unnamed,
        unnamed_bytes=tally.unnamed_bytes,
        held_back=tally.held_back,
        held_back_bytes=tally.held_back_bytes,
        young=tally.young,
        young_bytes=tally.young_bytes,
        foreign=tally.foreign,
    )


def _rewriting(tally: RewriteTally) -> RewritingAnswer:
    return RewritingAnswer(
        candidates=tally.candidates,
        small=tally.small,
        rewritten=tally.rewritten,
        rewritten_bytes=tally.rewritten_bytes,
        written=tally.written,
        written_bytes=tally.written_bytes,
        given_up=tally.given_up,
        damaged=tally.damaged,
    )
