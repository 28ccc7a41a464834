"""Whole restores: plans windows with the restore service, has them fetched, tells how it goes.

The plan comes in windows; while one is restored the next is planned. Each of a few threads takes
one GET's worth of frames at a time (`libs.restoring.fetch`). Most of what it writes bypasses the
page cache (docs/adr/0008). A file is not forced to the medium, as with other tools: who needs that
runs `sync`; a block device is, because it is likely to be used at once.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from libs.errors import BackcastError, UnavailableError
from libs.ids import uuid7
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.ranges import ByteRange, ChunkRun
from libs.rest.client import RestClient
from libs.restoring.fetch import Fetch, Fetcher, fetches_of
from libs.restoring.plan import PlanWindow, decode_start, decode_window, named_runs
from libs.restoring.target import RestoreTarget, check_target, open_target
from libs.runtime.libc import keep_freed_memory
from libs.runtime.retries import retried
from libs.store.presigned import PresignedReader

T = TypeVar("T")

log = logging.getLogger(__name__)

#: One more than the cores of a small machine: while one waits for the store, two work.
_THREAD_COUNT = 3
#: The first window is small so that work begins at once; each is twice as large as the one before.
_WINDOW_CHUNK_COUNT_FIRST = 2048
_WINDOW_CHUNK_COUNT_MAX = 16_384
#: Windows planned while one is restored: one alone may be all zeros.
_WINDOWS_AHEAD = 3
#: The service is told this often; it waits for minutes.
_RENEW_SECONDS = 5.0
#: The service and the store are tried again for so long.
RETRY_SECONDS_MAX = 60.0

#: Told the bytes of the volume that are done, and all of them.
Progressed = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RestoreFigures:
    """What a restore did; every chunk was compared with its id, or there are no figures."""

    bytes: int
    fetched_bytes: int
    seconds: float
    verified: bool


def restore(  # noqa: PLR0913 -- what, whereto, how
    client: RestClient,
    tenant: str,
    point: RecoveryPoint,
    out: Path,
    *,
    force: bool,
    progressed: Progressed,
    retry_seconds_max: float = RETRY_SECONDS_MAX,
) -> RestoreFigures:
    """Restore a volume to a file or block device.

    Args:
        client: of the restore service.
        tenant: name of the tenant.
        point: of a volume, or of a group of a single one.
        out: file to make, or block device.
        force: overwrite what ``out`` holds; a file is replaced by a new one at the end.
        progressed: called now and then, from any thread.
        retry_seconds_max: the service and the store are tried again for so long.

    Raises:
        ConflictError: ``out`` exists and ``force`` is not given.
        NotFoundError: no such recovery point, or the restore was not heard of for too long.
        DamagedDataError: stored bytes are not what they must be; an unfinished file is removed.
        OutOfSpaceError: the disk is full; an unfinished file is removed.
        ForbiddenError: no right to restore, or the plan's reads have expired.
        UnavailableError: the service or the store does not answer.
    """
    begun = time.perf_counter()
    check_target(out, force=force)
    keep_freed_memory()
    work = _Restore(client, tenant, point, progressed, retry_seconds_max)
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
        self,
        client: RestClient,
        tenant: str,
        point: RecoveryPoint,
        progressed: Progressed,
        retry_seconds_max: float,
    ) -> None:
        self.fetched_bytes = 0
        self._client = client
        self._progressed = progressed
        self._retry_seconds_max = retry_seconds_max
        restore, of_tenant = uuid7(), f"/v1/tenants/{quote(tenant)}"
        begin = partial(
            client.post_raw, f"{of_tenant}{point.path}/restores", {"restore": str(restore)}
        )
        self._plan = self._answered(lambda: decode_start(begin()))
        self._path = f"{of_tenant}/restores/{restore}"
        self.size_bytes = self._plan.point.size_bytes
        self._restored_chunks = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._store = PresignedReader()
        self._fetcher = Fetcher(
            self._plan.point.label, self._plan.id_key, self._get_into, self._store.get_into
        )

    def run(self, target: RestoreTarget) -> None:
        """Restore every window; nothing is written any more when this returns or raises."""
        under_way: deque[list[Future[None]]] = deque()
        with ThreadPoolExecutor(_THREAD_COUNT, "restore") as threads:
            try:
                for window in self._windows():
                    runs = named_runs(window)
                    fetches = fetches_of(window, runs)
                    self._prepare(window.chunks, runs, target)
                    under_way.append(
                        [threads.submit(self._fetch, fetch, target) for fetch in fetches]
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

    def _windows(self) -> Iterator[PlanWindow]:
        at, count = 0, _WINDOW_CHUNK_COUNT_FIRST
        while at < self._plan.chunk_count:
            count_max = min(count, self._plan.window_chunk_count_max)
            window = self._answered(partial(self._window, at, count_max))
            yield window
            at, count = window.chunks.end, min(2 * count, _WINDOW_CHUNK_COUNT_MAX)

    def _window(self, first_chunk: int, chunk_count: int) -> PlanWindow:
        query = {"first_chunk": first_chunk, "chunk_count": chunk_count}
        return decode_window(self._client.get_raw(f"{self._path}/plan", query), first_chunk)

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
        self._progressed(min(restored, self.size_bytes), self.size_bytes)

    def _prepare(self, chunks: ChunkRun, runs: Sequence[ChunkRun], target: RestoreTarget) -> None:
        """Make room for what will be written, and account for what is zero."""
        at = chunks.first
        for run in runs:
            self._zero(at, run.first, target)
            target.reserve(_bytes_of(run.first, run.end))
            at = run.end
        self._zero(at, chunks.end, target)

    def _zero(self, first: int, end: int, target: RestoreTarget) -> None:
        if first < end:
            target.zero(_bytes_of(first, end))
            self._done(end - first, 0)

    def _fetch(self, fetch: Fetch, target: RestoreTarget) -> None:
        if self._stopped.is_set():
            return
        self._fetcher.fetch(fetch, target)
        self._done(sum(len(frame.chunks) for frame in fetch.frames), fetch.byte_range.length)

    def _get_into(self, url: str, wanted: ByteRange, buffer: memoryview) -> None:
        self._answered(lambda: self._store.get_into(url, wanted, buffer))

    def _answered(self, call: Callable[[], T]) -> T:
        return retried(call, self._retry_seconds_max)


def _bytes_of(first: int, end: int) -> ByteRange:
    return ByteRange(first * CHUNK_SIZE_BYTES, end * CHUNK_SIZE_BYTES)
