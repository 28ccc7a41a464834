"""What `/readyz` says, where clients reach it: an ingress passes on what is below /v1 alone."""

from http import HTTPStatus
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response

from libs.rest.auth import authenticated
from libs.runtime.health import Health, health_document


def add_readiness_route(app: FastAPI) -> None:
    """Add it to an application that accepts tokens.

    Without a token it is for probes within the cluster alone, and that is `/readyz`.
    """
    # Threads of their own: those of requests may all wait for Postgres.
    threads = anyio.CapacityLimiter(2)
    health: Health = app.state.health

    @app.get("/v1/ready", tags=["operation"], summary="What /readyz says, for who has a token")
    async def ready(_: Annotated[None, Depends(authenticated)]) -> Response:
        checks = await anyio.to_thread.run_sync(health.ready, limiter=threads)
        is_ready, document = health_document(checks)
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(document, status)
