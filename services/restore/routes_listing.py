"""Endpoints that list: volumes, snapshots, recovery points, events, keys. They give no data."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.inventory import find_tenant, list_volumes
from libs.catalogdb.snapshots import (
    SnapshotVolume,
    find_volume_at,
    list_snapshots,
    newest_points,
    read_snapshot,
)
from libs.errors import NotFoundError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap
from libs.reading.volume import VolumeReaders
from libs.runtime.auth import Caller, Role, require
from libs.store.layout import KEYS_PREFIX, parse_domain_key_object
from libs.store.port import ObjectStore
from services.restore.event_feed import parse_cursor, read_events
from services.restore.points import parse_point

Reader = Annotated[Caller, Depends(require(Role.READER))]

#: Longest time that a request may wait for an event.
WAIT_SECONDS_MAX = 30.0
_LIMIT = Query(ge=1, le=1000)


class PointAnswer(BaseModel):
    """One volume at one recovery point."""

    volume: str
    volume_id: UUID
    group: str
    sequence: int = Field(description="Number of the snapshot in its group")
    session: UUID = Field(description="Id of the snapshot")
    sealed_at: datetime
    consistency: str
    base: UUID | None = Field(description="Snapshot that the change set is relative to")
    node: str
    path: str
    size_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int


class SnapshotPage(BaseModel):
    """Snapshots, newest first; a row for each of their volumes."""

    snapshots: list[PointAnswer]
    next: UUID | None = Field(description="`before` of the next page; null on the last one")


class SnapshotAnswer(BaseModel):
    """One snapshot of a group."""

    session: UUID
    group: str
    sequence: int
    sealed_at: datetime
    consistency: str
    base: UUID | None
    volumes: list[PointAnswer]


class VolumeAnswer(BaseModel):
    """A protected volume."""

    volume: UUID
    name: str
    group: str
    node: str
    path: str
    latest: PointAnswer | None = Field(description="Its newest recovery point")


class KeyAnswer(BaseModel):
    """A data key of the tenant's domain, as it lies in the bucket, wrapped."""

    domain: UUID
    key_id: UUID
    created_at: datetime
    in_use: bool = Field(description="Whether new packs are sealed under it")
    kek_fingerprint: str = Field(description="Which key-encryption key opens it")


class EventsAnswer(BaseModel):
    """Events of the catalog's log."""

    events: list[dict[str, Any]] = Field(description="Envelope, and the event's fields as `data`")
    next: str = Field(description="`after` of the next page")


def add_listing_routes(
    app: FastAPI, readers: VolumeReaders, store: ObjectStore, kek: KeyEncryptionKey
) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/tenants/{tenant}/volumes", tags=["listing"], summary="The tenant's volumes")
    def volumes(tenant: str, _: Reader) -> list[VolumeAnswer]:
        newest = newest_points(readers.catalog, tenant)
        return [
            VolumeAnswer(
                volume=volume.volume,
                name=volume.name,
                group=volume.group,
                node=volume.node,
                path=volume.path,
                latest=point_answer(newest[volume.volume]) if volume.volume in newest else None,
            )
            for volume in list_volumes(readers.catalog, tenant)
        ]

    @app.get("/v1/tenants/{tenant}/snapshots", tags=["listing"], summary="Snapshots, newest first")
    def snapshots(
        tenant: str,
        _: Reader,
        name: Annotated[str | None, Query(description="Only of this volume or group")] = None,
        limit: Annotated[int, _LIMIT] = 100,
        before: Annotated[UUID | None, Query(description="`next` of the previous page")] = None,
    ) -> SnapshotPage:
        rows = list_snapshots(readers.catalog, tenant, name, limit, before)
        sessions = dict.fromkeys(row.session for row in rows)
        last = list(sessions)[-1] if len(sessions) == limit else None
        return SnapshotPage(snapshots=[point_answer(row) for row in rows], next=last)

    @app.get("/v1/tenants/{tenant}/snapshots/{session}", tags=["listing"], summary="One snapshot")
    def snapshot(tenant: str, session: UUID, _: Reader) -> SnapshotAnswer:
        rows = read_snapshot(readers.catalog, tenant, session)
        return SnapshotAnswer(
            session=session,
            group=rows[0].group,
            sequence=rows[0].sequence,
            sealed_at=rows[0].sealed_at,
            consistency=rows[0].consistency,
            base=rows[0].base,
            volumes=[point_answer(row) for row in rows],
        )

    @app.get(
        "/v1/tenants/{tenant}/volumes/{name}/points/{point}",
        tags=["listing"],
        summary="The recovery point that latest, a number, an instant or -15m means",
    )
    def point(tenant: str, name: str, point: str, _: Reader) -> PointAnswer:
        return point_answer(find_volume_at(readers.catalog, tenant, name, parse_point(point)))

    @app.get("/v1/tenants/{tenant}/events", tags=["listing"], summary="Events, waiting for news")
    def events(
        tenant: str,
        _: Reader,
        topic: Annotated[list[str] | None, Query(description="All topics if there is none")] = None,
        after: Annotated[str, Query(description="`next` of a page; or a topic's position")] = "",
        limit: Annotated[int, _LIMIT] = 100,
        wait_seconds: Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX)] = 0,
    ) -> EventsAnswer:
        cursor = parse_cursor(after, tuple(topic or ()))
        page = read_events(readers.catalog, tenant, cursor, limit, wait_seconds)
        return EventsAnswer(events=page.events, next=page.next)

    @app.get("/v1/tenants/{tenant}/keys", tags=["listing"], summary="Keys, without their secrets")
    def keys(tenant: str, _: Reader) -> list[KeyAnswer]:
        found = find_tenant(readers.catalog, tenant)
        if found is None:
            raise NotFoundError(f"tenant {tenant}: it has no volume yet, hence no keys")
        answers = []
        for stat in store.list(f"{KEYS_PREFIX}{found.domain}/"):
            name = parse_domain_key_object(stat.key)
            unwrap(store.get(stat.key), kek)  # proves that the key-encryption key at hand opens it
            answers.append(
                KeyAnswer(
                    domain=name.domain,
                    key_id=name.key_id,
                    created_at=stat.modified_at,
                    in_use=name.key_id == found.key_id,
                    kek_fingerprint=kek.fingerprint.hex(),
                )
            )
        return answers


def point_answer(point: SnapshotVolume) -> PointAnswer:
    """A recovery point as it is shown."""
    return PointAnswer(
        volume=point.name,
        volume_id=point.volume,
        group=point.group,
        sequence=point.sequence,
        session=point.session,
        sealed_at=point.sealed_at,
        consistency=point.consistency,
        base=point.base,
        node=point.node,
        path=point.path,
        size_bytes=point.size_bytes,
        read_bytes=point.read_bytes,
        changed_bytes=point.changed_bytes,
        sent_bytes=point.sent_bytes,
        stored_bytes=point.stored_bytes,
    )
