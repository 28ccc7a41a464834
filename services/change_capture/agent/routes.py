"""The agent's RPC: what the coordinator may ask of it."""

import contextlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI

from libs.rest.auth import Caller, Role, require
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.rpc import (
    CaptureRequest,
    CaptureStatus,
    Outcome,
    ProbeRequest,
    ProbeResponse,
)

Coordinator = Annotated[Caller, Depends(require(Role.OPERATOR))]


def add_routes(app: FastAPI, captures: AgentCaptures) -> None:
    """Add the RPC to the application."""

    @app.post("/v1/probe", summary="Whether a path can be captured")
    def probe(_: Coordinator, request: ProbeRequest) -> ProbeResponse:
        with contextlib.closing(captures.drivers["scan"].view(Path(request.path))) as view:
            return ProbeResponse(size_bytes=view.size_bytes)

    @app.post("/v1/captures", status_code=202, summary="Begin a capture; repeating it is harmless")
    def begin(_: Coordinator, request: CaptureRequest) -> CaptureStatus:
        order = CaptureOrder(
            session=request.session,
            capture=request.capture,
            tenant=request.tenant,
            group=request.group,
            volume=request.volume,
            path=Path(request.path),
            base=request.base,
            token=request.token,
            id_key=request.id_key,
            driver=request.driver,
            is_trusted=request.is_trusted,
            hints=request.hints,
        )
        return _status(captures.begin(order), captures.boot)

    @app.get("/v1/captures/{capture}", summary="How far a capture is")
    def status(_: Coordinator, capture: UUID) -> CaptureStatus:
        found = captures.get(capture)
        found.touch()
        return _status(found, captures.boot)

    @app.post("/v1/captures/{capture}/outcome", status_code=204, summary="How the session ended")
    def settle(_: Coordinator, capture: UUID, outcome: Outcome) -> None:
        captures.settle(capture, sealed=outcome.sealed, distrusted=outcome.distrusted)


def _status(capture: Capture, boot: UUID) -> CaptureStatus:
    reason = capture.reason
    return CaptureStatus(
        capture=capture.order.capture,
        boot=boot,
        state=capture.state,
        read_bytes=capture.read_bytes,
        code=reason.code if reason else None,
        message=str(reason) if reason else None,
    )
