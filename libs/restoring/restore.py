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
from urllib.parse import quote, urlsplit

from libs.errors import BackcastError, BadInputError, UnavailableError
from libs.ids import uuid7
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.ranges import ByteRange, ChunkRun
from libs.rest.client import RestClient
from libs.restoring.fetch import Fetch, Fetcher, FetchTarget, fetches_of
from libs.restoring.plan import (
    PlanWindow,
    decode_start,
    decode_window,
    following_chunk,
    named_runs,
    pieces_of,
)
from libs.restoring.ranges import PIECE_CHUNK_COUNT, Piece, RangeTarget, StreamOutput
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
#: Pieces of a stream that are fetched while one is written: with that one 128 MiB.
_PIECES_AHEAD = 3
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
    wanted: ByteRange | None = None,
    retry_seconds_max: float = RETRY_SECONDS_MAX,
) -> RestoreFigures:
    """Restore a volume, or a range of it, to a file or block device.

    Args:
        client: of the restore service.
        tenant: name of the tenant.
        point: of a volume, or of a group of a single one.
        out: file to make, or block device.
        force: overwrite what ``out`` holds; a file is replaced by a new one at the end.
        progressed: called now and then, from any thread.
        wanted: bytes of the volume, which become all of a file; None: the whole volume.
        retry_seconds_max: the service and the store are tried again for so long.

    Raises:
        BadInputError: the range ends beyond the volume, or ``out`` is a device and not all of the
            volume is wanted.
        ConflictError: ``out`` exists and ``force`` is not given.
        NotFoundError: no such recovery point, or the restore was not heard of for too long.
        DamagedDataError: stored bytes are not what they must be; an unfinished file is removed.
        OutOfSpaceError: the disk is full; an unfinished file is removed.
        TargetError: the disk fails or may not be written; an unfinished file is removed.
        ForbiddenError: no right to restore, or the plan's reads have expired.
        UnavailableError: the service or the store does not answer.
    """
    if check_target(out, force=force) and wanted is not None:
        raise BadInputError(f"{out}: is a device; a range is restored to a file")
    with (
        _restoring(client, tenant, point, wanted, progressed, retry_seconds_max) as work,
        open_target(out, work.wanted.length, force=force) as target,
    ):
        work.run(target if wanted is None else RangeTarget(target, work.wanted))
        if target.is_device:
            target.sync()
    return work.figures


def restore_to_stream(  # noqa: PLR0913 -- what, whereto, how
    client: RestClient,
    tenant: str,
    point: RecoveryPoint,
    out: StreamOutput,
    *,
    progressed: Progressed,
    wanted: ByteRange | None = None,
    retry_seconds_max: float = RETRY_SECONDS_MAX,
) -> RestoreFigures:
    """Restore a volume, or a range of it, to something that takes bytes in order, such as a pipe.

    No byte is written before it was verified. What was written stays if an error comes later, so
    whoever reads must heed how the restore ended. Arguments and errors as those of `restore`; and:

    Raises:
        BrokenPipeError: nobody reads the stream any more.
        OutputError: it does not take the bytes.
    """
    with _restoring(client, tenant, point, wanted, progressed, retry_seconds_max) as work:
        work.stream(out)
    return work.figures


