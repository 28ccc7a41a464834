"""Endpoints of the catalog itself: its standing, reconciling, rebuilding, checking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.errors import NotFoundError
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from libs.runtime.groups import KafkaSettings
from services.catalog.copies.mirror import Mirror
from services.catalog.recovery.check import CatalogCheck
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.loop import Order, RecoveryLoop
from services.catalog.recovery.surviving_log import read_decisions

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Reader = Annotated[Caller, Depends(require(Role.READER))]


class DamagedAnswer(BaseModel):
    """A snapshot that lacks something."""

    tenant: str
    point: str
    reason: str


class ReconciliationAnswer(BaseModel):
    """What the last reconciliation of this process has found, or has found so far."""

    step: str
    recovered: Sequence[str] = Field(description="Snapshots that only the store knew of")
    damaged: Sequence[DamagedAnswer]
    packs_found: int
    packs_lost: int
    lineages_counted: int
    sessions_rejected: int
    unreadable_objects: Sequence[str]


class CatalogAnswer(BaseModel):
    """How the catalog stands to the store."""

    incarnation: int
    compared: bool = Field(
        description="Whether this life of the Postgres server was compared with the store"
    )
    reconciled: bool = Field(description="Whether sessions, collection and sweeps may go on")
    empty: bool
    standing: Literal["unknown", "current", "behind", "lost", "foreign"]
    reason: str
    error: str = Field(description="Why the last look at catalog and store failed; empty if not")
    durable_checkpoint: int
    reconciliation: ReconciliationAnswer


class RebuildRequest(Body):
    """Fill an empty catalog."""

    source: Literal["store", "log"] = Field(
        description="log: what Kafka still has of the log decides which snapshots were acknowledged"
    )


class CheckpointAnswer(BaseModel):
    """A checkpoint that is durable."""

    incarnation: int
    number: int


class DifferenceAnswer(BaseModel):
    """A row that the live and the rebuilt catalog do not have alike."""

    table: str
    key: str
    live: str | None
    rebuilt: str | None


class CheckAnswer(BaseModel):
    """A comparison of the live catalog with one rebuilt from the store."""

    running: bool
    step: str
    rows: int
    differences: int
    told: Sequence[DifferenceAnswer] = Field(description="The first 1000 of them")
    changed_meanwhile: bool
    error: str


@dataclass(frozen=True, slots=True)
class RecoveryTools:
    """What keeps the catalog and the store of one mind."""

    loop: RecoveryLoop
    checkpoints: Checkpoints
    #: Copies what is no pack between the stores.
    mirror: Mirror
    checking: CatalogCheck
    kafka: KafkaSettings


def add_catalog_routes(app: FastAPI, tools: RecoveryTools) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/catalog", tags=["catalog"], summary="How the catalog stands to the store")
    def status(_: Reader) -> CatalogAnswer:
        return _status(tools.loop)

    @app.post("/v1/catalog/reconcile", status_code=202, tags=["catalog"], summary="Reconcile")
    def reconcile(_: Admin) -> CatalogAnswer:
        tools.loop.order(Order("a person asked for it", None), empty_only=False)
        return _status(tools.loop)

    @app.post("/v1/catalog/rebuild", status_code=202, tags=["catalog"], summary="Rebuild")
    def rebuild(_: Admin, request: RebuildRequest) -> CatalogAnswer:
        decisions = (lambda: read_decisions(tools.kafka)) if request.source == "log" else None
        tools.loop.order(Order(f"rebuild from the {request.source}", decisions), empty_only=True)
        return _status(tools.loop)

    @app.post("/v1/catalog/checkpoint", tags=["catalog"], summary="Write a checkpoint now")
    def checkpoint(_: Admin) -> CheckpointAnswer:
        name = tools.checkpoints.write()
        return CheckpointAnswer(incarnation=name.incarnation, number=name.number)

    @app.post("/v1/catalog/check", status_code=202, tags=["catalog"], summary="Begin a check")
    def check(_: Admin) -> CheckAnswer:
        tools.checking.start()
        return _check(tools.checking)

    @app.get("/v1/catalog/check", tags=["catalog"], summary="How the last check stands")
    def checked(_: Reader) -> CheckAnswer:
        return _check(tools.checking)


def _status(loop: RecoveryLoop) -> CatalogAnswer:
    state = loop.state()
    report = state.report
    return CatalogAnswer(
        incarnation=state.own.number,
        compared=state.own.compared,
        reconciled=state.own.reconciled,
        empty=state.own.empty,
        standing=state.standing.value if state.standing else "unknown",
        reason=state.reason,
        error=state.error,
        durable_checkpoint=state.own.durable,
        reconciliation=ReconciliationAnswer(
            step=report.step,
            recovered=list(report.recovered),
            damaged=[
                DamagedAnswer(tenant=point.tenant, point=point.label, reason=point.reason)
                for point in report.damaged
            ],
            packs_found=report.packs_found,
            packs_lost=report.packs_lost,
            lineages_counted=report.volumes,
            sessions_rejected=report.sessions_rejected,
            unreadable_objects=list(report.unreadable),
        ),
    )


def _check(checking: CatalogCheck) -> CheckAnswer:
    result = checking.result
    if result is None:
        raise NotFoundError("catalog: was not checked since the service started")
    return CheckAnswer(
        running=result.running,
        step=result.step,
        rows=result.rows,
        differences=result.differences,
        told=[
            DifferenceAnswer(table=one.table, key=one.key, live=one.live, rebuilt=one.rebuilt)
            for one in result.told
        ],
        changed_meanwhile=result.changed_meanwhile,
        error=result.error,
    )
