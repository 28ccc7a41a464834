"""The plan of a whole restore: what whoever restores needs to read packs from the store by itself.

One definition for both sides. The restore service makes these documents and encodes them; the
command, or whoever else restores, decodes them, and nothing of them is believed: types and bounds
are checked while decoding, before anything is allocated for what a document claims.

A plan comes in windows of chunks. A window names the packs that hold its chunks, each with a
presigned URL and the key of that one pack, and says of every chunk that is not zero where in which
pack it lies. On the wire they are JSON with columns in base64.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from libs.errors import BadInputError, DamagedDataError, UnavailableError
from libs.packs.layout import (
    CHUNK_ID_SIZE_BYTES,
    FRAME_COUNT_MAX,
    FRAME_OVERHEAD_SIZE_BYTES,
    FRAME_PLAIN_SIZE_BYTES_MAX,
    KEY_SIZE_BYTES,
    PACK_SIZE_BYTES_MAX,
)
from libs.ranges import RUN_SIZE_BYTES, ChunkRun, pack_runs, unpack_runs

#: Chunks of one window: 2 GiB of volume. Pack ordinals are 16 bits wide.
WINDOW_CHUNK_COUNT_MAX = 32_768

#: More stores than anybody has.
_COPIES_MAX = 16

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Key = Meta(min_length=KEY_SIZE_BYTES, max_length=KEY_SIZE_BYTES)


class PlannedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What is restored: one volume at one recovery point."""

    volume: str
    sequence: Annotated[int, Meta(ge=1, description="Number of the snapshot in its group")]
    session: Annotated[UUID, Meta(description="Id of the snapshot")]
    sealed_at: Annotated[datetime, Meta(tz=True)]
    size_bytes: _Count

    @property
    def label(self) -> str:
        """How a person names it: ``volume@sequence``."""
        return f"{self.volume}@{self.sequence}"


class PlanStart(msgspec.Struct, frozen=True, kw_only=True):
    """A restore, pinned until its deadline; progress and windows renew it."""

    restore: UUID
    point: PlannedPoint
    chunk_size_bytes: _Count
    chunk_count: _Count
    window_chunk_count_max: Annotated[
        int, Meta(ge=1, description="Largest window that may be asked for")
    ]
    deadline_seconds: float
    id_key: Annotated[
        bytes,
        _Key,
        Meta(
            description="Keys the BLAKE3 ids by which chunks are verified, but those of packs that "
            "have a key of their own. It is the domain's: whoever has it can tell whether some "
            "content is stored, and can read nothing"
        ),
    ]


class PlannedFrame(msgspec.Struct, frozen=True, array_like=True):
    """Where a needed frame lies: number, offset in the object, stored bytes, plain bytes."""

    number: Annotated[int, Meta(ge=0, lt=FRAME_COUNT_MAX)]
    offset_bytes: Annotated[int, Meta(ge=0, le=PACK_SIZE_BYTES_MAX)]
    stored_size_bytes: Annotated[
        int,
        Meta(
            gt=FRAME_OVERHEAD_SIZE_BYTES, le=FRAME_PLAIN_SIZE_BYTES_MAX + FRAME_OVERHEAD_SIZE_BYTES
        ),
    ]
    plain_size_bytes: Annotated[int, Meta(ge=1, le=FRAME_PLAIN_SIZE_BYTES_MAX)]


class PlannedPack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack of a window: where its object is, what opens it, and the frames that are needed."""

    generation: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    url: Annotated[str, Meta(description="Presigned GET; a secret until it expires")]
    other_urls: Annotated[
        list[str],
        Meta(
            max_length=_COPIES_MAX,
            description="The same of its other copies, to be tried when that one does not answer "
            "or gives other bytes",
        ),
    ] = []
    size_bytes: Annotated[int, Meta(ge=0, le=PACK_SIZE_BYTES_MAX)]
    key: Annotated[bytes, _Key, Meta(description="Opens this pack and no other")]
    id_key: (
        Annotated[
            bytes,
            _Key,
            Meta(
                description="Keys the ids of its chunks, if the pack is of another domain than the "
                "volume's own"
            ),
        ]
        | None
    ) = None
    frames: Annotated[list[PlannedFrame], Meta(max_length=FRAME_COUNT_MAX)]

    def __repr__(self) -> str:
        return f"PlannedPack({self.generation})"  # the rest is secret, or long


class PlanWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window of a plan. Columns are base64; chunks that are not named are zero."""

    first_chunk: Annotated[int, Meta(ge=0, lt=2**48)]
    chunk_count: Annotated[int, Meta(ge=1, le=WINDOW_CHUNK_COUNT_MAX)]
    packs: Annotated[list[PlannedPack], Meta(max_length=WINDOW_CHUNK_COUNT_MAX)]
    runs: Annotated[
        bytes,
        Meta(
            max_length=RUN_SIZE_BYTES * WINDOW_CHUNK_COUNT_MAX,
            description="Runs of chunk indexes, ascending: first (u64), count (u32), little-endian",
        ),
    ]
    ids: Annotated[
        bytes,
        Meta(
            max_length=CHUNK_ID_SIZE_BYTES * WINDOW_CHUNK_COUNT_MAX,
            description="Chunk ids in the order of the runs, 32 bytes each",
        ),
    ]
    pack_ordinals: Annotated[
        bytes,
        Meta(
            max_length=2 * WINDOW_CHUNK_COUNT_MAX,
            description="Positions in `packs`, u16 little-endian each",
        ),
    ]
    places: Annotated[
        bytes,
        Meta(
            max_length=4 * WINDOW_CHUNK_COUNT_MAX,
            description="frame << 20 | offset in the plain frame, u32 little-endian",
        ),
    ]
    next_chunk: (
        Annotated[
            int,
            Meta(
                ge=0,
                lt=2**48,
                description="First chunk after the window that is not zero, or the volume's number "
                "of chunks: the next window that is worth asking for. Null: nobody looked",
            ),
        ]
        | None
    ) = None

    @property
    def chunks(self) -> ChunkRun:
        """What the window is of."""
        return ChunkRun(self.first_chunk, self.chunk_count)


