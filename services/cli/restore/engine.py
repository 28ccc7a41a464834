"""Whole restores: fetches frames straight from the store by the service's plan, verifies, writes.

The plan comes in windows; while one is restored the next is planned. Each of a few threads takes
one GET's worth of frames at a time: fetch into a reused buffer, decrypt, expand, compare every
chunk with its id, write. Most of it bypasses the page cache (docs/adr/0008). A file is not forced
to the medium, as with other tools: who needs that runs `sync`; a block device is, because it is
likely to be used at once.
"""

import base64
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from libs.errors import BackcastError, DamagedDataError, ForbiddenError, UnavailableError
from libs.ids import uuid7
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import FrameCipher
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from libs.rest.client import RestClient
from libs.runtime.libc import keep_freed_memory
from libs.runtime.retries import retried
from libs.store.presigned import PresignedReader
from services.cli.restore.plan import (
    FETCH_SIZE_BYTES_MAX,
    Fetch,
    PlannedChunk,
    PlannedFrame,
    Window,
    parse_window,
)
from services.cli.restore.target import RestoreTarget, check_target, open_target

#: One more than the cores of a small machine: while one waits for the store, two work.
_THREAD_COUNT = 3
#: The first window is small so that work begins at once; each is twice as large as the one before.
_WINDOW_CHUNK_COUNT_FIRST = 2048
_WINDOW_CHUNK_COUNT_MAX = 16_384
#: Windows planned while one is restored: one alone may be all zeros.
_WINDOWS_AHEAD = 3
#: The service is told this often; it waits for minutes.
_RENEW_SECONDS = 5.0
_RETRY_SECONDS_MAX = 60.0

#: Told the bytes of the volume that are done, and all of them.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RestoreFigures:
    """What a restore did; every chunk was compared with its id, or there are no figures."""

    bytes: int
    fetched_bytes: int
    seconds: float
    verified: bool


def restore(  # noqa: PLR0913 -- what, of which moment, whereto, how
    client: RestClient,
    tenant: str,
    name: str,
    point: str,
    out: Path,
    force: bool,
    progress: Progress,
) -> RestoreFigures:
    """Restore a volume to a file or block device.

    Args:
        client: of the restore service.
        tenant: name of the tenant.
        name: volume, or group of a single one.
        point: latest, a number, an instant, or how long ago.
        out: file to make, or block device.
        force: overwrite what ``out`` holds.
        progress: called now and then, from any thread.

    Raises:
        ConflictError: ``out`` exists and ``force`` is not given.
        NotFoundError: no such recovery point, or the restore was not heard of for too long.
        DamagedDataError: stored bytes are not what they must be; a file that was made is removed.
        OutOfSpaceError: the disk is full; a file that was made is removed.
        ForbiddenError: no right to restore, or the plan's reads have expired.
        UnavailableError: the service or the store does not answer.
    """
    begun = time.perf_counter()
    check_target(out, force=force)
    keep_freed_memory()
    work = _Restore(client, tenant, name, point, progress)
    try:
        with open_target(out, work.size_bytes, force=force) as target:
            work.run(target)
            if target.is_device:
                target.sync()
    except BaseException as err:
        work.report_end(time.perf_counter() - begun, err)
        raise
    seconds = time.perf_counter() - begun
    work.report_end(seconds, None)
    return RestoreFigures(work.size_bytes, work.fetched_bytes, seconds, verified=True)


