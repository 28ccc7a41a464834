"""One capture: from its order to its outcome.

Order of effects: what the tracker has learnt (such as a file of fingerprints) is durable before
CaptureCompleted is published, because from then on the session can be sealed. A crash before
CaptureCompleted leaves a capture that can never be sealed; a crash after it leaves a whole one
whose bytes the agent must still serve, so the coordinator rejects the session when the agent is
gone.
"""

import logging
import random
import threading
import time
from typing import Literal
from uuid import UUID

from libs.errors import BackcastError
from libs.runtime.threads import start_thread
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.publication import Publication, Sender
from services.change_capture.agent.reading import Reading, as_error
from services.change_capture.agent.window import Window
from services.change_capture.drivers.port import Driver, FrozenView

log = logging.getLogger(__name__)

State = Literal["reading", "complete", "aborted"]


class Capture:
    """A capture of this agent process. Its threads start with `start` and end by themselves.

    Args:
        order: what to capture.
        driver: knows the volume's changes.
        view: of the volume; the capture closes it, whatever becomes of it.
        boot: identifies this agent process.
        node: name of this node.
        window: keeps offered spans.
        sender: publishes its events.
        rng: picks the sample of what is believed unchanged.

    Raises:
        SourceError: the volume fails.
        BadInputError: the order's hints are not for this volume.
    """

    def __init__(  # noqa: PLR0913 -- one capture's surroundings
        self,
        order: CaptureOrder,
        driver: Driver,
        view: FrozenView,
        boot: UUID,
        node: str,
        window: Window,
        sender: Sender,
        rng: random.Random,
    ) -> None:
        self.order = order
        self.view = view
        try:
            self._tracker = driver.tracker(order.source(), self.view)
        except BaseException:
            self.view.close()
            raise
        self.state: State = "reading"
        self.reason: BackcastError | None = None
        self.last_used = time.monotonic()
        self.boot = boot
        self._node = node
        self._window = window
        self._publication = Publication(order, window, sender)
        self._reading = Reading(order, self.view, self._tracker, window, self._publication, rng)
        self._thread: threading.Thread | None = None
        self._thread_count = 1

    def start(self, thread_count: int) -> None:
        """Begin to read."""
        self._thread_count = thread_count
        self._thread = start_thread(f"capture-{self.order.capture}", self._run, daemon=True)

    def join(self) -> None:
        """Wait until all is read and published, or the capture has failed."""
        if self._thread:
            self._thread.join()

    def stop(self) -> None:
        """End it, whatever it is doing, and let go of the volume; blocks until its threads have."""
        self._window.stop(self.order.capture)
        self.join()
        self.view.close()
        self._window.forget(self.order.capture)

    def settle(self, *, sealed: bool) -> None:
        """Tell the tracker the outcome, once the capture is stopped."""
        self._tracker.settle(sealed=sealed)

    def touch(self) -> None:
        """Note that somebody still needs this capture."""
        self.last_used = time.monotonic()

    @property
    def read_bytes(self) -> int:
        """Bytes read so far."""
        return self._reading.read_bytes

    def _run(self) -> None:
        try:
            self._capture()
            self.state = "complete"
        except Exception as err:  # noqa: BLE001 -- whatever it is, the session must hear of it
            self._abort(as_error(self.order.path, err))

    def _capture(self) -> None:
        begun, reading = time.monotonic(), self._reading
        try:
            self._publication.start(self._node, self.boot, self.view, self._tracker)
            reading.run(self._thread_count)
            seconds = time.monotonic() - begun
            completed = self._publication.complete(
                self.view, reading.read_bytes, reading.changed_bytes, seconds
            )
            self._tracker.finish()
            self._publication.send_last(completed)
        finally:
            self._tracker.close()

    def _abort(self, err: BackcastError) -> None:
        log.warning(
            "capture aborted", extra={"capture": str(self.order.capture), "detail": str(err)}
        )
        self.reason = err
        self.state = "aborted"
        self._window.stop(self.order.capture)
        self._publication.abort(err)
