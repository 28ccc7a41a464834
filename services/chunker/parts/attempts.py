"""The parts that this chunker works on, each by an attempt, and the lanes that do the work.

A part goes: begun (taken) → spans on the lanes, in any order → all published by the agent → all
spans taken (`services.chunker.parts.state`) → finished, together with the session's other parts
here (`services.chunker.parts.together`) → sealed, if it is the session's last part. It ends at once
when it fails (its session is rejected), or when its attempt turns out to be stale (somebody else
has the part).
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from uuid import UUID

from libs.catalogdb.sessions.attempts import CaptureBegun, PartProgress, Tracking, reject_attempt
from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import BackcastError
from libs.events.block_changes import Batch, CaptureCompleted, CaptureStarted
from libs.kafka.consumer import Partition
from libs.runtime.threads import end_with, is_expected
from services.chunker.lanes import Lanes
from services.chunker.packer import StaleAttemptError
from services.chunker.parts.positions import Positions
from services.chunker.parts.state import (
    Action,
    AllPublished,
    BatchArrived,
    Fact,
    Fail,
    Finish,
    PartState,
    SpanTaken,
    TakeSpan,
    WorkEnded,
)
from services.chunker.parts.together import Reserved, SessionParts
from services.chunker.parts.work import PartWork, attempt_packs
from services.chunker.sealer import Sealer, StoredPart, reason_of
from services.chunker.surroundings import Surroundings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attempt:
    """An attempt at a part, in work."""

    view: SessionView
    part: PartView
    started: CaptureStarted
    partition: Partition
    start_offset: int
    work: PartWork
    #: The session's parts here.
    together: "SessionParts[ThroughPart]"
    #: What was last recorded of it.
    renewed: PartProgress | None = None
    _state: PartState = field(default_factory=PartState)
    #: Guards the state, which lanes and intake both change.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> UUID:
        """Names the attempt in the catalog."""
        return self.work.packs.attempt

    @property
    def begun(self) -> CaptureBegun:
        """How its capture began, for the catalog."""
        tracking = tracking_of(self.view, self.started)
        return CaptureBegun(self.started.boot, self.partition.number, self.start_offset, tracking)

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it any more."""
        return self._state.is_over

    def learn(self, fact: Fact) -> Action:
        """See `PartState`."""
        with self._lock:
            return self._state.learn(fact)

    def end(self) -> bool:
        """Stop working on it; whether this call did that."""
        with self._lock:
            was_over = self._state.is_over
            self._state.learn(WorkEnded())
        return not was_over


@dataclass(frozen=True, slots=True)
class ThroughPart:
    """A part all of which was handed to the packer."""

    attempt: Attempt
    stored: StoredPart


def tracking_of(view: SessionView, event: CaptureStarted) -> Tracking:
    """How the changes of a capture are known."""
    if event.tracking != "none":
        return event.tracking
    return "lost" if view.base else "none"


