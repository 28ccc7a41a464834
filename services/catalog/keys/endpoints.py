"""Endpoints that change keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.errors import NotFoundError
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.catalog.keys.data_keys import DataKeys
from services.catalog.keys.rotation import KekRotation

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


class RotationAnswer(BaseModel):
    """How a change of the key-encryption key stands."""

    fingerprint: str = Field(description="Of the key-encryption key that stays")
    running: bool
    step: str
    keys: int = Field(description="Data keys that there are")
    wrapped: int = Field(description="Objects that this run has written, over all stores")
    keys_deleted: int
    checkpoints_deleted: int
    left: int = Field(
        description="Objects that need another key-encryption key; 0 when the change is complete"
    )
    error: str


class DataKeysRequest(Body):
    """Whose data key is to be changed."""

    tenant: str | None = Field(default=None, max_length=63, description="null: all tenants")


class DataKeyAnswer(BaseModel):
    """A tenant's domain has a new data key."""

    tenant: str
    domain: UUID
    before: UUID = Field(description="Stays in the bucket for what it has sealed")
    key_id: UUID = Field(description="Seals new packs and manifests")


@dataclass(frozen=True, slots=True)
class KeyTools:
    """What changes keys."""

    rotation: KekRotation
    data_keys: DataKeys


def add_key_routes(app: FastAPI, tools: KeyTools) -> None:
    """Add the endpoints to the application."""

    @app.post("/v1/keys/kek", status_code=202, tags=["keys"], summary="Change the KEK, or go on")
    def rotate(_: Admin) -> RotationAnswer:
        tools.rotation.start()
        return _answer(tools.rotation)

    @app.get("/v1/keys/kek", tags=["keys"], summary="How the last change of the KEK stands")
    def rotated(_: Admin) -> RotationAnswer:
        return _answer(tools.rotation)

    @app.post("/v1/keys/data", tags=["keys"], summary="Give domains new data keys")
    def renew(_: Admin, request: DataKeysRequest) -> Sequence[DataKeyAnswer]:
        return [
            DataKeyAnswer(
                tenant=one.tenant, domain=one.domain, before=one.before, key_id=one.key_id
            )
            for one in tools.data_keys.rotate(request.tenant)
        ]


def _answer(rotation: KekRotation) -> RotationAnswer:
    state = rotation.state
    if state is None:
        raise NotFoundError("key-encryption key: was not changed since the service started")
    return RotationAnswer(
        fingerprint=rotation.fingerprint,
        running=state.running,
        step=state.step,
        keys=state.keys,
        wrapped=state.wrapped,
        keys_deleted=state.keys_deleted,
        checkpoints_deleted=state.checkpoints_deleted,
        left=state.left,
        error=state.error,
    )
