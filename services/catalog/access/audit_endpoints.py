"""Endpoint of the audit log: its records, page by page. Whoever reads them verifies the chain."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.access.acts import AuditRecord, instant
from libs.catalogdb.access.audit import last_record, publish_acts, read_audit
from libs.catalogdb.pool import Catalog
from libs.rest.auth import Caller, Role, require
from libs.runtime.loops import Loop
from libs.runtime.signals import Stop

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]

_PAGE_COUNT_MAX = 1_000
#: Records that are put into the event log at a time, and how often it is looked whether there are.
_PUBLISHED_COUNT_MAX, _PUBLISH_SECONDS = 200, 1.0


class RecordAnswer(BaseModel):
    """Who did what; docs/formats/audit.md says what its digest covers."""

    number: int
    at: str
    service: str
    token: str = Field(description="Name of the token")
    roles: list[str]
    address: str = Field(description="Of the client, or of the proxy before the service")
    tenant: str = Field(description="Of the path; '*' on paths that have none")
    method: str
    route: str
    target: str = Field(description="Path and query as they were sent, at most 500 characters")
    status: int = Field(description="HTTP status of the answer")
    digest: str


class AuditPage(BaseModel):
    """Records of the audit log, in order."""

    records: list[RecordAnswer]
    last: int = Field(description="Number of the newest record there is; 0: there is none")


def add_audit_routes(app: FastAPI, catalog: Catalog) -> None:
    """Add the endpoint to the application."""

    @app.get("/v1/audit", tags=["access"], summary="Records of the audit log")
    def audit(
        _: Admin,
        after: Annotated[
            int | None, Query(ge=0, lt=2**63, description="Records above it; none: the newest ones")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_PAGE_COUNT_MAX)] = 100,
    ) -> AuditPage:
        last = last_record(catalog)
        first = max(0, last - limit) if after is None else after
        return AuditPage(
            records=[_answer(one) for one in read_audit(catalog, first, limit)], last=last
        )


def audit_loop(catalog: Catalog) -> Loop:
    """The loop that puts what is recorded into the event log, whose relay publishes it."""

    def publish(stop: Stop, progressed: Callable[[], None]) -> None:
        while not stop.requested and publish_acts(catalog, _PUBLISHED_COUNT_MAX):
            progressed()

    return Loop("audit", publish, _PUBLISH_SECONDS)


def _answer(record: AuditRecord) -> RecordAnswer:
    act = record.act
    return RecordAnswer(
        number=record.number,
        at=instant(act.at),
        service=act.service,
        token=act.token,
        roles=list(act.roles),
        address=act.address,
        tenant=act.tenant,
        method=act.method,
        route=act.route,
        target=act.target,
        status=act.status,
        digest=record.digest.hex(),
    )
