"""The intake: reads `block-changes`, checks every event, and hands spans to the lanes.

Events are claims. Each is checked against its session's row and authenticated with the capture's
token; what fails is counted and notified, and ends the session that it belongs to, never the
partition. What cannot be decided because a server does not answer waits: nothing is skipped.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter

from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import (
    NotTaken,
    Taken,
    WrongBoot,
    note_lost,
    take_part,
)
from libs.catalogdb.sessions.folding import has_ended
from libs.catalogdb.sessions.positions import start_offset
from libs.catalogdb.sessions.session import (
    PartView,
    SessionView,
    read_session,
    reject_session,
    session_of_capture,
)
from libs.errors import (
    BackcastError,
    BadEventError,
    MalformedEventError,
    TrackingLostError,
    UnavailableError,
)
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
    TrackingLost,
    UnchangedSampled,
)
from libs.events.envelope import Envelope
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.mac import is_authentic
from libs.events.notifications import NotificationRaised
from libs.events.topics import BLOCK_CHANGES
from libs.kafka.consumer import (
    BadRecord,
    Delivery,
    EventConsumer,
    LostRecords,
    Partition,
    ReceivedEvent,
)
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.groups import KafkaSettings
from libs.runtime.health import LoopHealth
from libs.runtime.signals import Stop
from services.chunker.parts.attempts import Attempt, Attempts, tracking_of
from services.chunker.parts.positions import Positions

log = logging.getLogger(__name__)
GROUP = "backcast-chunker"
_OF_A_CAPTURE = ExtentsChanged | UnchangedSampled | CaptureCompleted | CaptureAborted | TrackingLost
#: Pause before something is tried again because a server did not answer.
_AGAIN_SECONDS = 1.0
#: One notification per kind of bad record in this time: whoever can write to the topic could fill
#: the catalog's log. The counter and this process's own log have every one.
_NOTIFY_SECONDS_MIN = 60.0


class Intake:
    """Runs on one event loop; everything that blocks runs in threads.

    Args:
        catalog: the catalog, in the chunker's role.
        attempts: the parts that this process works on.
        positions: told how far was read, and asked what to read again.
        name: name of this chunker.
        registry: gets the counter of refused events.
    """

    def __init__(
        self,
        catalog: Catalog,
        attempts: Attempts,
        positions: Positions,
        name: str,
        registry: CollectorRegistry,
    ) -> None:
        self._catalog = catalog
        self._attempts = attempts
        self._positions = positions
        self._name = name
        #: Whether this chunker reads the captures of a volume. That decides what is done together,
        #: and nothing else: a wrong answer costs a take-over.
        self.reads: Callable[[UUID], bool] = lambda _volume: False
        self._partitions: Callable[[], Collection[Partition]] = lambda: ()
        self._notified_at: dict[str, float] = {}
        self._is_missing = False
        self._refused = Counter(
            "backcast_chunker_refused_events",
            "Records of block-changes that were no valid, authentic event.",
            ["code"],
            registry=registry,
        )

    async def run(self, settings: KafkaSettings, stop: Stop, loop: LoopHealth) -> None:
        """Read until asked to stop; when the brokers or the catalog fail for long, begin again."""
        while not stop.requested:
            try:
                async with EventConsumer(
                    settings,
                    [BLOCK_CHANGES],
                    group=GROUP,
                    starts=self._starts,
                    revoked=self._revoked,
                ) as consumer:
                    self.reads = lambda volume: consumer.reads(BLOCK_CHANGES, str(volume).encode())
                    self._partitions = lambda: consumer.partitions
                    await self._read(consumer, stop, loop)
            except UnavailableError as err:
                log.warning("reading begins again", extra={"detail": str(err)})
                loop.put_off(err)  # a restart brings back neither Kafka nor the catalog
                self._partitions = lambda: ()
                await asyncio.sleep(_AGAIN_SECONDS)

    def partition_count(self) -> int:
        """How many partitions this chunker reads now. Any thread may ask."""
        return len(self._partitions())

    async def _read(self, consumer: EventConsumer, stop: Stop, loop: LoopHealth) -> None:
        while not stop.requested:
            if not await self._handle_all(await consumer.batch(0.5), consumer, stop, loop):
                return  # what is left was read and not handled: no position may be behind it
            for partition, offset in self._positions.to_read_again().items():
                consumer.rewind(partition, offset)
            self._positions.note_read(consumer.positions())
            self._look_for_topics(consumer, loop)

    def _look_for_topics(self, consumer: EventConsumer, loop: LoopHealth) -> None:
        """Not ready without partitions to read: sessions would only fail at their deadline.

        Where another member has all partitions, this chunker is idle and ready.
        """
        missing = ", ".join(consumer.missing_topics())
        if missing and not self._is_missing:
            log.error("topic has no partitions", extra={"topic": missing})
        elif self._is_missing and not missing:
            log.info("topic has partitions again")
        self._is_missing = bool(missing)
        if missing:
            how = "`python -m services.catalog.init` makes it"
            loop.failed(f"topic {missing}: has no partitions; {how}")
            loop.progressed()
        else:
            loop.worked()

    async def _handle_all(
        self,
        deliveries: Sequence[Delivery],
        consumer: EventConsumer,
        stop: Stop,
        loop: LoopHealth,
    ) -> bool:
        """Handle deliveries in their order; False if it is asked to stop before the last."""
        for delivery in deliveries:
            # A partition may be taken away while its batch is worked on: then another chunker
            # reads these records, and to begin their captures here would end them there.
            while delivery.partition in consumer.partitions:
                if stop.requested:
                    return False
                try:
                    await self._handle(delivery)
                    break
                except UnavailableError as err:
                    log.warning("event waits", extra={"detail": str(err)})
                    loop.put_off(err)
                    await asyncio.sleep(_AGAIN_SECONDS)
        return True

    async def _starts(self, partitions: frozenset[Partition]) -> Mapping[Partition, int]:
        starts = {}
        for partition in partitions:
            offset = await asyncio.to_thread(
                start_offset, self._catalog, partition.topic, partition.number
            )
            if offset is not None:
                starts[partition] = offset
        return starts

    async def _revoked(self, partitions: frozenset[Partition]) -> None:
        await asyncio.to_thread(self._attempts.drop_partitions, partitions)

    async def _handle(self, delivery: Delivery) -> None:
        match delivery:
            case BadRecord():
                await asyncio.to_thread(self._refuse, delivery.error, delivery.envelope)
            case LostRecords():
                log.error("records lost", extra={"partition": str(delivery.partition)})
                reason = "records of its capture are no longer in Kafka; take the snapshot again"
                await asyncio.to_thread(
                    self._attempts.fail_partition, delivery.partition, "records-lost", reason
                )
            case ReceivedEvent():
                try:
                    await self._handle_event(delivery)
                except BadEventError as err:
                    await asyncio.to_thread(self._refuse, err, delivery.envelope)

    async def _handle_event(self, received: ReceivedEvent) -> None:
        event = received.event
        if isinstance(event, CaptureStarted):
            await asyncio.to_thread(self._begin, received, event)
            return
        if not isinstance(event, _OF_A_CAPTURE):
            raise MalformedEventError(f"event {received.envelope.type}: not expected on this topic")
        attempt = self._attempts.find(event.capture) if event.capture else None
        if attempt is None:
            return  # its session has ended, or another chunker has it; or it is of no capture
        _authenticate(received, attempt.view.tenant, attempt.part)
        match event:
            case ExtentsChanged() | UnchangedSampled():
                await self._attempts.add_batch(attempt, event, received.value)
            case CaptureCompleted():
                await asyncio.to_thread(self._attempts.complete, attempt, event)
            case CaptureAborted():
                await asyncio.to_thread(self._attempts.fail, attempt, event.code, event.message)
            case TrackingLost():
                await asyncio.to_thread(self._note_lost, attempt, event)

    def _note_lost(self, attempt: Attempt, event: TrackingLost) -> None:
        """The agent compares everything: note why, and tell a person why it takes so long.

        A capture that began with differences only cannot go on: nobody knows what it left out.
        """
        if not attempt.started.complete:
            self._attempts.fail(attempt, TrackingLostError.code, event.reason)
            return
        part = attempt.part
        note_lost(self._catalog, attempt.id, event.reason)
        notice = NotificationRaised(
            kind=TrackingLostError.code,
            severity="warning",
            message=(
                f"volume {part.volume_name} on node {part.node}: its changes since the last "
                f"snapshot are not known, so everything is compared: {event.reason}"
            )[:MESSAGE_LENGTH_MAX],
            volume=part.volume_name,
            node=part.node,
            session=str(event.session),
        )
        tenant = attempt.view.tenant
        raise_notification(self._catalog, "chunker", tenant, part.volume_name, notice)

    def _begin(self, received: ReceivedEvent, event: CaptureStarted) -> None:
        reserved = self._attempts.reserved(event.session, event.capture)
        view = reserved.view if reserved else session_of_capture(self._catalog, event.capture)
        if view is None:
            if has_ended(self._catalog, event.session):
                return  # a late event; nothing is left that it could be authenticated by
            raise MalformedEventError(f"capture {event.capture}: nobody asked for it")
        part = next(part for part in view.parts if part.capture == event.capture)
        _authenticate(received, view.tenant, part)
        if view.state != "open":
            return
        if not _matches(view, part, event):
            reason = f"volume {part.volume_name}: something else was captured than was ordered"
            self._reject(view.session, "capture-mismatch", reason)
            return
        known = self._attempts.find(event.capture)
        if known and known.started.boot != event.boot:
            self._reject_restarted(view, part)
        elif reserved and not known:
            part = replace(part, attempt_number=1)
            self._begin_taken(reserved.attempt, view, part, event, received)
        elif not known:
            self._take(view, part, event, received)

    def _take(
        self, view: SessionView, part: PartView, event: CaptureStarted, received: ReceivedEvent
    ) -> None:
        """Take a part, and with it those of the session's other parts that we shall read."""
        taken = take_part(
            self._catalog,
            event.capture,
            event.boot,
            self._name,
            received.partition.number,
            received.offset,
            tracking_of(view, event),
            [one.capture for one in view.parts if one is not part and self.reads(one.volume)],
        )
        match taken:
            case Taken():
                part = replace(part, attempt_number=taken.number)
                self._attempts.reserve(view, taken.with_it)
                self._begin_taken(taken.attempt, view, part, event, received)
            case NotTaken(session_ended=False):
                # Read anew: who finished the part since our view of it may have died with it.
                session = view.session
                parts = read_session(self._catalog, session).parts
                if all(one.finished for one in parts):
                    self._attempts.seal(session)
            case WrongBoot():
                self._reject_restarted(view, part)

    def _begin_taken(
        self,
        attempt: UUID,
        view: SessionView,
        part: PartView,
        started: CaptureStarted,
        received: ReceivedEvent,
    ) -> None:
        try:
            self._attempts.begin(attempt, view, part, started, received.partition, received.offset)
        except UnavailableError:  # the part is taken anew when the event is handled again
            raise
        except BackcastError as err:  # the wrong key, a damaged base, an absurd size
            self._reject(view.session, err.code, f"volume {part.volume_name}: {err}")

    def _reject_restarted(self, view: SessionView, part: PartView) -> None:
        reason = (
            f"volume {part.volume_name}: the agent on node {part.node} was restarted while it "
            f"captured; take the snapshot again"
        )
        self._reject(view.session, "agent-restarted", reason)

    def _reject(self, session: UUID, code: str, message: str) -> None:
        reject_session(self._catalog, "chunker", session, code, message)

    def _refuse(self, error: BadEventError, claims: Envelope | None) -> None:
        self._refused.labels(error.code).inc()
        tenant = claims.tenant if claims else "default"
        log.warning("event refused", extra={"detail": str(error)})
        now = time.monotonic()
        if now < self._notified_at.get(error.code, -math.inf) + _NOTIFY_SECONDS_MIN:
            return
        self._notified_at[error.code] = now
        notice = NotificationRaised(kind=error.code, severity="warning", message=str(error)[:2000])
        raise_notification(self._catalog, "chunker", tenant, BLOCK_CHANGES, notice)


def _authenticate(received: ReceivedEvent, tenant: str, part: PartView) -> None:
    """Refuse what the session's agent has not written (scenario 21)."""
    envelope = received.envelope
    claimed, expected = (envelope.tenant, envelope.subject), (tenant, str(part.volume))
    if claimed != expected or not is_authentic(part.token, envelope, received.value):
        raise MalformedEventError(
            f"event {envelope.event_id} of capture {part.capture}: "
            f"tenant, volume or MAC are not those of its session"
        )


def _matches(view: SessionView, part: PartView, event: CaptureStarted) -> bool:
    return (
        (event.session, event.tenant, event.group, event.volume, event.node)
        == (view.session, view.tenant, view.group_id, part.volume, part.node)
        and event.base in (None, view.base)
        and (event.complete or (event.base == view.base is not None and view.is_trusted))
        and event.complete == (event.tracking == "none")
        and event.chunk_size_bytes == CHUNK_SIZE_BYTES
    )
