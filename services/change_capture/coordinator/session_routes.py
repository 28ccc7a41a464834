"""The coordinator's endpoints by which people look after sessions: a list, and an end by hand."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import require_names
from libs.catalogdb.sessions.listing import SessionSummary, cancel_session, list_sessions
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body

Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
Reader = Annotated[Caller, Depends(require(Role.READER))]


class SummaryAnswer(BaseModel):
    """A session in a list."""

    session: UUID
    group: str
    state: Literal["open", "sealed", "rejected"]
    volumes: list[str] = Field(description="Names of its volumes, as they are called now")
    opened_at: datetime
    ended_at: datetime | None
    sequence: int | None = Field(description="Of its snapshot, if it was sealed")
    code: str | None = Field(description="Why it was rejected, for programs")
    message: str | None = Field(description="Why it was rejected, for people")
    read_bytes: int
    stored_bytes: int


class CancelRequest(Body):
    """End a session without a snapshot."""

    reason: str = Field("", max_length=MESSAGE_LENGTH_MAX // 2, description="For people")


def add_session_routes(app: FastAPI, catalog: Catalog) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/tenants/{tenant}/sessions", summary="Sessions, newest first")
    def sessions(
        tenant: str,
        _: Reader,
        name: Annotated[str | None, Query(description="Only of this volume or group")] = None,
        state: Annotated[
            Literal["open", "sealed", "rejected"] | None, Query(description="Only in this state")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[SummaryAnswer]:
        require_names(catalog, tenant, name)
        return [_answer(one) for one in list_sessions(catalog, tenant, name, state, limit)]

    @app.post(
        "/v1/tenants/{tenant}/sessions/{session}/cancel",
        summary="End an open session without a snapshot; repeating it is harmless",
    )
    def cancel(
        tenant: str, session: UUID, caller: Operator, request: CancelRequest
    ) -> SummaryAnswer:
        return _answer(cancel_session(catalog, tenant, session, caller.name, request.reason))


def _answer(one: SessionSummary) -> SummaryAnswer:
    return SummaryAnswer(
        session=one.session,
        group=one.group,
        state=one.state,
        volumes=one.volumes,
        opened_at=one.opened_at,
        ended_at=one.ended_at,
        sequence=one.sequence,
        code=one.code,
        message=one.message,
        read_bytes=one.read_bytes,
        stored_bytes=one.stored_bytes,
    )
