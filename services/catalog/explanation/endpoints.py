"""Endpoint that answers: who uses this chunk, and why is this pack there?"""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, Field

from libs.catalogdb.packs.explanation import explain_packs, pack_of_generation, packs_of_item
from libs.catalogdb.pool import Catalog
from libs.errors import NotFoundError
from libs.rest.auth import Caller, Role, require
from services.catalog.explanation.explainer import Explainer

Reader = Annotated[Caller, Depends(require(Role.READER))]
_Id = Annotated[
    str,
    Path(
        pattern="^([0-9a-f]{32}|[0-9a-f]{64})$",
        description="A generation (32 hexadecimal digits) or the id of a chunk or map node (64)",
    ),
]
_PLACE_COUNT_MAX = 1000


class PinAnswer(BaseModel):
    """Who keeps a pack for now."""

    owner: UUID
    session: UUID | None = Field(description="The session of the attempt, or the snapshot read")
    is_reader: bool
    deadline: datetime | None


class UseAnswer(BaseModel):
    """Snapshots of a volume that count on a pack."""

    tenant: str
    volume: str
    addresses: int
    first_sequence: int
    last_sequence: int | None = Field(description="null: the newest and those that follow")


class PackAnswer(BaseModel):
    """A pack, and what keeps it: at most a hundred pins and uses are named."""

    generation: UUID
    state: str
    size_bytes: int
    items: int
    moved_to: UUID | None
    pins: list[PinAnswer]
    uses: list[UseAnswer]


class PlaceAnswer(BaseModel):
    """Where a live snapshot has the chunk."""

    tenant: str
    volume: str
    sequence: int
    offset_bytes: int


class ExplanationAnswer(BaseModel):
    """The packs that hold it, and where live snapshots have it."""

    packs: list[PackAnswer]
    places: list[PlaceAnswer] = Field(description="Of a chunk; the first ones, as asked for")


def add_explaining_routes(app: FastAPI, catalog: Catalog, explainer: Explainer) -> None:
    """Add the endpoint to the application."""

    @app.get("/v1/explanations/{id}", tags=["collection"], summary="Who uses this chunk or pack")
    def explain(
        _: Reader,
        id: _Id,  # noqa: A002 -- the name in the path
        snapshots: Annotated[
            int, Query(ge=0, le=10_000, description="Snapshots whose maps are read at most")
        ] = 100,
        limit: Annotated[int, Query(ge=1, le=_PLACE_COUNT_MAX, description="Places")] = 100,
    ) -> ExplanationAnswer:
        value = bytes.fromhex(id)
        is_generation = len(value) == len(UUID(int=0).bytes)
        packs = (
            pack_of_generation(catalog, UUID(bytes=value))
            if is_generation
            else list(packs_of_item(catalog, value).values())
        )
        if not packs:
            raise NotFoundError(f"{id}: neither a pack's generation nor the id of a stored item")
        addresses = [] if is_generation else explainer.addresses(value, snapshots, limit)
        return ExplanationAnswer(
            packs=[PackAnswer(**asdict(pack)) for pack in explain_packs(catalog, packs)],
            places=[PlaceAnswer(**asdict(address)) for address in addresses],
        )
