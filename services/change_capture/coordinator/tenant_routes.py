"""The coordinator's endpoints about tenants: for whoever runs the installation.

The tenant is ``{name}`` in these paths and not ``{tenant}``: a token of one tenant, whatever its
role, has no say in how many tenants there are and how much each may store.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.tenants import TenantUsage, list_tenants, read_tenant, set_quota
from libs.ids import check_name
from libs.keys.vault import KeyVault
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.change_capture.coordinator.tenants import ensure_tenant

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Reader = Annotated[Caller, Depends(require(Role.READER))]

Quota = Annotated[
    int | None,
    Field(ge=1, le=2**62, description="Bytes of its packs at the primary store; null: no limit"),
]


class TenantRequest(Body):
    """A new tenant."""

    name: str
    quota_bytes: Quota = None


class QuotaRequest(Body):
    """What a tenant may store."""

    quota_bytes: Quota


class TenantAnswer(BaseModel):
    """A tenant and the room that it takes."""

    name: str
    domain: UUID = Field(description="The domain in which it stores")
    created_at: datetime
    volumes: int = Field(description="Volumes that are protected")
    stored_bytes: int = Field(description="Its packs at the primary store")
    quota_bytes: int | None


def add_tenant_routes(app: FastAPI, catalog: Catalog, vault: KeyVault) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/tenants", summary="All tenants, and the room that each takes")
    def tenants(_: Reader) -> list[TenantAnswer]:
        return [_answer(one) for one in list_tenants(catalog)]

    @app.post("/v1/tenants", summary="Add a tenant; repeating it is harmless")
    def add(_: Admin, request: TenantRequest) -> TenantAnswer:
        name = check_name("tenant", request.name)
        ensure_tenant(catalog, vault, name)
        if request.quota_bytes is not None:
            set_quota(catalog, name, request.quota_bytes)
        return _answer(read_tenant(catalog, name))

    @app.post("/v1/tenants/{name}/quota", summary="Limit what a tenant stores")
    def limit(name: str, _: Admin, request: QuotaRequest) -> TenantAnswer:
        set_quota(catalog, name, request.quota_bytes)
        return _answer(read_tenant(catalog, name))


def _answer(one: TenantUsage) -> TenantAnswer:
    return TenantAnswer(
        name=one.name,
        domain=one.domain,
        created_at=one.created_at,
        volumes=one.volumes,
        stored_bytes=one.stored_bytes,
        quota_bytes=one.quota_bytes,
    )
