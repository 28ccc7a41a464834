"""The captures that this chunker works on, and the lanes that do the work.

A capture goes: begun (part taken) → spans on the lanes, in any order → completed by the agent → all
spans through → finished → sealed, if it is the session's last part. It ends at once when it fails
(its session is rejected), or when its attempt turns out to be stale (somebody else has it).
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from libs.catalogdb.packs.index import count_by_pack
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import (
    Progress,
    Stale,
    closed_attempts,
    finish_part,
    reject_attempt,
    renew,
)
from libs.catalogdb.sessions.positions import store_offset
from libs.catalogdb.sessions.sealing import Refused
from libs.catalogdb.sessions.session import PartView, SessionView, reject_session
from libs.errors import BackcastError, InvariantViolation
from libs.events.batches import BatchesDigest
from libs.events.block_changes import Batch, CaptureCompleted, CaptureStarted
from libs.kafka.consumer import Partition
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.runtime.retries import retried
from libs.runtime.threads import end_with, is_expected
from libs.spans.connection import SpanConnection
from services.chunker.lanes import Lanes
from services.chunker.packer import Packer, StaleAttemptError, attempt_packs
from services.chunker.sealer import Sealer
from services.chunker.work import CaptureWork

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Capture:
    """One capture in progress. Its lock guards what lanes and intake both change."""

    view: SessionView
    part: PartView
    started: CaptureStarted
    partition: Partition
    start_offset: int
    work: CaptureWork
    digest: BatchesDigest = field(default_factory=BatchesDigest)
    completed: CaptureCompleted | None = None
    running: int = 0
    over: bool = False
    renewed: Progress | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Captures:
    """All captures of this process. Thread-safe.

    Args:
        catalog: the catalog, in the chunker's role.
        vault: gives the keys of domains.
        packer: stores frames.
        frames: reads map nodes back.
        sealer: commits snapshots.
        lanes: work on spans; closed with the captures, as is the packer.
        span_queue_length_max: spans that may wait for a lane.
        session_deadline_seconds: time that progress gives a session.
        known_chunk_sample: see `CaptureWork`.
        dial: connects to agents.
    """

    def __init__(  # noqa: PLR0913 -- the chunker's surroundings
        self,
        catalog: Catalog,
        vault: KeyVault,
        packer: Packer,
        frames: FrameReader,
        sealer: Sealer,
        lanes: Lanes,
        span_queue_length_max: int,
        session_deadline_seconds: float,
        known_chunk_sample: int,
        dial: Callable[..., SpanConnection] = SpanConnection,
    ) -> None:
        self._catalog = catalog
        self._vault = vault
        self._packer = packer
        self._frames = frames
        self._sealer = sealer
        self._session_deadline_seconds = session_deadline_seconds
        self._known_chunk_sample = known_chunk_sample
        self._dial = dial
        self._lanes = lanes
        self._queue_slots = asyncio.Semaphore(span_queue_length_max)
        self._captures: dict[UUID, Capture] = {}
        self._lock = threading.Lock()
        self._taken_away: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._stored: dict[Partition, int] = {}

    def find(self, capture: UUID) -> Capture | None:
        """The capture, if this process works on it."""
        with self._lock:
            return self._captures.get(capture)

    def begin(  # noqa: PLR0913 -- everything known when a part is taken
        self,
        attempt: UUID,
        view: SessionView,
        part: PartView,
        started: CaptureStarted,
        partition: Partition,
        start_offset: int,
    ) -> None:
        """Start to work on a part that was just taken."""
        packs = attempt_packs(self._vault, attempt, view)
        work = CaptureWork(
            part,
            started,
            packs,
            self._catalog,
            self._packer,
            self._frames,
            self._known_chunk_sample,
            self._lanes.submit_if_idle,
            self._dial,
        )
        with self._lock:
            earlier = self._captures.pop(part.capture, None)
            self._captures[part.capture] = Capture(
                view, part, started, partition, start_offset, work
            )
        if earlier:
            self._drop(earlier)

    async def add_batch(self, capture: Capture, event: Batch, value: bytes) -> None:
        """Queue a batch for the lanes; waits while the queue is full."""
        count = capture.digest.count
        if event.batch < count:
            return  # seen before
        if event.batch > count or capture.completed:
            wrong = (
                f"batch {count} never came" if event.batch > count else f"more than {count} came"
            )
            message = f"{wrong}; take the snapshot again"
            await asyncio.to_thread(self.fail, capture, "batches-missing", message)
            return
        capture.digest.add(value)
        with capture.lock:
            capture.running += 1
        await self._queue_slots.acquire()
        loop = asyncio.get_running_loop()

        def free_slot(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits for it
                loop.call_soon_threadsafe(self._queue_slots.release)

        future = self._lanes.submit(
            lambda: self._guarded(capture, lambda: capture.work.take(event))
        )
        future.add_done_callback(free_slot)
        end_with("lane", future)

    def complete(self, capture: Capture, event: CaptureCompleted) -> None:
        """The agent has published everything; the capture finishes when its spans are through."""
        if capture.completed:
            return  # seen before
        if (event.batches, event.batches_digest) != (capture.digest.count, capture.digest.digest()):
            message = (
                f"{capture.digest.count} of {event.batches} batches arrived as they were sent; "
                f"take the snapshot again"
            )
            self.fail(capture, "batches-missing", message)
            return
        with capture.lock:
            capture.completed = event
            capture.running += 1
        end_with("lane", self._lanes.submit(lambda: self._guarded(capture, lambda: None)))

    def seal(self, session: UUID) -> None:
        """Seal a session all of whose parts were finished, by this process or another."""
        end_with("lane", self._lanes.submit(lambda: self._seal(session)))

    def fail(self, capture: Capture, code: str, message: str) -> None:
        """Reject the capture's session and stop working on it; nothing if it is over already."""
        if not self._drop(capture):
            return
        text = f"volume {capture.part.volume_name}: {message}"
        attempt = capture.work.packs.attempt
        if not retried(lambda: reject_attempt(self._catalog, attempt, code, text)):
            self._note_taken_away(capture)

    def fail_partition(self, partition: Partition, code: str, message: str) -> None:
        """Fail every capture of a partition."""
        for capture in self._of({partition}):
            self.fail(capture, code, message)

    def drop_partitions(self, partitions: frozenset[Partition]) -> None:
        """Stop working on captures whose partitions others will get; their sessions stay open."""
        for capture in self._of(partitions):
            self._drop(capture)

    def taken_away(self) -> Mapping[Partition, int]:
        """Partitions to read again, and from where; each is told once.

        A chunker that lost a partition in a rebalance may still take a part of it over, and then do
        nothing with it: the new owner must take it again, or the session waits for its deadline.
        """
        with self._lock:
            offsets, self._taken_away = self._taken_away, {}
        return offsets

    def note_positions(self, positions: Mapping[Partition, int]) -> None:
        """Remember how far each partition was read."""
        with self._lock:
            self._positions = dict(positions)

    def look_after(self) -> None:
        """A round of a loop: records progress, which renews deadlines, and positions."""
        self._renew_all()
        self._store_positions()

    def close(self) -> None:
        """Stop the lanes; open captures are left to a successor."""
        with self._lock:
            captures = list(self._captures.values())
        for capture in captures:
            self._drop(capture)
        self._lanes.close()
        self._packer.close()

    def _of(self, partitions: "frozenset[Partition] | set[Partition]") -> list[Capture]:
        with self._lock:
            return [
                capture for capture in self._captures.values() if capture.partition in partitions
            ]

    def _guarded(self, capture: Capture, step: Callable[[], None]) -> None:
        """Run one step on a lane; the last one of a completed capture finishes it."""
        try:
            if not capture.over:
                step()
            with capture.lock:
                capture.running -= 1
                last = capture.running == 0 and capture.completed is not None and not capture.over
            if last:
                self._finish(capture)
        except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
            if not capture.over:  # or it only says that its connections and packs were closed
                self._give_up(capture, err)

    def _give_up(self, capture: Capture, err: BaseException) -> None:
        about = {"capture": str(capture.part.capture), "detail": str(err)}
        if isinstance(err, StaleAttemptError):
            log.info("attempt is stale", extra=about)
            self._let_go(capture)
            return
        expected = is_expected(err)
        log.log(
            logging.WARNING if expected else logging.CRITICAL,
            "capture failed",
            extra=about,
            exc_info=None if expected else err,
        )
        try:
            self.fail(capture, *_reason(err))
        except BackcastError as again:  # then its deadline rejects it
            log.warning("session not rejected", extra={"detail": str(again)})

    def _finish(self, capture: Capture) -> None:
        completed, work = capture.completed, capture.work
        assert completed is not None
        root = work.finish()
        packs = work.packs
        unplaced = packs.ledger.unplaced()
        places = (
            retried(lambda: count_by_pack(self._catalog, packs.domains, unplaced))
            if unplaced
            else {}
        )
        progress = replace(work.progress, read_bytes=completed.read_bytes)
        finished = retried(
            lambda: finish_part(
                self._catalog,
                packs.attempt,
                root.node_id,
                root.level,
                progress,
                completed.consistency,
                packs.ledger.use(places),
            )
        )
        if isinstance(finished, Stale):
            raise StaleAttemptError
        self._drop(capture)
        if finished:
            self._seal(capture.view.session)

    def _seal(self, session: UUID) -> None:
        try:
            outcome = self._sealer.seal(session)
            if isinstance(outcome, Refused):
                self._reject(session, "refused", f"{outcome.reason}; take the snapshot again")
        except Exception as err:
            known = isinstance(err, BackcastError)
            log.log(
                logging.WARNING if known else logging.CRITICAL,
                "not sealed",
                extra={"session": str(session), "detail": str(err)},
                exc_info=None if known else err,
            )
            with contextlib.suppress(BackcastError):  # then its deadline rejects it
                self._reject(session, *_reason(err))

    def _reject(self, session: UUID, code: str, message: str) -> None:
        retried(lambda: reject_session(self._catalog, "chunker", session, code, message))

    def _drop(self, capture: Capture) -> bool:
        """Stop working on it; whether this call did that."""
        with capture.lock:
            if capture.over:
                return False
            capture.over = True
        with self._lock:
            if self._captures.get(capture.part.capture) is capture:
                del self._captures[capture.part.capture]
        capture.work.abandon()
        return True

    def _let_go(self, capture: Capture) -> None:
        """Stop working on a capture whose attempt was closed: its session ended, or was taken."""
        if self._drop(capture):
            self._note_taken_away(capture)

    def _note_taken_away(self, capture: Capture) -> None:
        """Its session may be open: what is read again of one that has ended is skipped."""
        with self._lock:
            at = self._taken_away.get(capture.partition, capture.start_offset)
            self._taken_away[capture.partition] = min(at, capture.start_offset)

    def _renew_all(self) -> None:
        """Record progress; let go of captures whose attempt somebody else has closed."""
        with self._lock:
            captures = list(self._captures.values())
        quiet = {}
        for capture in captures:
            progress, attempt = capture.work.progress, capture.work.packs.attempt
            if failure := capture.work.packs.failure:  # no lane may look for a long time
                self._give_up(capture, failure)
            elif progress == capture.renewed:
                quiet[attempt] = capture
            elif renew(self._catalog, attempt, progress, self._session_deadline_seconds):
                capture.renewed = progress
            else:
                self._let_go(capture)
        for attempt in closed_attempts(self._catalog, list(quiet)) if quiet else ():
            self._let_go(quiet[attempt])

    def _store_positions(self) -> None:
        with self._lock:
            positions = dict(self._positions)
            for capture in self._captures.values():
                if capture.partition in positions:
                    positions[capture.partition] = min(
                        positions[capture.partition], capture.start_offset
                    )
        for partition, offset in positions.items():
            if self._stored.get(partition) != offset:
                store_offset(self._catalog, partition.topic, partition.number, offset)
                self._stored[partition] = offset


def _reason(err: BaseException) -> tuple[str, str]:
    """Code and message of what ended a session."""
    if isinstance(err, BackcastError):
        return err.code, str(err)
    return InvariantViolation.code, f"{type(err).__name__} in a chunker"