@contextlib.contextmanager
def _restoring(  # noqa: PLR0913 -- what, whereto, how
    client: RestClient,
    tenant: str,
    point: RecoveryPoint,
    wanted: ByteRange | None,
    progressed: Progressed,
    retry_seconds_max: float,
) -> Iterator["_Restore"]:
    """A restore that the service is told the end of, however the context ends."""
    begun = time.perf_counter()
    keep_freed_memory()
    work = _Restore(client, tenant, point, progressed, retry_seconds_max)
    try:
        work.want(wanted)
        yield work
    except BaseException as err:
        work.seconds = time.perf_counter() - begun
        work.report_end(err)
        raise
    work.seconds = time.perf_counter() - begun
    work.report_end(None)


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
        self.wanted = ByteRange(0, self._plan.point.size_bytes)
        self.seconds = 0.0
        self._restored_bytes = 0
        self._renewed_at = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._store = PresignedReader(ca_file=client.ca_file)
        self._fetcher = Fetcher(
            self._plan.point.label,
            self._plan.id_key,
            self._get_into,
            self._store.get_into,
            lambda run: self._answered(partial(self._window, run.first, run.count)),
        )

    @property
    def figures(self) -> RestoreFigures:
        """What it did, once it has ended well."""
        return RestoreFigures(self.wanted.length, self.fetched_bytes, self.seconds, verified=True)

    def want(self, wanted: ByteRange | None) -> None:
        """Restore a range of the volume instead of all of it.

        Raises:
            BadInputError: the volume ends before the range does.
        """
        if wanted is not None and wanted.end > self.wanted.end:
            raise BadInputError(
                f"range {wanted.start}:{wanted.length}: {self._plan.point.label} has "
                f"{self.wanted.end} bytes"
            )
        self.wanted = wanted or self.wanted

    def run(self, target: RestoreTarget | RangeTarget) -> None:
        """Restore every window; nothing is written any more when this returns or raises."""
        under_way: deque[list[Future[None]]] = deque()
        with self._threads() as threads:
            for window in self._windows():
                runs = named_runs(window)
                fetches = fetches_of(window, runs)
                self._prepare(window.chunks, runs, target)
                under_way.append([threads.submit(self._fetch, fetch, target) for fetch in fetches])
                self._skip(window.chunks.end, self._following(window), target)
                if len(under_way) > _WINDOWS_AHEAD:
                    self._await(under_way.popleft())
            while under_way:
                self._await(under_way.popleft())

    def stream(self, out: StreamOutput) -> None:
        """Restore in order: pieces of a window are fetched while one is written."""
        under_way: deque[tuple[Piece, list[Future[None]]]] = deque()

        def write_first() -> None:
            piece, fetching = under_way.popleft()
            self._await(fetching)
            out.write(piece.part(self.wanted))

        with self._threads() as threads, self._kept_alive():
            for window in self._windows():
                for part, runs in pieces_of(window, named_runs(window), PIECE_CHUNK_COUNT):
                    piece = Piece(part.chunks)
                    fetches = fetches_of(part, runs)
                    fetching = [threads.submit(self._fetch, fetch, piece) for fetch in fetches]
                    under_way.append((piece, fetching))
                    self._done(part.chunk_count - sum(run.count for run in runs), 0)
                    if len(under_way) > _PIECES_AHEAD:
                        write_first()
                gap = _bytes_of(window.chunks.end, self._following(window))
                if gap.length:
                    while under_way:
                        write_first()
                    end = min(gap.end, self.wanted.end)
                    out.zeros(end - gap.start, lambda count: self._done_bytes(count, 0))
            while under_way:
                write_first()

    @contextlib.contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(_THREAD_COUNT, "restore") as threads:
            try:
                yield threads
            except BaseException:
                self._stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                self._store.close()

    @contextlib.contextmanager
    def _kept_alive(self) -> Iterator[None]:
        """Renew the restore from a thread: whoever reads a stream may rest for long."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(_RENEW_SECONDS):
                with contextlib.suppress(BackcastError):  # the next window says what is wrong
                    self._renew()

        thread = threading.Thread(target=renew, name="renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def report_end(self, err: BaseException | None) -> None:
        """Tell the service how it ended, if it listens: what was restored and verified, is."""
        failure = None
        if err is not None:
            code = err.code if isinstance(err, BackcastError) else "interrupted"
            failure = {"code": code, "message": (str(err) or type(err).__name__)[:2000]}
        end = self._totals() | {"seconds": self.seconds, "failure": failure}
        with contextlib.suppress(BackcastError):
            self._client.post(f"{self._path}/outcome", end)

    def _windows(self) -> Iterator[PlanWindow]:
        """Windows of what is wanted; between two of them all is zeros."""
        at, count = self.wanted.start // CHUNK_SIZE_BYTES, _WINDOW_CHUNK_COUNT_FIRST
        while at < self._end_chunk:
            count_max = min(count, self._plan.window_chunk_count_max, self._end_chunk - at)
            window = self._answered(partial(self._window, at, count_max))
            yield window
            at, count = self._following(window), min(2 * count, _WINDOW_CHUNK_COUNT_MAX)

    def _window(self, first_chunk: int, chunk_count: int) -> PlanWindow:
        query = {"first_chunk": first_chunk, "chunk_count": chunk_count}
        answer = self._client.get_raw(f"{self._path}/plan", query)
        return decode_window(answer, first_chunk, self._plan.chunk_count)

    @property
    def _end_chunk(self) -> int:
        return -(-self.wanted.end // CHUNK_SIZE_BYTES)

    def _following(self, window: PlanWindow) -> int:
        return min(following_chunk(window), max(self._end_chunk, window.chunks.end))

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
        self._renewed_at = time.monotonic()
        with contextlib.suppress(UnavailableError):
            # It waits for minutes, and planning the next window tries for longer.
            self._client.post(f"{self._path}/progress", self._totals())

    def _totals(self) -> dict[str, Any]:
        with self._lock:
            restored = min(self._restored_bytes, self.wanted.length)
            return {"restored_bytes": restored, "fetched_bytes": self.fetched_bytes}

    def _done(self, chunk_count: int, fetched_bytes: int) -> None:
        self._done_bytes(chunk_count * CHUNK_SIZE_BYTES, fetched_bytes)

    def _done_bytes(self, count: int, fetched_bytes: int) -> None:
        with self._lock:
            self._restored_bytes += count
            self.fetched_bytes += fetched_bytes
            restored = self._restored_bytes
        self._progressed(min(restored, self.wanted.length), self.wanted.length)

    def _skip(self, first: int, end: int, target: RestoreTarget | RangeTarget) -> None:
        """Account for zeros between two windows. Only a device takes time for them."""
        step = _WINDOW_CHUNK_COUNT_MAX if target.is_device else max(end - first, 1)
        for at in range(first, end, step):
            self._zero(at, min(at + step, end), target)
            if time.monotonic() - self._renewed_at > _RENEW_SECONDS:
                self._renew()

    def _prepare(
        self, chunks: ChunkRun, runs: Sequence[ChunkRun], target: RestoreTarget | RangeTarget
    ) -> None:
        """Make room for what will be written, and account for what is zero."""
        at = chunks.first
        for run in runs:
            self._zero(at, run.first, target)
            target.reserve(_bytes_of(run.first, run.end))
            at = run.end
        self._zero(at, chunks.end, target)

    def _zero(self, first: int, end: int, target: RestoreTarget | RangeTarget) -> None:
        if first < end:
            target.zero(_bytes_of(first, end))
            self._done(end - first, 0)

    def _fetch(self, fetch: Fetch, target: FetchTarget) -> None:
        if self._stopped.is_set():
            return
        self._fetcher.fetch(fetch, target)
        self._done(sum(len(frame.chunks) for frame in fetch.frames), fetch.byte_range.length)

    def _get_into(self, url: str, wanted: ByteRange, buffer: memoryview) -> None:
        def ask() -> None:
            with self._client.asking(f"store {urlsplit(url).netloc}", "a read of packs"):
                self._store.get_into(url, wanted, buffer)

        self._answered(ask)

    def _answered(self, call: Callable[[], T]) -> T:
        return retried(call, self._retry_seconds_max)


def _bytes_of(first: int, end: int) -> ByteRange:
    return ByteRange(first * CHUNK_SIZE_BYTES, end * CHUNK_SIZE_BYTES)
