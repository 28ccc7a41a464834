"""A window of a restore's plan, as the service sends it: what to fetch, and what is in it."""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

from libs.errors import BadInputError, DamagedDataError
from libs.packs.layout import (
    CHUNK_ID_SIZE_BYTES,
    CHUNK_SIZE_BYTES,
    FRAME_OVERHEAD_SIZE_BYTES,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    PACK_SIZE_BYTES_MAX,
    PACK_TARGET_SIZE_BYTES,
    split_place,
)
from libs.packs.trailer import FrameEntry
from libs.ranges import ByteRange, ChunkRun, unpack_runs

#: One GET reads so much at most: a whole pack's frames. With 8 MiB MinIO took 0.9 CPU seconds for
#: 800 MB, with this 0.65; each of the restoring threads keeps a buffer of this size.
FETCH_SIZE_BYTES_MAX = PACK_TARGET_SIZE_BYTES
#: Unwanted bytes between two frames that one GET may read over; another GET costs about as much.
_GAP_SIZE_BYTES_MAX = 256 << 10

#: What reading a document raises that is no window: a number may be infinite, text a list.
_CONTRADICTIONS = (
    BadInputError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
)

#: Index in the volume, offset in the plain frame, id.
PlannedChunk = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """A pack to read from, and the key that opens it alone."""

    generation: UUID
    #: A presigned read: a secret.
    url: str = field(repr=False)
    size_bytes: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PlannedFrame:
    """A frame to open, and the chunks wanted of it."""

    number: int
    entry: FrameEntry
    #: Ascending by index.
    chunks: list[PlannedChunk]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Frames of one pack that are read by one GET, ascending."""

    pack: PlannedPack
    frames: Sequence[PlannedFrame]

    @property
    def byte_range(self) -> ByteRange:
        """The bytes of the object to read."""
        return ByteRange(self.frames[0].entry.offset, self.frames[-1].entry.byte_range.end)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a volume to restore."""

    chunks: ChunkRun
    #: Chunks that are not zero; ascending.
    runs: list[ChunkRun]
    #: In the order of the volume, as far as there is one.
    fetches: list[Fetch]


def parse_window(document: Mapping[str, Any], first_chunk: int) -> Window:
    """Read the answer to a request for the window that begins at ``first_chunk``.

    Raises:
        DamagedDataError: it contradicts itself, is another window, or exceeds a limit of the
            formats.
    """
    try:
        return _parse(document, first_chunk)
    except _CONTRADICTIONS as err:
        raise DamagedDataError(
            f"restore plan: the service's answer is no window of a plan "
            f"({type(err).__name__}: {err}); is the service of another version?"
        ) from err


def _parse(document: Mapping[str, Any], first_chunk: int) -> Window:
    first, count = int(document["first_chunk"]), int(document["chunk_count"])
    if first != first_chunk or count < 1:
        raise ValueError(f"{count} chunks from {first} on, asked for those from {first_chunk} on")
    runs = unpack_runs(_column(document["runs"]), first + count)
    ids = _column(document["ids"])
    named = sum(run.count for run in runs)  # twelve bytes can name four thousand million
    if len(ids) != named * CHUNK_ID_SIZE_BYTES or (runs and runs[0].first < first):
        raise ValueError(f"{len(ids)} bytes of ids for {named} chunks from {first} on")
    indexes = [index for run in runs for index in range(run.first, run.end)]
    ordinals = struct.unpack(f"<{len(indexes)}H", _column(document["pack_ordinals"]))
    places = struct.unpack(f"<{len(indexes)}I", _column(document["places"]))
    wanted: list[dict[int, list[PlannedChunk]]] = [{} for _ in document["packs"]]
    for n, (index, ordinal, place) in enumerate(zip(indexes, ordinals, places, strict=True)):
        number, position = split_place(place)
        chunk = (index, position, ids[n * CHUNK_ID_SIZE_BYTES : (n + 1) * CHUNK_ID_SIZE_BYTES])
        wanted[ordinal].setdefault(number, []).append(chunk)
    fetches = [
        fetch
        for pack, frames in zip(document["packs"], wanted, strict=True)
        for fetch in _fetches_of(_pack(pack), _frames(pack["frames"], frames))
    ]
    fetches.sort(key=lambda fetch: fetch.frames[0].chunks[0][0])
    return Window(ChunkRun(first, count), runs, fetches)


def _pack(document: Mapping[str, Any]) -> PlannedPack:
    return PlannedPack(
        generation=UUID(document["generation"]),
        url=str(document["url"]),
        size_bytes=int(document["size_bytes"]),
        key=_column(document["key"]),
    )


def _frames(
    table: Sequence[Sequence[int]], wanted: Mapping[int, list[PlannedChunk]]
) -> list[PlannedFrame]:
    entries = {number: FrameEntry(*entry) for number, *entry in table}
    frames = [
        PlannedFrame(number, _checked(entries[number], chunks), chunks)
        for number, chunks in sorted(wanted.items())
    ]
    for before, frame in pairwise(frames):
        if frame.entry.offset < before.entry.byte_range.end:
            raise ValueError(f"frames {before.number} and {frame.number} overlap")
    return frames


def _checked(entry: FrameEntry, chunks: Sequence[PlannedChunk]) -> FrameEntry:
    body = entry.stored_size_bytes - FRAME_OVERHEAD_SIZE_BYTES
    if (
        not 0 < body <= entry.plain_size_bytes <= FRAME_PLAIN_SIZE_BYTES_MAX
        or not 0 <= entry.offset <= PACK_SIZE_BYTES_MAX - entry.stored_size_bytes
        or max(position for _, position, _ in chunks) + CHUNK_SIZE_BYTES > entry.plain_size_bytes
    ):
        raise ValueError(f"{entry} is out of bounds")
    return entry


def _fetches_of(pack: PlannedPack, frames: Sequence[PlannedFrame]) -> Iterator[Fetch]:
    """Join frames into GETs: all of the pack if more than half is wanted, else close neighbours."""
    wanted_bytes = sum(frame.entry.stored_size_bytes for frame in frames)
    gap_max = PACK_SIZE_BYTES_MAX if 2 * wanted_bytes > pack.size_bytes else _GAP_SIZE_BYTES_MAX
    joined: list[PlannedFrame] = []
    for frame in frames:
        if joined and (
            frame.entry.offset - joined[-1].entry.byte_range.end > gap_max
            or frame.entry.byte_range.end - joined[0].entry.offset > FETCH_SIZE_BYTES_MAX
        ):
            yield Fetch(pack, joined)
            joined = []
        joined.append(frame)
    if joined:
        yield Fetch(pack, joined)


def _column(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
