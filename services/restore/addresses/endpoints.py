"""Endpoints of addresses: translation in both directions, and what differs between two points."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.snapshots.points import find_volume_at
from libs.copies.stores import Stores
from libs.errors import BadInputError
from libs.packs.layout import FRAME_COUNT_MAX, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.points import RecoveryPoint
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require
from services.restore.addresses.differences import find_differences
from services.restore.addresses.translation import Addresses, Translation, find_addresses, translate

Reader = Annotated[Caller, Depends(require(Role.READER))]

_Offset = Annotated[int, Query(ge=0, lt=2**63)]


class Extent(BaseModel):
    """A range of bytes."""

    offset_bytes: int
    length_bytes: int


class DiffAnswer(BaseModel):
    """Extents of `to` that differ from `from`, which are numbers of snapshots."""

    from_: int = Field(serialization_alias="from")
    to: int
    from_size_bytes: int
    to_size_bytes: int
    extents: list[Extent]
    next: int | None = Field(description="`start` of the next page; null on the last one")


def add_address_routes(app: FastAPI, readers: VolumeReaders, stores: Stores) -> None:
    """Add the endpoints to the application."""

    @app.get(
        "/v1/tenants/{tenant}/volumes/{name}/points/{point}/translate",
        tags=["addresses"],
        summary="Translate an offset down to the store, or a storage address up to the volume",
    )
    def translate_(  # noqa: PLR0913 -- parameters of the query
        tenant: str,
        name: str,
        point: str,
        _: Reader,
        offset: Annotated[_Offset | None, Query(description="Down: byte of the volume")] = None,
        generation: Annotated[UUID | None, Query(description="Up: the pack")] = None,
        frame: Annotated[int | None, Query(ge=0, lt=FRAME_COUNT_MAX)] = None,
        position: Annotated[int | None, Query(ge=0, lt=FRAME_PLAIN_SIZE_BYTES_MAX)] = None,
        first_chunk: Annotated[int, Query(ge=0, lt=2**48, description="Up: begin here")] = 0,
    ) -> Translation | Addresses:
        found = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, point))
        with readers.open(found) as volume:
            if offset is not None and generation is None:
                return translate(volume, offset)
            if offset is None and None not in (generation, frame, position):
                assert generation is not None
                address = (generation, frame or 0, position or 0)
                return find_addresses(readers, stores, volume, address, first_chunk)
        raise BadInputError("translate: expected offset, or generation, frame and position")

    @app.get(
        "/v1/tenants/{tenant}/volumes/{name}/diff",
        tags=["addresses"],
        summary="Extents that differ between two recovery points",
    )
    def diff(  # noqa: PLR0913 -- parameters of the query
        tenant: str,
        name: str,
        _: Reader,
        from_: Annotated[str, Query(alias="from", description="The older recovery point")],
        to: Annotated[str, Query(description="The newer one, whose extents are named")],
        start: Annotated[_Offset, Query(description="`next` of the previous page")] = 0,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 10_000,
    ) -> DiffAnswer:
        older = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, from_))
        newer = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, to))
        with readers.open(older), readers.open(newer) as volume:
            page = find_differences(volume, older, start, limit)
        return DiffAnswer(
            from_=older.sequence,
            to=newer.sequence,
            from_size_bytes=older.size_bytes,
            to_size_bytes=newer.size_bytes,
            extents=[Extent(offset_bytes=e.start, length_bytes=e.length) for e in page.extents],
            next=page.next_start_bytes,
        )
