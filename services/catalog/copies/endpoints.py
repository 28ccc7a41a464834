"""Endpoints of stores: what each has and lacks, giving one up, filling one again."""

from typing import Annotated, Literal
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.stores import (
    StoreState,
    begin_repair,
    count_live_packs,
    lose_store,
    read_store_figures,
    read_stores,
)
from libs.copies.stores import PRIMARY, Stores
from libs.errors import ConflictError, NotFoundError
from libs.rest.auth import Caller, Role, require
from services.catalog.copies.identity import name_bucket, store_id_of
from services.catalog.recovery.endpoints import RecoveryTools

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Reader = Annotated[Caller, Depends(require(Role.READER))]


class StoreAnswer(BaseModel):
    """A store, and what it lacks."""

    name: str
    state: Literal["online", "lost"]
    configured: bool = Field(description="Whether the catalog service has settings for it")
    store: UUID | None = Field(description="What its bucket says it is")
    packs: int = Field(description="Live packs that it should have")
    wanted: int = Field(description="Those whose copies are still to be made")
    damaged: int = Field(description="Those whose copies are damaged or gone")
    tombstones: int = Field(description="Copies of condemned packs that are still to be deleted")
    lag_seconds: float = Field(description="Age of the oldest new pack that it does not have")


def add_store_routes(app: FastAPI, catalog: Catalog, stores: Stores, tools: RecoveryTools) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        stores: those that the service is configured for.
        tools: what keeps the catalog and the stores of one mind.
    """

    @app.get("/v1/stores", tags=["stores"], summary="The stores, and what each lacks")
    def list_stores(_: Reader) -> list[StoreAnswer]:
        return [_answer(catalog, stores, state) for state in read_stores(catalog)]

    @app.post("/v1/stores/{name}/loss", tags=["stores"], summary="Say that a store's data are gone")
    def lose(name: str, _: Admin) -> StoreAnswer:
        state = _find(catalog, name)
        lose_store(catalog, state.store_no)
        return _answer(catalog, stores, _find(catalog, name))

    @app.post("/v1/stores/{name}/repair", tags=["stores"], summary="Fill a store from the other")
    def repair(name: str, _: Admin) -> StoreAnswer:
        state = _find(catalog, name)
        store = stores.by_number.get(state.store_no)
        if store is None:
            raise ConflictError(
                f"store {name}: the catalog service has no settings for it; configure its bucket, "
                f"restart the service, and try again"
            )
        if len(stores.by_number) == 1:
            raise ConflictError(f"store {name}: there is no other store to fill it from")
        store_id = store_id_of(store) or name_bucket(store, state.store_id or uuid4())
        others = {one.store_id for one in read_stores(catalog) if one.store_no != state.store_no}
        if store_id in others:
            raise ConflictError(f"store {name}: its bucket is that of another store; configure its")
        if state.store_no == PRIMARY:  # or the catalog takes it for another one's bucket
            tools.mirror.copy_checkpoint(PRIMARY)
        begin_repair(catalog, state.store_no, store_id)
        return _answer(catalog, stores, _find(catalog, name))


def _find(catalog: Catalog, name: str) -> StoreState:
    for state in read_stores(catalog):
        if state.name == name:
            return state
    raise NotFoundError(f"store {name[:80]}: the catalog knows none of this name")


def _answer(catalog: Catalog, stores: Stores, state: StoreState) -> StoreAnswer:
    figures = read_store_figures(catalog, state.store_no)
    return StoreAnswer(
        name=state.name,
        state=state.state,
        configured=state.store_no in stores.by_number,
        store=state.store_id,
        packs=count_live_packs(catalog),
        wanted=figures.wanted,
        damaged=figures.damaged,
        tombstones=figures.tombstones,
        lag_seconds=figures.lag_seconds,
    )
