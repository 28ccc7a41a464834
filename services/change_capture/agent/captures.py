"""The captures of this agent process: begin, look up, settle, and let go of what nobody settles."""

import logging
import random
import threading
import time
from collections.abc import Mapping
from uuid import UUID

from libs.errors import BackcastError, NotFoundError
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.publication import Sender
from services.change_capture.agent.sampling import chance_of_its_own
from services.change_capture.agent.window import Window
from services.change_capture.barrier.barrier import Barriers
from services.change_capture.drivers.port import Driver, FrozenView
from services.change_capture.drivers.table import find_driver

log = logging.getLogger(__name__)


class AgentCaptures:
    """All captures since this process started. Thread-safe.

    Args:
        boot: identifies this agent process.
        node: name of this node.
        drivers: name → driver.
        barriers: has the frozen views of sessions with a barrier.
        window: keeps offered spans.
        sender: publishes the events of captures.
        scan_thread_count: threads per capture.
        outcome_timeout_seconds: a capture that nobody needed for so long is let go.
        rng: decides which unchanged chunks are sampled; seeded only where a run must be repeatable.
    """

    def __init__(  # noqa: PLR0913 -- the agent's surroundings
        self,
        boot: UUID,
        node: str,
        drivers: Mapping[str, Driver],
        barriers: Barriers,
        window: Window,
        sender: Sender,
        scan_thread_count: int,
        outcome_timeout_seconds: float,
        rng: random.Random | None = None,
    ) -> None:
        self.boot = boot
        self._node = node
        self.drivers = drivers
        self.barriers = barriers
        self._window = window
        self._sender = sender
        self._scan_thread_count = scan_thread_count
        self._outcome_timeout_seconds = outcome_timeout_seconds
        self._rng = random.SystemRandom() if rng is None else rng
        self._captures: dict[UUID, Capture] = {}
        self._lock = threading.Lock()

    def begin(self, order: CaptureOrder) -> Capture:
        """Begin a capture; a second order for the same one returns the running one.

        Another capture of the same volume is superseded and stopped: its session has ended, or the
        coordinator would not have opened a new one.

        Raises:
            SourceError: the volume cannot be opened.
            BadInputError: no such driver, or hints that are not for this volume.
        """
        driver = find_driver(self.drivers, order.driver)
        with self._lock:
            running = self._captures.get(order.capture)
            if running:
                return running
            # First, as it may fail: what it supersedes must then be known, to be stopped later.
            capture = Capture(
                order,
                driver,
                self._view(order, driver),
                self.boot,
                self._node,
                self._window,
                self._sender,
                chance_of_its_own(self._rng),
            )
            outdated = [c for c in self._captures.values() if c.order.volume == order.volume]
            for old in outdated:
                del self._captures[old.order.capture]
            self._captures[order.capture] = capture
            capture.start(self._scan_thread_count)
        for old in outdated:
            old.stop()
        return capture

    def _view(self, order: CaptureOrder, driver: Driver) -> FrozenView:
        """The volume as it was cut, or, without a barrier, as it is now."""
        if order.cut_attempt:
            return self.barriers.take_view(order.session, order.cut_attempt, order.volume)
        return driver.view(order.tenant, order.path)

    def find(self, capture: UUID) -> Capture | None:
        """The capture, if this process has it. It never waits for a volume that is being opened."""
        return self._captures.get(capture)  # one step of the interpreter, so it needs no lock

    def get(self, capture: UUID) -> Capture:
        """The capture.

        Raises:
            NotFoundError: this process does not have it (any more).
        """
        found = self.find(capture)
        if found is None:
            raise NotFoundError(
                f"capture {capture}: not known to this agent process; was the agent restarted?"
            )
        return found

    def settle(self, capture: UUID, *, sealed: bool, distrusted: bool = False) -> None:
        """Act on the outcome of a capture's session; harmless when repeated.

        Args:
            capture: the capture.
            sealed: whether its session was sealed.
            distrusted: whether what its tracker said was found untrue.
        """
        with self._lock:
            settled = self._captures.pop(capture, None)
        if settled is None:
            return
        self.barriers.forget(settled.order.session)
        settled.stop()
        with self._lock:
            # The next capture of the volume may have begun: its files are not ours to judge.
            if not any(c.order.volume == settled.order.volume for c in self._captures.values()):
                self._settle_trackers(settled, sealed=sealed, distrusted=distrusted)

    def _settle_trackers(self, settled: Capture, *, sealed: bool, distrusted: bool) -> None:
        settled.settle(sealed=sealed)
        for name, driver in self.drivers.items():
            # Of a base that another driver has made since, nothing is known.
            if distrusted or (sealed and name != settled.order.driver):
                driver.forget(settled.order.volume)

    def all(self) -> list[Capture]:
        """All captures that this process has now."""
        with self._lock:
            return list(self._captures.values())

    def drop_forgotten(self) -> None:
        """Let go of captures that nobody asks for, or they would fill the window for ever.

        While its session is open, a capture is asked for every few seconds. Fingerprint files stay:
        the next order says which session became the base.
        """
        self.barriers.drop_forgotten()
        now = time.monotonic()
        with self._lock:
            forgotten = [
                c
                for c in self._captures.values()
                if now - c.last_used > self._outcome_timeout_seconds
            ]
            for capture in forgotten:
                del self._captures[capture.order.capture]
        for capture in forgotten:
            log.info("capture let go", extra={"capture": str(capture.order.capture)})
            capture.stop()

    def stop_all(self) -> None:
        """Stop every capture, when the process ends."""
        with self._lock:
            captures, self._captures = list(self._captures.values()), {}
        for capture in captures:
            try:
                capture.stop()
            except BackcastError as err:
                log.warning("capture not stopped cleanly", extra={"detail": str(err)})
        self.barriers.close()
