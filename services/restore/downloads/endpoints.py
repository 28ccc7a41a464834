"""Endpoint of bytes: a whole volume or a range of it at a recovery point, streamed."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from http import HTTPStatus
from itertools import chain
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from libs.catalogdb.snapshots.points import SnapshotVolume, find_volume_at
from libs.points import RecoveryPoint
from libs.ranges import ByteRange
from libs.reading.volume import VolumeReader, VolumeReaders
from libs.rest.auth import Caller, Role, require
from services.restore.downloads.byte_ranges import NotSatisfiable, is_known, parse_range
from services.restore.downloads.streaming import (
    PIECE_SIZE_BYTES,
    ClosingStream,
    DownloadSlots,
    read_pieces,
)

DataReader = Annotated[Caller, Depends(require(Role.RESTORE))]

IfNoneMatch = Annotated[
    str | None, Header(description="ETags of what the client has; one that fits is answered 304")
]

_PATH = "/v1/tenants/{tenant}/volumes/{name}/points/{point}/bytes"
_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"description": "The whole volume", "content": {"application/octet-stream": {}}},
    206: {"description": "The range", "content": {"application/octet-stream": {}}},
    304: {"description": "The client has it: `If-None-Match` names it"},
    416: {"description": "The range cannot be given"},
}


def add_byte_routes(app: FastAPI, readers: VolumeReaders, threads: Executor) -> None:
    """Add the endpoints to the application."""
    slots = DownloadSlots()

    @app.head(
        _PATH,
        tags=["data"],
        summary="Size and identity of a volume's bytes",
        response_class=Response,
        responses={200: _RESPONSES[200], 304: _RESPONSES[304]},
    )
    def head(
        tenant: str, name: str, point: str, _: DataReader, if_none_match: IfNoneMatch = None
    ) -> Response:
        found = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, point))
        if is_known(if_none_match, _etag(found)):
            return _not_modified(found)
        headers = _headers(found) | {"Content-Length": str(found.size_bytes)}
        return Response(headers=headers, media_type="application/octet-stream")

    @app.get(
        _PATH,
        tags=["data"],
        summary="Bytes of a volume: all of them, or one range",
        response_class=Response,
        responses=_RESPONSES,
    )
    def get(  # noqa: PLR0913 -- path and headers
        tenant: str,
        name: str,
        point: str,
        caller: DataReader,
        range_: Annotated[str | None, Header(alias="Range")] = None,
        if_range: Annotated[str | None, Header()] = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        with ExitStack() as stack:
            # First: whoever asks for too many costs no look-up.
            stack.enter_context(slots.taken(tenant, caller.name))
            found = find_volume_at(readers.catalog, tenant, RecoveryPoint(name, point))
            if is_known(if_none_match, _etag(found)):
                return _not_modified(found)
            headers = _headers(found)
            applies = if_range is None or if_range == headers["ETag"]
            wanted = _wanted(range_ if applies else None, found)
            status = HTTPStatus.OK
            if wanted is not None:
                status = HTTPStatus.PARTIAL_CONTENT
                last = wanted.end - 1
                headers["Content-Range"] = f"bytes {wanted.start}-{last}/{found.size_bytes}"
            wanted = wanted or ByteRange(0, found.size_bytes)
            volume = stack.enter_context(readers.open(found))
            pieces = read_pieces(volume, wanted, threads)
            # It has been read and verified before anything is answered.
            first = next(pieces, b"")
            if wanted.length <= PIECE_SIZE_BYTES:
                headers |= _costs(volume)
            headers["Content-Length"] = str(wanted.length)
            body: Iterator[bytes] = chain([first], pieces)
            return ClosingStream(body, status, headers, stack.pop_all().close)


def _wanted(header: str | None, point: SnapshotVolume) -> ByteRange | None:
    """The range that a header asks for; None: all."""
    wanted = parse_range(header, point.size_bytes)
    if isinstance(wanted, NotSatisfiable):
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            wanted.reason,
            {"Content-Range": f"bytes */{point.size_bytes}"},
        )
    return wanted


def _etag(point: SnapshotVolume) -> str:
    return f'"{point.session}-{point.volume}"'


def _not_modified(point: SnapshotVolume) -> Response:
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=_headers(point))


def _headers(point: SnapshotVolume) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        # A recovery point never changes, so a download may be continued whatever `latest` is then.
        "ETag": _etag(point),
        "Backcast-Snapshot": str(point.session),
        "Backcast-Sequence": str(point.sequence),
    }


def _costs(volume: VolumeReader) -> dict[str, str]:
    return {
        "Backcast-Fetched-Frames": str(volume.tally.frames),
        "Backcast-Fetched-Bytes": str(volume.tally.stored_bytes),
    }