class _Restore:
    """One restore under way."""

    def __init__(
        self, client: RestClient, tenant: str, name: str, point: str, progress: Progress
    ) -> None:
        self.fetched_bytes = 0
        self._client = client
        restore = uuid7()
        volume = f"/v1/tenants/{quote(tenant)}/volumes/{quote(name)}/points/{quote(point, safe='')}"
        begin = {"restore": str(restore)}
        answer = _answered(lambda: client.post(f"{volume}/restores", begin))
        self._path = f"/v1/tenants/{quote(tenant)}/restores/{restore}"
        self.size_bytes = int(answer["point"]["size_bytes"])
        self._label = f"{answer['point']['volume']}@{answer['point']['sequence']}"
        self._chunk_count = int(answer["chunk_count"])
        self._window_chunk_count_max = int(answer["window_chunk_count_max"])
        self._hasher = ChunkHasher(base64.b64decode(answer["id_key"]))
        self._progress = progress
        self._restored_chunks = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._store = PresignedReader()
        self._buffers = threading.local()

    def run(self, target: RestoreTarget) -> None:
        """Restore every window; nothing is written any more when this returns or raises."""
        under_way: deque[list[Future[None]]] = deque()
        with ThreadPoolExecutor(_THREAD_COUNT, "restore") as threads:
            try:
                for window in self._windows():
                    self._prepare(window, target)
                    under_way.append(
                        [threads.submit(self._fetch, fetch, target) for fetch in window.fetches]
                    )
                    if len(under_way) > _WINDOWS_AHEAD:
                        self._await(under_way.popleft())
                while under_way:
                    self._await(under_way.popleft())
            except BaseException:
                self._stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                self._store.close()

    def report_end(self, seconds: float, err: BaseException | None) -> None:
        """Tell the service how it ended, if it listens: what was restored and verified, is."""
        failure = None
        if err is not None:
            code = err.code if isinstance(err, BackcastError) else "interrupted"
            failure = {"code": code, "message": (str(err) or type(err).__name__)[:2000]}
        end = self._totals() | {"seconds": seconds, "failure": failure}
        with contextlib.suppress(BackcastError):
            self._client.post(f"{self._path}/outcome", end)

    def _windows(self) -> Iterator[Window]:
        at, count = 0, _WINDOW_CHUNK_COUNT_FIRST
        while at < self._chunk_count:
            query = {"first_chunk": at, "chunk_count": min(count, self._window_chunk_count_max)}
            answer = _answered(partial(self._client.get, f"{self._path}/plan", query))
            window = parse_window(answer, at)
            yield window
            at, count = window.chunks.end, min(2 * count, _WINDOW_CHUNK_COUNT_MAX)

    def _await(self, futures: Sequence[Future[None]]) -> None:
        """Wait for one window, keeping the restore alive meanwhile."""
        left: set[Future[None]] = set(futures)
        while left:
            done, left = wait(left, _RENEW_SECONDS, FIRST_EXCEPTION)
            for future in done:
                future.result()
            if not done:
                self._renew()

    def _renew(self) -> None:
        try:
            self._client.post(f"{self._path}/progress", self._totals())
        except UnavailableError:
            return  # it waits for minutes, and planning the next window tries for longer

    def _totals(self) -> dict[str, Any]:
        with self._lock:
            restored = min(self._restored_chunks * CHUNK_SIZE_BYTES, self.size_bytes)
            return {"restored_bytes": restored, "fetched_bytes": self.fetched_bytes}

    def _done(self, chunk_count: int, fetched_bytes: int) -> None:
        with self._lock:
            self._restored_chunks += chunk_count
            self.fetched_bytes += fetched_bytes
            restored = self._restored_chunks * CHUNK_SIZE_BYTES
        self._progress(min(restored, self.size_bytes), self.size_bytes)

    def _prepare(self, window: Window, target: RestoreTarget) -> None:
        """Make room for what will be written, and account for what is zero."""
        at = window.chunks.first
        for run in window.runs:
            self._zero(at, run.first, target)
            target.reserve(_bytes_of(run.first, run.end))
            at = run.end
        self._zero(at, window.chunks.end, target)

    def _zero(self, first: int, end: int, target: RestoreTarget) -> None:
        if first < end:
            target.zero(_bytes_of(first, end))
            self._done(end - first, 0)

    def _fetch(self, fetch: Fetch, target: RestoreTarget) -> None:
        if self._stopped.is_set():
            return
        wanted = fetch.byte_range
        sealed = self._buffer()[: wanted.length]
        self._get(fetch, wanted, sealed)
        cipher = FrameCipher(fetch.pack.generation, fetch.pack.key)
        restored = 0
        for frame in fetch.frames:
            start = frame.entry.offset - wanted.start
            stored = sealed[start : start + frame.entry.stored_size_bytes]
            try:
                plain = cipher.open(frame.number, stored, frame.entry.plain_size_bytes)
            except DamagedDataError as err:
                raise DamagedDataError(f"{self._where(frame.chunks[0])}: {err}") from err
            self._write(fetch.pack.generation, frame, memoryview(plain), target)
            restored += len(frame.chunks)
        self._done(restored, wanted.length)

    def _get(self, fetch: Fetch, wanted: ByteRange, buffer: memoryview) -> None:
        try:
            _answered(lambda: self._store.get_into(fetch.pack.url, wanted, buffer))
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
        self, generation: UUID, frame: PlannedFrame, plain: memoryview, target: RestoreTarget
    ) -> None:
        """Verify a frame's chunks and write neighbours together."""
        for chunk in frame.chunks:
            _, position, id_ = chunk
            if self._hasher.chunk_id(plain[position : position + CHUNK_SIZE_BYTES]) != id_:
                raise DamagedDataError(
                    f"{self._where(chunk)}: frame {frame.number} of pack {generation.hex} holds "
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

    def _where(self, chunk: PlannedChunk) -> str:
        return f"volume {self._label} at byte {chunk[0] * CHUNK_SIZE_BYTES}"


def _bytes_of(first: int, end: int) -> ByteRange:
    return ByteRange(first * CHUNK_SIZE_BYTES, end * CHUNK_SIZE_BYTES)


def _neighbours(chunks: Sequence[PlannedChunk]) -> Iterator[tuple[int, list[int]]]:
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


def _answered(call: Callable[[], Any]) -> Any:
    return retried(call, _RETRY_SECONDS_MAX)
