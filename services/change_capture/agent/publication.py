"""What a capture publishes: its start, numbered batches with their digest, its end.

Order of effects: a buffer is offered to the window before its batch is published.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from libs.errors import BackcastError
from libs.events.batches import BatchesDigest
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
    TrackingLost,
    UnchangedSampled,
)
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.registry import Event
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import pack_runs, runs_of
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.regions import Regions
from services.change_capture.agent.sampling import SampledChunk
from services.change_capture.agent.scanner import Span
from services.change_capture.agent.window import Window
from services.change_capture.drivers.port import FrozenView, Tracker

log = logging.getLogger(__name__)


class Sender(Protocol):
    """Where captures publish their events: `publishing.EventSender`."""

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        """Publish, in the order of calls; return the encoded value; need not wait for a broker."""
        ...

    def flush(self, order: CaptureOrder) -> None:
        """Return when the broker has everything, or raise."""
        ...


class Publication:
    """The events of one capture. Thread-safe.

    Args:
        order: what is captured.
        window: keeps offered spans.
        sender: publishes.
    """

    def __init__(self, order: CaptureOrder, window: Window, sender: Sender) -> None:
        self._order = order
        self._about: dict[str, Any] = {
            "session": order.session,
            "capture": order.capture,
            "volume": order.volume,
        }
        self._window = window
        self._sender = sender
        self._digest = BatchesDigest()
        self._lock = threading.Lock()

    def start(self, node: str, boot: UUID, view: FrozenView, tracker: Tracker) -> None:
        """Say what is captured, and by what its changes are known."""
        order = self._order
        lost = tracker.lost
        started = CaptureStarted(
            **self._about,
            tenant=order.tenant,
            group=order.group,
            node=node,
            base=order.base,
            boot=boot,
            complete=tracker.trust == "everything",
            tracking="none" if tracker.trust == "everything" else tracker.trust,
            volume_size_bytes=view.size_bytes,
            chunk_size_bytes=CHUNK_SIZE_BYTES,
        )
        self._sender.send(order, started)
        if lost:
            reason = f"{lost.reason}: {lost.message}"[:MESSAGE_LENGTH_MAX]
            self._sender.send(order, TrackingLost(**self._about, reason=reason))

    def emit(self, span: Span, regions: Regions, still_in: int | None = None) -> None:
        """Publish a span, and take its buffer over.

        Args:
            span: of the calling thread.
            regions: know what is settled.
            still_in: the region that the calling thread has not finished, if any.
        """
        with self._lock:
            settled_below = regions.emitted(still_in)
            if not span.indexes and not span.zeros:
                self._window.give_back(span.buffer)
                return
            batch = self._digest.count
            event = ExtentsChanged(
                **self._about,
                batch=batch,
                runs=pack_runs(runs_of(span.indexes)),
                ids=b"".join(span.ids),
                tags=b"",  # all of the tenant's own domain
                zero_runs=pack_runs(runs_of(span.zeros)),
                settled_below=settled_below,
            )
            if span.indexes:
                self._window.offer(self._order.capture, batch, span.buffer)
            else:
                self._window.give_back(span.buffer)
            self._digest.add(self._sender.send(self._order, event))

    def add_sample(self, sample: Sequence[SampledChunk]) -> None:
        """Publish chunks that the tracker believes unchanged, ascending; at most some hundreds."""
        if not sample:
            return
        with self._lock:
            event = UnchangedSampled(
                **self._about,
                batch=self._digest.count,
                runs=pack_runs(runs_of(one.index for one in sample if one.id)),
                ids=b"".join(one.id for one in sample if one.id),
                zero_runs=pack_runs(runs_of(one.index for one in sample if not one.id)),
            )
            self._digest.add(self._sender.send(self._order, event))

    def complete(
        self, view: FrozenView, read_bytes: int, changed_bytes: int, seconds: float
    ) -> CaptureCompleted:
        """What vouches for the batches; `send_last` publishes it."""
        return CaptureCompleted(
            **self._about,
            batches=self._digest.count,
            batches_digest=self._digest.digest(),
            read_bytes=read_bytes,
            changed_bytes=changed_bytes,
            consistency=view.consistency(),
            seconds=seconds,
        )

    def send_last(self, completed: CaptureCompleted) -> None:
        """Publish that all is published; returns when the broker has everything."""
        self._sender.send(self._order, completed)
        self._sender.flush(self._order)

    def abort(self, err: BackcastError) -> None:
        """Publish that the capture was given up, if that can be published."""
        event = CaptureAborted(**self._about, code=err.code, message=str(err)[:MESSAGE_LENGTH_MAX])
        try:
            self._sender.send(self._order, event)
            self._sender.flush(self._order)
        except BackcastError as again:  # the coordinator asks for the state too: nothing is lost
            log.warning("abort not published", extra={"detail": str(again)})