class Attempts:
    """All parts that this process works on. Thread-safe.

    Args:
        around: what the chunker works with.
        sealer: records parts and commits snapshots.
        lanes: work on spans; closed with the attempts, as is the packer.
        positions: told from where to read again what somebody else had taken.
        span_queue_length_max: spans that may wait for a lane.
    """

    def __init__(
        self,
        around: Surroundings,
        sealer: Sealer,
        lanes: Lanes,
        positions: Positions,
        span_queue_length_max: int,
    ) -> None:
        self._around = around
        self._sealer = sealer
        self._lanes = lanes
        self._positions = positions
        self._queue_slots = asyncio.Semaphore(span_queue_length_max)
        self._by_capture: dict[UUID, Attempt] = {}
        self._by_session: dict[UUID, SessionParts[ThroughPart]] = {}
        self._closing = False
        self._lock = threading.Lock()

    def find(self, capture: UUID) -> Attempt | None:
        """The attempt at the part of this capture, if this process works on it."""
        with self._lock:
            return self._by_capture.get(capture)

    def all(self) -> list[Attempt]:
        """Those in work."""
        with self._lock:
            return list(self._by_capture.values())

    def reserve(self, view: SessionView, attempts: Mapping[UUID, UUID]) -> None:
        """Expect captures of a session, given the attempts that were taken at their parts."""
        if attempts:
            self._session(view).reserve(attempts)

    def reserved(self, session: UUID, capture: UUID) -> Reserved | None:
        """The attempt at a part whose capture is expected, if it is expected of this session."""
        with self._lock:
            parts = self._by_session.get(session)
        attempt = parts.reserved().get(capture) if parts else None
        return Reserved(attempt, parts.view) if parts and attempt else None

    def all_reserved(self) -> list[UUID]:
        """Attempts whose captures are expected."""
        with self._lock:
            sessions = list(self._by_session.values())
        return [attempt for one in sessions for attempt in one.reserved().values()]

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
        if earlier := self.find(part.capture):
            self._drop(earlier)
        together = self._session(view)
        packs = attempt_packs(self._around.vault, attempt, together.view, together.shared)
        work = PartWork(part, started, packs, self._around)
        together.begin(part.capture, attempt)
        with self._lock:
            self._by_session[view.session] = together
            self._by_capture[part.capture] = Attempt(
                view, part, started, partition, start_offset, work, together
            )

    async def add_batch(self, attempt: Attempt, event: Batch, value: bytes) -> None:
        """Queue a batch for the lanes; waits while the queue is full."""
        match attempt.learn(BatchArrived(event.batch, value)):
            case Fail(code, message):
                await asyncio.to_thread(self.fail, attempt, code, message)
            case TakeSpan():
                await self._queue_slots.acquire()
                loop = asyncio.get_running_loop()

                def free_slot(_: object) -> None:
                    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                        loop.call_soon_threadsafe(self._queue_slots.release)

                self._submit(attempt, lambda: self._take(attempt, event)).add_done_callback(
                    free_slot
                )

    def complete(self, attempt: Attempt, event: CaptureCompleted) -> None:
        """The agent has published everything; the part is finished when its spans are through."""
        match attempt.learn(AllPublished(event)):
            case Fail(code, message):
                self.fail(attempt, code, message)
            case Finish(completed):
                self._submit(attempt, lambda: self._finish(attempt, completed))

    def seal(self, session: UUID) -> None:
        """Seal a session all of whose parts were finished, by this process or another."""
        end_with("lane", self._lanes.submit(lambda: self._sealer.seal_or_reject(session)))

    def fail(self, attempt: Attempt, code: str, message: str, volumes: Sequence[str] = ()) -> None:
        """Reject the part's session and stop working on it; nothing if it is over already.

        Args:
            attempt: at the part.
            code: why, for programs.
            message: why, for people.
            volumes: names of the volumes that it is about, if it is not this part's alone.
        """
        if not self._drop(attempt):
            return
        names = volumes or [attempt.part.volume_name]
        text = f"{'volumes' if len(names) > 1 else 'volume'} {', '.join(names)}: {message}"
        if not reject_attempt(self._around.catalog, attempt.id, code, text):
            self._positions.note_taken_away(attempt.partition, attempt.start_offset)

    def fail_partition(self, partition: Partition, code: str, message: str) -> None:
        """Fail every part of a partition."""
        for attempt in self._of(frozenset({partition})):
            self.fail(attempt, code, message)

    def drop_partitions(self, partitions: frozenset[Partition]) -> None:
        """Stop working on parts whose partitions others will get; their sessions stay open."""
        self._positions.forget(partitions)  # first: a part that is gone keeps no position back
        for attempt in self._of(partitions):
            self._drop(attempt)
        # Every rebalance takes all partitions away: what is expected may go to others, too.
        for reserved in self.all_reserved():
            self.forget_reserved(reserved)

    def forget_reserved(self, attempt: UUID) -> None:
        """Expect the capture of an attempt no longer."""
        with self._lock:
            sessions = list(self._by_session.values())
        for together in sessions:
            if attempt in together.reserved().values():
                self._leave(together, attempt)

    def finish_waiting(self) -> None:
        """Let a round pass: parts that have waited for others for long are finished alone."""
        with self._lock:
            # Of some the only part could not be begun.
            self._by_session = {
                session: one for session, one in self._by_session.items() if not one.is_empty
            }
            sessions = list(self._by_session.values())
        for together in sessions:
            self._submit_finish(together.waited())

    def let_go(self, attempt: Attempt) -> None:
        """Stop working on a part whose attempt was closed: its session ended, or was taken."""
        if self._drop(attempt):
            self._positions.note_taken_away(attempt.partition, attempt.start_offset)

    def give_up(self, attempt: Attempt, err: BaseException, volumes: Sequence[str] = ()) -> None:
        """End the work on a part for an error; its session hears of it if the part is ours."""
        about = {"capture": str(attempt.part.capture), "detail": str(err)}
        if isinstance(err, StaleAttemptError):
            log.info("attempt is stale", extra=about)
            self.let_go(attempt)
            return
        expected = is_expected(err)
        log.log(
            logging.WARNING if expected else logging.CRITICAL,
            "part failed",
            extra=about,
            exc_info=None if expected else err,
        )
        try:
            self.fail(attempt, *reason_of(err), volumes)
        except BackcastError as again:  # then its deadline rejects it
            log.warning("session not rejected", extra={"detail": str(again)})

    def close(self) -> None:
        """Stop the lanes; parts in work are left to a successor."""
        self._closing = True
        in_work = self.all()
        self._positions.forget({attempt.partition for attempt in in_work})
        for attempt in in_work:
            self._drop(attempt)
        self._lanes.close()
        self._around.packer.close()

    def _of(self, partitions: frozenset[Partition]) -> list[Attempt]:
        return [attempt for attempt in self.all() if attempt.partition in partitions]

    def _session(self, view: SessionView) -> SessionParts[ThroughPart]:
        with self._lock:
            return self._by_session.setdefault(view.session, SessionParts(view))

    def _submit(self, attempt: Attempt, step: Callable[[], None]) -> Future[None]:
        """Run a step on a lane, unless the work is over by then; an error in it ends the work."""

        def run() -> None:
            try:
                if not attempt.is_over:
                    step()
            except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
                self._end_for(attempt, err)

        future = self._lanes.submit(run)
        end_with("lane", future)
        return future

    def _end_for(self, attempt: Attempt, err: Exception, volumes: Sequence[str] = ()) -> None:
        if not attempt.is_over:  # or it only says that its connections and packs were closed
            self.give_up(attempt, err, volumes)

    def _take(self, attempt: Attempt, event: Batch) -> None:
        attempt.work.take(event)
        match attempt.learn(SpanTaken()):
            case Finish(completed):
                self._finish(attempt, completed)

    def _finish(self, attempt: Attempt, completed: CaptureCompleted) -> None:
        """Hand the rest of a part to the packer, and finish what is due then."""
        root = attempt.work.finish()
        part = ThroughPart(attempt, StoredPart(attempt.work, attempt.begun, root, completed))
        self._finish_all(attempt.together.through(attempt.id, part))

    def _submit_finish(self, due: Sequence[ThroughPart]) -> None:
        if due and not self._closing:
            end_with("lane", self._lanes.submit(lambda: self._finish_all(due)))

    def _finish_all(self, due: Sequence[ThroughPart]) -> None:
        """Register the packs of parts of one session and record the parts; seal after the last."""
        due = [part for part in due if not part.attempt.is_over]
        if not due:
            return
        try:
            for part in due:
                self._around.packer.flush(part.attempt.work.packs)
            self._sealer.count_departed([part.attempt.work for part in due])  # during the upload
            stored = [part for part in due if self._is_registered(part.attempt)]
            if not stored:
                return
            finished = self._sealer.finish_parts([part.stored for part in stored])
        except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
            volumes = [part.attempt.part.volume_name for part in due]
            for part in due:
                self._end_for(part.attempt, err, volumes)
            return
        for part in stored:
            if part.attempt.id in finished.stale:
                self.give_up(part.attempt, StaleAttemptError())
            else:
                self._drop(part.attempt)
        if finished.is_session:
            self._sealer.seal_or_reject(due[0].attempt.view.session)

    def _is_registered(self, attempt: Attempt) -> bool:
        """Wait for a part's packs; False if they could not be stored, which ends the part alone."""
        try:
            self._around.packer.finish(attempt.work.packs)
        except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
            self._end_for(attempt, err)
            return False
        return True

    def _drop(self, attempt: Attempt) -> bool:
        """Stop working on it; whether this call did that."""
        if not attempt.end():
            return False
        with self._lock:
            if self._by_capture.get(attempt.part.capture) is attempt:
                del self._by_capture[attempt.part.capture]
        attempt.work.abandon()
        self._leave(attempt.together, attempt.id)
        return True

    def _leave(self, together: SessionParts[ThroughPart], attempt: UUID) -> None:
        due = together.leave(attempt)
        with self._lock:
            if together.is_empty and self._by_session.get(together.view.session) is together:
                del self._by_session[together.view.session]
        self._submit_finish(due)
