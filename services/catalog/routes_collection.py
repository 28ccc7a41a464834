"""Endpoints of collection: what waits to be deleted, and deleting it now."""

from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.collecting import read_collection_state
from libs.catalogdb.pool import Catalog
from libs.runtime.auth import Caller, Role, require

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


class CollectionState(BaseModel):
    """What collection has to do and has done."""

    reconciled: bool = Field(
        description="Whether the catalog agrees with the store; nothing is deleted before it does"
    )
    tombstones: int = Field(description="Packs condemned whose objects are not deleted yet")
    tombstone_bytes: int


def add_collection_routes(app: FastAPI, catalog: Catalog) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/collection", tags=["collection"], summary="How collection stands")
    def state(_: Admin) -> CollectionState:
        found = read_collection_state(catalog)
        return CollectionState(
            reconciled=found.reconciled,
            tombstones=found.tombstones,
            tombstone_bytes=found.tombstone_bytes,
        )
