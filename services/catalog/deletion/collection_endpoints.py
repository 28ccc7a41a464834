"""Endpoints of collection: what can be freed, and freeing it step by step."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, Path
from pydantic import BaseModel, Field

from libs.catalogdb.deletion.brake import Halt, accept, read_halts
from libs.catalogdb.deletion.condemning import read_collection_state
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import read_incarnation
from libs.catalogdb.snapshots.retention import read_clock
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.catalog.deletion.passes import Collection

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Deleter = Annotated[Caller, Depends(require(Role.DELETE))]
Reader = Annotated[Caller, Depends(require(Role.READER))]


class ClockAnswer(BaseModel):
    """The time that retention goes by."""

    trusted_at: datetime
    server_at: datetime = Field(description="The clock of Postgres")
    halted: bool = Field(
        description="The clock has jumped: retention expires nothing until it is back or accepted"
    )


class HaltAnswer(BaseModel):
    """A brake that is on: nothing of this kind is given up before a person has looked."""

    name: str = Field(description="What to accept: exactly these suspects, and no others")
    kind: str
    since: datetime
    suspects: int = Field(description="Packs, objects or recovery points that are held back")
    suspect_bytes: int
    message: str = Field(description="What was found, and what to look at")
    examples: Sequence[str] = Field(description="The first 20: generations, keys, or sessions")


class AcceptanceAnswer(BaseModel):
    """What goes on at its next turn."""

    name: str
    kind: str


class CollectionAnswer(BaseModel):
    """What a pass of collection would do now; nothing was changed."""

    reconciled: bool = Field(
        description="Whether the catalog agrees with the store; nothing is deleted before it does"
    )
    packs: int = Field(description="Packs that nothing needs: a pass condemns and deletes them")
    pack_bytes: int
    tombstones: int = Field(description="Condemned packs whose objects are not deleted for certain")
    tombstone_bytes: int
    manifests: int = Field(description="Manifests of expired snapshots not deleted for certain")
    clock: ClockAnswer
    halts: Sequence[HaltAnswer] = Field(description="Brakes that are on")


class StepRequest(Body):
    """Go on with a pass of collection."""

    cursor: str | None = Field(
        None, max_length=100, description="As the step before answered it; null begins a pass"
    )


class StepAnswer(BaseModel):
    """What one step of a pass freed."""

    packs_condemned: int
    packs_deleted: int
    freed_bytes: int
    manifests_deleted: int
    failures: int = Field(description="Objects that the store did not delete; tried again later")
    cursor: str | None = Field(description="Of the next step; null: the pass is over")


def add_collection_routes(app: FastAPI, catalog: Catalog, collection: Collection) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/collection", tags=["collection"], summary="What can be freed now")
    def state(_: Reader) -> CollectionAnswer:
        found = read_collection_state(catalog)
        incarnation = read_incarnation(catalog)
        return CollectionAnswer(
            reconciled=incarnation.compared and incarnation.reconciled,
            packs=found.unused,
            pack_bytes=found.unused_bytes,
            tombstones=found.tombstones,
            tombstone_bytes=found.tombstone_bytes,
            manifests=found.manifests,
            clock=_clock(catalog),
            halts=[_halt(halt) for halt in read_halts(catalog)],
        )

    @app.post("/v1/collection/steps", tags=["collection"], summary="Free the next piece")
    def step(_: Deleter, request: StepRequest) -> StepAnswer:
        done = collection.step(request.cursor)
        freed = done.freed
        return StepAnswer(
            packs_condemned=freed.packs_condemned,
            packs_deleted=freed.packs_deleted,
            freed_bytes=freed.freed_bytes,
            manifests_deleted=freed.manifests_deleted,
            failures=freed.failures,
            cursor=done.cursor,
        )

    @app.post("/v1/halts/{name}/acceptance", tags=["collection"], summary="Let go what was shown")
    def let_go(
        caller: Admin, name: Annotated[str, Path(max_length=100, description="Of the halt")]
    ) -> AcceptanceAnswer:
        return AcceptanceAnswer(name=name, kind=accept(catalog, name, caller.name))


def _clock(catalog: Catalog) -> ClockAnswer:
    state = read_clock(catalog)
    return ClockAnswer(trusted_at=state.trusted_at, server_at=state.server_at, halted=state.halted)


def _halt(halt: Halt) -> HaltAnswer:
    return HaltAnswer(
        name=halt.name,
        kind=halt.kind,
        since=halt.since,
        suspects=halt.suspects.count,
        suspect_bytes=halt.suspects.size_bytes,
        message=halt.message,
        examples=halt.examples,
    )
