"""Endpoints of what is wrong now. They are here, because whoever restores must see it too."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.notifications.listing import Notification, list_notifications
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import require_tenant
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require

Reader = Annotated[Caller, Depends(require(Role.READER))]


class NotificationAnswer(BaseModel):
    """Something that is wrong now."""

    notification: UUID = Field(description="Names it, also in its events")
    kind: str = Field(description="A word for filters, such as session-rejected")
    about: str = Field(description="A name that never changes of what it is about")
    tenant: str = Field(description="Whom it concerns; * is who runs the installation")
    severity: str = Field(description="error: data is at risk or a recovery point is missing")
    message: str
    group: str | None
    volume: str | None
    node: str | None
    store: str | None
    session: str | None
    opened_at: datetime
    seen_at: datetime = Field(description="When it was last found to be so")


def add_notification_routes(app: FastAPI, readers: VolumeReaders) -> None:
    """Add the endpoints to the application."""

    @app.get(
        "/v1/tenants/{tenant}/notifications",
        tags=["listing"],
        summary="What is wrong now with what the tenant protects",
    )
    def of_tenant(tenant: str, _: Reader) -> list[NotificationAnswer]:
        require_tenant(readers.catalog, tenant)
        return _answers(readers.catalog, tenant)

    @app.get(
        "/v1/notifications",
        tags=["listing"],
        summary="What is wrong now, of all tenants and of the installation",
    )
    def of_all(_: Reader) -> list[NotificationAnswer]:
        return _answers(readers.catalog, None)


def _answers(catalog: Catalog, tenant: str | None) -> list[NotificationAnswer]:
    return [_answer(one) for one in list_notifications(catalog, tenant)]


def _answer(one: Notification) -> NotificationAnswer:
    return NotificationAnswer(
        notification=one.notification,
        kind=one.kind,
        about=one.about,
        tenant=one.tenant,
        severity=one.severity,
        message=one.message,
        group=one.group,
        volume=one.volume,
        node=one.node,
        store=one.store,
        session=one.session,
        opened_at=one.opened_at,
        seen_at=one.seen_at,
    )
