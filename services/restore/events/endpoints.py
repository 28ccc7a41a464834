"""Endpoint of the catalog's event log, for whoever reads it without Kafka."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from libs.rest.auth import Caller, Role, require
from services.restore.events.feed import Feed

Reader = Annotated[Caller, Depends(require(Role.READER))]

#: Longest time that a request may wait for an event.
WAIT_SECONDS_MAX = 30.0


class EventsAnswer(BaseModel):
    """Events of the catalog's log."""

    events: list[dict[str, Any]] = Field(
        description="Envelope, the event's fields as `data`, and as `cursor` the place after it in "
        "its topic"
    )
    next: str = Field(description="`after` of the next page")
    folded: list[str] = Field(
        description="Topics that were asked for from the beginning and whose first events the "
        "catalog keeps no more"
    )


def add_event_routes(app: FastAPI, feed: Feed) -> None:
    """Add the endpoint to the application."""

    @app.get(
        "/v1/tenants/{tenant}/events",
        tags=["listing"],
        summary="Events, waiting for news",
        response_model=EventsAnswer,
    )
    async def events(  # noqa: PLR0913 -- path and query
        http: Request,
        tenant: str,
        _: Reader,
        topic: Annotated[list[str] | None, Query(description="All topics if there is none")] = None,
        after: Annotated[str, Query(description="`next` of a page, or `cursor` of an event")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        wait_seconds: Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX)] = 0,
    ) -> Response:
        cursors = feed.cursors(tenant)
        at = cursors.open(after, tuple(topic or ()))
        page = await feed.follow(http, tenant, at, limit, wait_seconds)
        return Response(page.document(cursors), media_type="application/json")
