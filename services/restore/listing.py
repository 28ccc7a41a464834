"""Endpoints that list: volumes, snapshots, recovery points. They give no data."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import (
    Volume,
    find_volume,
    group_of,
    list_volumes,
    require_names,
    require_tenant,
)
from libs.catalogdb.sessions.barrier import BarrierEvidence, barrier_evidence
from libs.catalogdb.snapshots.points import (
    SnapshotVolume,
    find_volume_at,
    list_snapshots,
    newest_points,
    read_history,
    read_snapshot,
)
from libs.catalogdb.volumes.sharing import places_of
from libs.catalogdb.volumes.writing import WritingNode, writing_nodes
from libs.points import RecoveryPoint
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require

Reader = Annotated[Caller, Depends(require(Role.READER))]


class PointAnswer(BaseModel):
    """One volume at one recovery point."""

    volume: str
    volume_id: UUID
    group: str
    sequence: int = Field(description="Number of the snapshot in its group")
    session: UUID = Field(description="Id of the snapshot")
    sealed_at: datetime
    consistency: str
    tracking: str = Field(
        description=(
            "How its changes were known. none: it has no base; lost: nobody knew, so everything "
            "was compared; exact: each chunk was compared with what it was; candidates: somebody "
            "said which chunks may differ; unknown: the snapshot came back from the store"
        )
    )
    lost_reason: str | None = Field(
        description="Why nobody knew its changes, if `tracking` is lost, as the node said"
    )
    base: UUID | None = Field(description="Snapshot that the change set is relative to")
    node: str
    path: str
    size_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int
    verified_at: datetime | None = Field(description="When its `verified_level` was found")
    verified_level: str | None = Field(
        description="The strongest verification of its snapshot that found nothing wrong, if "
        "nothing was found damaged since: structural (no data were read), sampled or full"
    )
    damaged: bool = Field(
        description="Whether its snapshot is known to contain what cannot be read"
    )
    copies: int = Field(description="Stores that have all of its snapshot")
    copies_wanted: int = Field(description="How many should, by the policy of its group")
    note: str | None = Field(description="What people want to remember about its snapshot")


class SnapshotPage(BaseModel):
    """Snapshots, newest first; a row for each of their volumes."""

    snapshots: list[PointAnswer]
    next: UUID | None = Field(description="`before` of the next page; null on the last one")


class BarrierAnswer(BaseModel):
    """What one node said of the barrier of a snapshot; times are those of its clock."""

    node: str
    means: str = Field(description="How it held writes: `fsfreeze`, `filter`, or `none`")
    held_at: datetime
    cut_at: datetime
    released_at: datetime
    unbroken: bool = Field(description="Whether its hold was unbroken when it was released")


class SnapshotAnswer(BaseModel):
    """One snapshot of a group."""

    session: UUID
    group: str
    sequence: int
    sealed_at: datetime
    consistency: str
    base: UUID | None
    verified_at: datetime | None
    verified_level: str | None
    damaged: bool
    copies: int = Field(description="Stores that have all of it")
    copies_wanted: int = Field(description="How many should, by the policy of its group")
    note: str | None = Field(description="What people want to remember about it")
    volumes: list[PointAnswer]
    barrier: list[BarrierAnswer] = Field(
        description="What its nodes said when they were cut together; empty if there was no need"
    )


class VolumeAnswer(BaseModel):
    """A protected volume."""

    volume: UUID
    name: str
    group: str
    node: str
    path: str
    nodes: list[WritingNode] = Field(description="All nodes that write it, the lead first")
    freeze: str | None = Field(description="Mount point that is frozen while it is cut")
    driver: str = Field(description="How its changes are known")
    removed_at: datetime | None = Field(description="Since when it is protected no more")
    removed_by: str | None
    paused_at: datetime | None = Field(description="Since when its group takes no snapshots")
    paused_by: str | None
    paused_reason: str | None
    latest: PointAnswer | None = Field(description="Its newest recovery point")


class VolumeDetails(VolumeAnswer):
    """A volume, protected or removed, and how much history it has."""

    points: int = Field(description="Its recovery points")
    oldest_at: datetime | None = Field(description="When the oldest of them was sealed")


def add_listing_routes(app: FastAPI, readers: VolumeReaders) -> None:
    """Add the endpoints to the application."""
    _add_volume_routes(app, readers)

    @app.get("/v1/tenants/{tenant}/snapshots", tags=["listing"], summary="Snapshots, newest first")
    def snapshots(
        tenant: str,
        _: Reader,
        name: Annotated[str | None, Query(description="Only of this volume or group")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[UUID | None, Query(description="`next` of the previous page")] = None,
    ) -> SnapshotPage:
        require_names(readers.catalog, tenant, name)
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
            verified_at=rows[0].verified_at,
            verified_level=rows[0].verified_level,
            damaged=rows[0].damaged,
            copies=rows[0].copies,
            copies_wanted=rows[0].copies_wanted,
            note=rows[0].note,
            volumes=[point_answer(row) for row in rows],
            barrier=[_barrier_answer(one) for one in barrier_evidence(readers.catalog, session)],
        )

    @app.get(
        "/v1/tenants/{tenant}/volumes/{name}/points/{point}",
        tags=["listing"],
        summary="The recovery point that latest, a number, an instant or -15m means",
    )
    def point(tenant: str, name: str, point: str, _: Reader) -> PointAnswer:
        return point_answer(find_volume_at(readers.catalog, tenant, RecoveryPoint(name, point)))


def _add_volume_routes(app: FastAPI, readers: VolumeReaders) -> None:
    @app.get("/v1/tenants/{tenant}/volumes", tags=["listing"], summary="The tenant's volumes")
    def volumes(
        tenant: str,
        _: Reader,
        name: Annotated[
            str | None, Query(description="Only of this group, or of the group of this volume")
        ] = None,
        removed: Annotated[
            bool, Query(description="Those that were removed, instead of those that are protected")
        ] = False,
    ) -> list[VolumeAnswer]:
        return _volume_answers(readers.catalog, tenant, name, removed=removed)

    @app.get("/v1/tenants/{tenant}/volumes/{name}", tags=["listing"], summary="One volume")
    def volume(tenant: str, name: str, _: Reader) -> VolumeDetails:
        catalog = readers.catalog
        found = find_volume(catalog, tenant, name)
        newest = newest_points(catalog, tenant, found.group, found.volume_no)
        history = read_history(catalog, found.volume_no)
        return VolumeDetails(
            **_volume_answer(found, newest).model_dump(),
            points=history.points,
            oldest_at=history.oldest_at,
        )


def _volume_answers(
    catalog: Catalog, tenant: str, name: str | None, *, removed: bool
) -> list[VolumeAnswer]:
    group = None if name is None else group_of(catalog, tenant, name)
    found = list_volumes(catalog, tenant, group, removed=removed)
    if not found:
        require_tenant(catalog, tenant)
    newest = newest_points(catalog, tenant, group)
    return [_volume_answer(volume, newest) for volume in found]


def _volume_answer(volume: Volume, newest: Mapping[UUID, SnapshotVolume]) -> VolumeAnswer:
    return VolumeAnswer(
        volume=volume.volume,
        name=volume.name,
        group=volume.group,
        node=volume.node,
        path=volume.path,
        nodes=writing_nodes(places_of(volume)),
        freeze=volume.freeze,
        driver=volume.driver,
        removed_at=volume.removed_at,
        removed_by=volume.removed_by,
        paused_at=volume.paused_at,
        paused_by=volume.paused_by,
        paused_reason=volume.paused_reason,
        latest=point_answer(newest[volume.volume]) if volume.volume in newest else None,
    )


def _barrier_answer(node: BarrierEvidence) -> BarrierAnswer:
    return BarrierAnswer(
        node=node.node,
        means=node.means,
        held_at=node.held_at,
        cut_at=node.cut_at,
        released_at=node.released_at,
        unbroken=node.unbroken,
    )


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
        tracking=point.tracking,
        lost_reason=point.lost_reason,
        base=point.base,
        node=point.node,
        path=point.path,
        size_bytes=point.size_bytes,
        read_bytes=point.read_bytes,
        changed_bytes=point.changed_bytes,
        sent_bytes=point.sent_bytes,
        stored_bytes=point.stored_bytes,
        verified_at=point.verified_at,
        verified_level=point.verified_level,
        damaged=point.damaged,
        copies=point.copies,
        copies_wanted=point.copies_wanted,
        note=point.note,
    )
