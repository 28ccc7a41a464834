"""One capture: from the order to the last published batch, then serving until its outcome is known.

Order of effects: buffers are offered to the window before their batch is published; the fingerprint
file is durable before CaptureCompleted is published, because from then on the session can be
sealed. A crash before CaptureCompleted leaves a capture that can never be sealed; a crash after it
leaves a whole one whose bytes the agent must still serve, so the coordinator rejects the session
when the agent is gone.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol
from uuid import UUID

from libs.errors import BackcastError, InvariantViolation, SourceError
from libs.events.batches import BatchesDigest
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
)
from libs.events.registry import Event
from libs.keys.keyring import fingerprint_secret
from libs.packs.chunk import ChunkHasher, Fingerprinter
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import pack_runs, runs_of
from services.change_capture.agent.fingerprints import (
    ZERO_RECORD,
    FingerprintFile,
    FingerprintWriter,
    fingerprint_path,
    keep_only,
)
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.scanner import ScanFigures, Scanner, Span
from services.change_capture.agent.window import Window
from services.change_capture.drivers.scan import REGION_CHUNKS, Region, ScanView

log = logging.getLogger(__name__)

State = Literal["reading", "complete", "aborted"]


class Sender(Protocol):
    """Where a capture publishes its events: `publishing.EventSender`."""

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        """Publish, in the order of calls; return the encoded value; need not wait for a broker."""
        ...

    def flush(self, order: CaptureOrder) -> None:
        """Return when the broker has everything, or raise."""
        ...


class Capture:
    """A capture of this agent process. Its threads start with `start` and end by themselves.

    Args:
        order: what to capture.
        boot: identifies this agent process.
        node: name of this node.
        state_folder: where fingerprint files are.
        window: keeps offered spans.
        sender: publishes its events.
    """

    def __init__(  # noqa: PLR0913 -- one capture's surroundings
        self,
        order: CaptureOrder,
        boot: UUID,
        node: str,
        state_folder: Path,
        window: Window,
        sender: Sender,
    ) -> None:
        self.order = order
        self.view = ScanView(order.path)
        self.state: State = "reading"
        self.reason: BackcastError | None = None
        self.last_used = time.monotonic()
        self.boot = boot
        self._node = node
        self._state_folder = state_folder
        self._window = window
        self._sender = sender
        self._old = self._open_old()
        self._progress = _Watermark(self._regions())
        self._figures: list[ScanFigures] = []
        self._digest = BatchesDigest()
        self._publishing = threading.Lock()
        self._failure: BackcastError | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"capture-{order.capture}", daemon=True
        )
        self._thread_count = 1

    def start(self, thread_count: int) -> None:
        """Begin to read."""
        self._thread_count = thread_count
        self._thread.start()

    def stop(self) -> None:
        """End it, whatever it is doing, and let go of the volume; blocks until its threads have."""
        self._window.stop(self.order.capture)
        self._thread.join()
        self.view.close()
        if self._old:
            self._old.close()
        self._window.forget(self.order.capture)

    def keep_fingerprints(self, *, sealed: bool) -> None:
        """Act on the outcome: keep the fingerprints of what was sealed, or those of the base."""
        base = {self.order.base} if self.order.base else set()
        keep_only(self._state_folder, self.order.volume, {self.order.session} if sealed else base)

    def touch(self) -> None:
        """Note that somebody still needs this capture."""
        self.last_used = time.monotonic()

    @property
    def read_bytes(self) -> int:
        """Bytes read so far."""
        return sum(figures.read_bytes for figures in self._figures)

    def _open_old(self) -> FingerprintFile | None:
        if self.order.base is None:
            return None
        path = fingerprint_path(self._state_folder, self.order.volume, self.order.base)
        try:
            return FingerprintFile.open_for(path, self.order.base, self.view.identity)
        except SourceError:  # the device fails, and nobody else would close it
            self.view.close()
            raise

    def _run(self) -> None:
        try:
            self._capture()
            self.state = "complete"
        except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
            self._abort(self._as_error(err))

    def _capture(self) -> None:
        begun = time.monotonic()
        path = fingerprint_path(self._state_folder, self.order.volume, self.order.session)
        writer = FingerprintWriter(
            path, self.order.session, self.view.size_bytes, self.view.identity
        )
        try:
            self._sender.send(self.order, self._started())
            self._scan_all(writer)
            completed = self._completed(time.monotonic() - begun)
            writer.finish()
            self._sender.send(self.order, completed)
            self._sender.flush(self.order)
        finally:
            writer.discard()

    def _scan_all(self, writer: FingerprintWriter) -> None:
        threads = [
            threading.Thread(target=self._scan, args=(writer,), name=f"scan-{number}", daemon=True)
            for number in range(self._thread_count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _scan(self, writer: FingerprintWriter) -> None:
        """Body of a scanning thread: take regions until there are none, or until one failed."""
        scanner: Scanner | None = None
        try:
            scanner = Scanner(
                self.view.read_into,
                ChunkHasher(self.order.id_key),
                Fingerprinter(fingerprint_secret(self.order.id_key)),
                lambda: self._window.take_buffer(self.order.capture),
                self._emit,
            )
            self._figures.append(scanner.figures)
            while not self._failure and (region := self._progress.take()):
                old = self._old.record(region.number) if self._old else ZERO_RECORD
                writer.add(region.number, scanner.scan(region, old))
            if not self._failure:
                self._emit(scanner.take_span())
        except Exception as err:  # noqa: BLE001 -- a region that nobody scanned looks unchanged
            self._failure = self._failure or self._as_error(err)
        finally:
            if scanner and scanner.span.buffer:
                self._window.give_back(scanner.span.buffer)

    def _emit(self, span: Span, still_in: int | None = None) -> None:
        """Publish a span. ``still_in`` is the region that its thread has not finished, if any."""
        capture = self.order.capture
        with self._publishing:
            settled = self._progress.emitted(still_in)
            if not span.indexes and not span.zeros:
                self._window.give_back(span.buffer)
                return
            batch = self._digest.count
            event = ExtentsChanged(
                session=self.order.session,
                capture=capture,
                volume=self.order.volume,
                batch=batch,
                runs=pack_runs(runs_of(span.indexes)),
                ids=b"".join(span.ids),
                zero_runs=pack_runs(runs_of(span.zeros)),
                settled_below=settled * REGION_CHUNKS,
            )
            if span.indexes:
                self._window.offer(capture, batch, span.buffer)
            else:
                self._window.give_back(span.buffer)
            self._digest.add(self._sender.send(self.order, event))

    def _as_error(self, err: Exception) -> BackcastError:
        if isinstance(err, BackcastError):
            return err
        if isinstance(err, OSError):
            return SourceError(f"volume {self.order.path}: {err}")
        log.critical("capture failed unexpectedly", exc_info=err)
        return InvariantViolation(
            f"volume {self.order.path}: {type(err).__name__} in the agent; see its log"
        )

    def _abort(self, err: BackcastError) -> None:
        log.warning(
            "capture aborted", extra={"capture": str(self.order.capture), "detail": str(err)}
        )
        self.reason = err
        self.state = "aborted"
        self._window.stop(self.order.capture)
        event = CaptureAborted(
            session=self.order.session,
            capture=self.order.capture,
            volume=self.order.volume,
            code=err.code,
            message=str(err)[:2000],
        )
        try:
            self._sender.send(self.order, event)
            self._sender.flush(self.order)
        except BackcastError as again:  # the coordinator asks for the state too: nothing is lost
            log.warning("abort not published", extra={"detail": str(again)})

    def _regions(self) -> Iterator[Region]:
        """Regions with data, merged with those that had data at the base and have none now."""
        # What lies beyond the end was cut off, not cleared.
        end = -(-self.view.chunk_count // REGION_CHUNKS)
        known = self._old.regions() if self._old else ()
        gone = deque(sorted(number for number in known if number < end))
        for region in self.view.regions():
            while gone and gone[0] <= region.number:
                number = gone.popleft()
                if number < region.number:
                    yield self.view.region(number)
            yield region
        for number in gone:
            yield self.view.region(number)

    def _started(self) -> CaptureStarted:
        order = self.order
        return CaptureStarted(
            session=order.session,
            capture=order.capture,
            tenant=order.tenant,
            group=order.group,
            volume=order.volume,
            node=self._node,
            base=order.base,
            boot=self.boot,
            complete=self._old is None,
            volume_size_bytes=self.view.size_bytes,
            chunk_size_bytes=CHUNK_SIZE_BYTES,
        )

    def _completed(self, seconds: float) -> CaptureCompleted:
        return CaptureCompleted(
            session=self.order.session,
            capture=self.order.capture,
            volume=self.order.volume,
            batches=self._digest.count,
            batches_digest=self._digest.digest(),
            read_bytes=self.read_bytes,
            changed_bytes=sum(figures.changed_bytes for figures in self._figures),
            consistency=self.view.consistency(),
            seconds=seconds,
        )


class _Watermark:
    """Hands out regions, ascending, and knows below which one no later batch names a chunk."""

    def __init__(self, regions: Iterator[Region]) -> None:
        self._regions = regions
        self._lock = threading.Lock()
        self._next = 0
        self._held: dict[int, int] = {}  # thread → first region that its span may still name

    def take(self) -> Region | None:
        """The next region for the calling thread, or None at the end."""
        with self._lock:
            region = next(self._regions, None)
            if region:
                self._next = region.number + 1
                self._held.setdefault(threading.get_ident(), region.number)
            return region

    def emitted(self, still_in: int | None) -> int:
        """The calling thread's span goes out while it is in this region; returns the watermark."""
        with self._lock:
            self._held.pop(threading.get_ident(), None)
            if still_in is not None:
                self._held[threading.get_ident()] = still_in
            return min(self._held.values(), default=self._next)