PlanDocument = TypeVar("PlanDocument", PlanStart, PlanWindow)

_ENCODER = msgspec.json.Encoder()


def encode(document: PlanStart | PlanWindow) -> bytes:
    """A document as it is sent."""
    return _ENCODER.encode(document)


def decode_start(body: bytes) -> PlanStart:
    """Read the answer to the request that began a restore; errors as `decode_window`."""
    return _decode(body, PlanStart)


def decode_window(body: bytes, first_chunk: int, chunk_count: int) -> PlanWindow:
    """Read the answer to a request for the window that begins at ``first_chunk``.

    Args:
        body: the answer.
        first_chunk: that was asked for.
        chunk_count: chunks of the volume.

    Raises:
        DamagedDataError: it is another window, or exceeds a limit of the formats. Whether its
            columns contradict each other is found by `libs.restoring.fetch.fetches_of`.
        UnavailableError: it is no JSON: something else than the service answers.
    """
    window = _decode(body, PlanWindow)
    if window.first_chunk != first_chunk:
        raise no_plan(f"chunks from {window.first_chunk} on, asked for those from {first_chunk} on")
    if not window.chunks.end <= following_chunk(window) <= chunk_count:
        raise no_plan(
            f"chunks up to {window.chunks.end}, then {following_chunk(window)}, of {chunk_count}"
        )
    return window


def following_chunk(window: PlanWindow) -> int:
    """Where the next window begins; what lies between is zeros."""
    return window.chunks.end if window.next_chunk is None else window.next_chunk


def pieces_of(
    window: PlanWindow, runs: Sequence[ChunkRun], chunk_count_max: int
) -> Iterator[tuple[PlanWindow, list[ChunkRun]]]:
    """A window in smaller ones, each with the chunks of it that are not zero.

    Args:
        window: of a plan.
        runs: what `named_runs` read of it.
        chunk_count_max: chunks of a piece at most.
    """
    done, left = 0, deque(runs)
    for first in range(window.chunks.first, window.chunks.end, chunk_count_max):
        end = min(first + chunk_count_max, window.chunks.end)
        mine = list[ChunkRun]()
        while left and left[0].first < end:
            run = left.popleft()
            if run.end > end:
                left.appendleft(ChunkRun(end, run.end - end))
                run = ChunkRun(run.first, end - run.first)
            mine.append(run)
        upto = done + sum(run.count for run in mine)
        yield (
            PlanWindow(
                first_chunk=first,
                chunk_count=end - first,
                packs=window.packs,
                runs=pack_runs(mine),
                ids=window.ids[done * CHUNK_ID_SIZE_BYTES : upto * CHUNK_ID_SIZE_BYTES],
                pack_ordinals=window.pack_ordinals[2 * done : 2 * upto],
                places=window.places[4 * done : 4 * upto],
            ),
            mine,
        )
        done = upto


def named_runs(window: PlanWindow) -> list[ChunkRun]:
    """The chunks that are not zero; ascending.

    Raises:
        DamagedDataError: they do not ascend, or lie outside of the window.
    """
    try:
        runs = unpack_runs(window.runs, window.chunks.end)
    except BadInputError as err:
        raise no_plan(str(err)) from err
    if runs and runs[0].first < window.first_chunk:
        raise no_plan(f"{runs[0]} lies before chunk {window.first_chunk}")
    return runs


def no_plan(why: str) -> DamagedDataError:
    """The error of a document that is none of a plan."""
    return DamagedDataError(
        f"restore plan: the service's answer is no window of a plan ({why}); is the service of "
        f"another version?"
    )


def _decode(body: bytes, kind: type[PlanDocument]) -> PlanDocument:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError) as err:
        raise no_plan(str(err)) from err
    except msgspec.DecodeError as err:
        raise UnavailableError(f"restore plan: answered without JSON ({err})") from err
