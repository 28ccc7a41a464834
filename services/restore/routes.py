"""The restore service's REST endpoints, put together."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.access.readiness import add_readiness_route
from libs.copies.stores import Stores
from libs.keys.kek import KeyEncryptionKey
from libs.reading.volume import VolumeReaders
from libs.rest.auth import authenticated
from libs.store.port import Presigner
from services.restore.addresses.endpoints import add_address_routes
from services.restore.downloads.endpoints import add_byte_routes
from services.restore.events.endpoints import add_event_routes
from services.restore.events.feed import Feed
from services.restore.keys import add_key_routes
from services.restore.listing import add_listing_routes
from services.restore.notifications import add_notification_routes
from services.restore.restores.endpoints import add_restore_routes
from services.restore.settings import Settings


class Links(BaseModel):
    """Where the other public services are."""

    coordinator: str = Field(description="URL at which clients reach the coordinator")
    catalog: str = Field(description="URL at which clients reach the catalog service")


def add_routes(  # noqa: PLR0913 -- what the endpoints work with, wired in __main__
    app: FastAPI,
    settings: Settings,
    readers: VolumeReaders,
    stores: Stores,
    presigners: Mapping[int, Presigner],
    kek: KeyEncryptionKey,
    threads: Executor,
    feed: Feed,
) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        settings: what clients are told, and for how long they may use it.
        readers: opens volumes for reading.
        stores: where packs and wrapped keys lie.
        presigners: sign reads at the endpoints that clients use, by the store's number.
        kek: the key-encryption key; only its fingerprint leaves the service.
        threads: read ahead for downloads.
        feed: pages of the catalog's event log.
    """

    @app.get("/v1", tags=["listing"], summary="Where the other public services are")
    def links(_: Annotated[None, Depends(authenticated)]) -> Links:
        return Links(coordinator=settings.coordinator_url, catalog=settings.catalog_url)

    add_readiness_route(app)
    add_listing_routes(app, readers)
    add_event_routes(app, feed)
    add_notification_routes(app, readers)
    add_key_routes(app, readers, stores, kek)
    add_byte_routes(app, readers, threads)
    add_restore_routes(app, settings, readers, presigners)
    add_address_routes(app, readers, stores)
