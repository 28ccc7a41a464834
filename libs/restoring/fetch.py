"""Frames of a plan fetched from the store, verified chunk by chunk, and written to the target.

Which GETs a window makes is a pure function of it (`fetches_of`). A `Fetcher` does one of them at a
time in each of its caller's threads: fetch into a reused buffer, decrypt, expand, compare every
chunk with its id, write.
"""

import logging
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from libs.errors import (
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import FrameCipher
from libs.packs.layout import (
    CHUNK_ID_SIZE_BYTES,
    CHUNK_SIZE_BYTES,
    FRAME_OVERHEAD_SIZE_BYTES,
    PACK_SIZE_BYTES_MAX,
    PACK_TARGET_SIZE_BYTES,
    split_place,
)
from libs.packs.trailer import FrameEntry
from libs.ranges import ByteRange, ChunkRun
from libs.restoring.plan import PlannedFrame, PlannedPack, PlanWindow, no_plan

log = logging.getLogger(__name__)

#: One GET reads so much at most: a whole pack's frames. With 8 MiB MinIO took 0.9 CPU seconds for
#: 800 MB, with this 0.65; each of the restoring threads keeps a buffer of this size.
FETCH_SIZE_BYTES_MAX = PACK_TARGET_SIZE_BYTES
#: Unwanted bytes between two frames that one GET may read over; another GET costs about as much.
_GAP_SIZE_BYTES_MAX = 256 << 10

#: Index in the volume, offset in the plain frame, id.
WantedChunk = tuple[int, int, bytes]
#: Fills a buffer with a range of the object that a URL names.
GetInto = Callable[[str, ByteRange, memoryview], None]


class FetchTarget(Protocol):
    """What takes verified bytes. Thread-safe: every write names its offset."""

    def write(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Take buffers, each of a frame at most, one after another from ``offset`` on.

        The buffers stay the caller's. Each byte of the target is written once at most.

        Raises:
            OutOfSpaceError: there is no room.
            TargetError: it does not take them.
        """
        ...


@dataclass(frozen=True, slots=True)
class WantedFrame:
    """A frame to open, and the chunks wanted of it."""

    number: int
    entry: FrameEntry
    #: Ascending by index.
    chunks: list[WantedChunk]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Frames of one pack that are read by one GET, ascending."""

    pack: PlannedPack
    frames: Sequence[WantedFrame]

    @property
    def byte_range(self) -> ByteRange:
        """The bytes of the object to read."""
        return ByteRange(self.frames[0].entry.offset, self.frames[-1].entry.byte_range.end)


def chunks_to_fetch(fetch: Fetch) -> ChunkRun:
    """The part of the volume that the chunks of a fetch lie in."""
    indexes = [index for frame in fetch.frames for index, _, _ in frame.chunks]
    return ChunkRun(min(indexes), max(indexes) + 1 - min(indexes))


def renewed(fetch: Fetch, window: PlanWindow) -> Fetch:
    """The same fetch by the URLs of a newer window, in which its pack is still pinned.

    Raises:
        ForbiddenError: the window reads the chunks from other packs.
    """
    for pack in window.packs:
        if pack.generation == fetch.pack.generation:
            return replace(fetch, pack=pack)
    raise ForbiddenError(
        f"pack {fetch.pack.generation}: the plan's reads have expired, and a new plan reads other "
        f"packs: start the restore again"
    )


def fetches_of(window: PlanWindow, runs: Sequence[ChunkRun]) -> list[Fetch]:
    """The GETs that bring a window, in the order of the volume, as far as there is one.

    Args:
        window: of a plan.
        runs: what `libs.restoring.plan.named_runs` read of it.

    Raises:
        DamagedDataError: its columns contradict each other or the formats.
    """
    count = sum(run.count for run in runs)
    sizes = (len(window.ids), len(window.pack_ordinals), len(window.places))
    if sizes != (CHUNK_ID_SIZE_BYTES * count, 2 * count, 4 * count):
        raise no_plan(f"columns of {sizes} bytes for {count} chunks")
    indexes = (index for run in runs for index in range(run.first, run.end))
    ordinals = struct.unpack(f"<{count}H", window.pack_ordinals)
    places = struct.unpack(f"<{count}I", window.places)
    if ordinals and max(ordinals) >= len(window.packs):
        raise no_plan(f"pack {max(ordinals)} of {len(window.packs)}")
    wanted: list[dict[int, list[WantedChunk]]] = [{} for _ in window.packs]
    at, ids = 0, window.ids
    for index, ordinal, place in zip(indexes, ordinals, places, strict=True):
        number, position = split_place(place)
        chunk = (index, position, ids[at : at + CHUNK_ID_SIZE_BYTES])
        wanted[ordinal].setdefault(number, []).append(chunk)
        at += CHUNK_ID_SIZE_BYTES
    fetches = [
        fetch
        for pack, frames in zip(window.packs, wanted, strict=True)
        for fetch in _joined(pack, _wanted_frames(pack, frames))
    ]
    fetches.sort(key=lambda fetch: fetch.frames[0].chunks[0][0])
    return fetches


class Fetcher:
    """Does fetches. Thread-safe; each thread keeps a buffer of FETCH_SIZE_BYTES_MAX.

    Args:
        label: what is restored, for messages.
        id_key: keys the ids of chunks in the volume's own domain.
        get_into: one GET; the errors of `libs.store.presigned.PresignedReader.get_into`.
        get_once: the same without retries, for packs of which there is another copy; ``get_into``
            if None.
        plan_again: gives a newer window for a run of chunks, when the reads of one have expired;
            None: then a restore ends.
    """

    def __init__(
        self,
        label: str,
        id_key: bytes,
        get_into: GetInto,
        get_once: GetInto | None = None,
        plan_again: Callable[[ChunkRun], PlanWindow] | None = None,
    ) -> None:
        self._label = label
        self._hasher = ChunkHasher(id_key)
        self._get_into = get_into
        self._get_once = get_once or get_into
        self._plan_again = plan_again
        #: Hosts that did not answer; other copies are read first.
        self._avoided: set[str] = set()
        self._buffers = threading.local()

    def fetch(self, fetch: Fetch, target: FetchTarget) -> None:
        """Fetch, verify, write; from another copy if one does not answer or is not intact.

        Reads that have expired are planned again once. The store refuses before anything is
        written, and the pack is pinned as long as the restore goes on.

        Raises:
            DamagedDataError: bytes are not what they must be; nothing of their frame is written.
            ForbiddenError: the plan's reads have expired.
            UnavailableError: the store does not answer.
            TargetError: the target does not take the bytes.
            OutOfSpaceError: the target is full.
        """
        try:
            self._fetch_planned(fetch, target)
        except ForbiddenError:
            if self._plan_again is None:
                raise
            self._fetch_planned(renewed(fetch, self._plan_again(chunks_to_fetch(fetch))), target)

    def _fetch_planned(self, fetch: Fetch, target: FetchTarget) -> None:
        urls = [fetch.pack.url, *fetch.pack.other_urls]
        urls.sort(key=lambda url: urlsplit(url).netloc in self._avoided)
        for url in urls[:-1]:
            try:
                self._fetch_from(url, self._get_once, fetch, target)
            except OutOfSpaceError:  # it is the target's: no other copy makes room there
                raise
            except (UnavailableError, DamagedDataError, NotFoundError) as err:
                if isinstance(err, UnavailableError):
                    self._avoided.add(urlsplit(url).netloc)
                log.warning("another copy is read", extra={"detail": str(err)})
            else:
                return
        self._fetch_from(urls[-1], self._get_into, fetch, target)

    def _fetch_from(self, url: str, get: GetInto, fetch: Fetch, target: FetchTarget) -> None:
        wanted = fetch.byte_range
        sealed = self._buffer()[: wanted.length]
        self._get(url, get, wanted, sealed)
        cipher = FrameCipher(UUID(fetch.pack.generation), fetch.pack.key)
        for frame in fetch.frames:
            start = frame.entry.offset - wanted.start
            stored = sealed[start : start + frame.entry.stored_size_bytes]
            try:
                plain = cipher.open(frame.number, stored, frame.entry.plain_size_bytes)
            except DamagedDataError as err:
                raise DamagedDataError(f"{self._where(frame.chunks[0])}: {err}") from err
            self._write(fetch.pack, frame, memoryview(plain), target)

    def _get(self, url: str, get: GetInto, wanted: ByteRange, buffer: memoryview) -> None:
        try:
            get(url, wanted, buffer)
        except ForbiddenError as err:
            raise ForbiddenError(
                f"{err}; the plan's reads have expired (is the restore slow, or a clock wrong?): "
                f"start it again"
            ) from err
        except UnavailableError as err:
            raise UnavailableError(
                f"{err}; packs are read straight from the store, which must be reachable from here"
            ) from err

    def _write(
        self, pack: PlannedPack, frame: WantedFrame, plain: memoryview, target: FetchTarget
    ) -> None:
        """Verify a frame's chunks and write neighbours together."""
        hasher = ChunkHasher(pack.id_key) if pack.id_key else self._hasher
        for chunk in frame.chunks:
            _, position, id_ = chunk
            if hasher.chunk_id(plain[position : position + CHUNK_SIZE_BYTES]) != id_:
                raise DamagedDataError(
                    f"{self._where(chunk)}: frame {frame.number} of pack {pack.generation} holds "
                    f"other bytes than those of chunk {id_.hex()}"
                )
        for first, positions in _neighbours(frame.chunks):
            target.write(
                first * CHUNK_SIZE_BYTES, [plain[start:end] for start, end in _spans(positions)]
            )

    def _buffer(self) -> memoryview:
        """This thread's buffer: fresh memory for each GET would cost a third more CPU."""
        if not hasattr(self._buffers, "fetch"):
            self._buffers.fetch = memoryview(bytearray(FETCH_SIZE_BYTES_MAX))
        view: memoryview = self._buffers.fetch
        return view

    def _where(self, chunk: WantedChunk) -> str:
        return f"volume {self._label} at byte {chunk[0] * CHUNK_SIZE_BYTES}"


def _wanted_frames(pack: PlannedPack, wanted: Mapping[int, list[WantedChunk]]) -> list[WantedFrame]:
    planned = {frame.number: frame for frame in pack.frames}
    if missing := wanted.keys() - planned.keys():
        raise no_plan(f"{pack} without its frame {min(missing)}")
    frames = [
        WantedFrame(number, _entry(planned[number], chunks), chunks)
        for number, chunks in sorted(wanted.items())
    ]
    for before, frame in pairwise(frames):
        if frame.entry.offset < before.entry.byte_range.end:
            raise no_plan(f"frames {before.number} and {frame.number} of {pack} overlap")
    return frames


def _entry(frame: PlannedFrame, chunks: Sequence[WantedChunk]) -> FrameEntry:
    if (
        frame.stored_size_bytes - FRAME_OVERHEAD_SIZE_BYTES > frame.plain_size_bytes
        or frame.offset_bytes > PACK_SIZE_BYTES_MAX - frame.stored_size_bytes
        or max(position for _, position, _ in chunks) + CHUNK_SIZE_BYTES > frame.plain_size_bytes
    ):
        raise no_plan(f"{frame} is out of bounds")
    return FrameEntry(frame.offset_bytes, frame.stored_size_bytes, frame.plain_size_bytes)


def _joined(pack: PlannedPack, frames: Sequence[WantedFrame]) -> Iterator[Fetch]:
    """Join frames into GETs: all of the pack if more than half is wanted, else close neighbours."""
    wanted_bytes = sum(frame.entry.stored_size_bytes for frame in frames)
    gap_max = PACK_SIZE_BYTES_MAX if 2 * wanted_bytes > pack.size_bytes else _GAP_SIZE_BYTES_MAX
    joined: list[WantedFrame] = []
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


def _neighbours(chunks: Sequence[WantedChunk]) -> Iterator[tuple[int, list[int]]]:
    """Chunks that follow each other in the volume: index of the first, and their positions."""
    first, positions = chunks[0][0], [chunks[0][1]]
    for index, position, _ in chunks[1:]:
        if index != first + len(positions):
            yield first, positions
            first, positions = index, []
        positions.append(position)
    yield first, positions


def _spans(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Chunks at these positions of a plain frame, joined where one follows the other."""
    start = end = positions[0]
    for position in positions:
        if position != end:
            yield start, end
            start = position
        end = position + CHUNK_SIZE_BYTES
    yield start, end
