"""The loop that keeps the store small beyond collection: it sweeps orphans and rewrites packs."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from libs.errors import BackcastError
from libs.runtime.signals import Stop
from services.catalog.deletion.rewriter import Rewriter, RewriteTally
from services.catalog.deletion.sweeper import Sweeper, SweepTally

log = logging.getLogger(__name__)

#: Passes that were asked for and can be asked about; the oldest are forgotten first.
_REMEMBERED_MAX = 1000

State = Literal["waiting", "sweeping", "rewriting", "done", "failed"]


@dataclass(slots=True)
class UpkeepPass:
    """One sweep and one rewriting. Written by the loop's thread, and read by any."""

    state: State = "waiting"
    swept: SweepTally = field(default_factory=SweepTally)
    rewritten: RewriteTally = field(default_factory=RewriteTally)
    #: The first thing that went wrong; what does not depend on it was done nevertheless.
    failure: BackcastError | None = None
    #: Set when it is done or failed; never if the process stops before.
    ended: threading.Event = field(default_factory=threading.Event)


class Upkeep:
    """For one thread, apart from collection: reading block maps may take hours.

    Passes that are asked for are not durable: after a restart nobody knows them, and whoever asks
    again begins another, which goes on where the one before was stopped.

    Args:
        sweeper: deletes what the catalog does not need.
        rewriter: moves what mostly dead packs still hold.
    """

    def __init__(self, sweeper: Sweeper, rewriter: Rewriter) -> None:
        self.sweeper = sweeper
        self.rewriter = rewriter
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._next = UpkeepPass()
        self._asked: OrderedDict[UUID, UpkeepPass] = OrderedDict()

    def ask(self, id_: UUID) -> UpkeepPass:
        """Ask for a pass, which begins when the one that runs is over. Any thread may ask.

        The same id again is the same pass. All who ask before it begins share one: a pass that
        runs already may be past what they mean.
        """
        with self._lock:
            asked = self._asked.get(id_)
            if asked is None:
                asked = self._asked[id_] = self._next
                if len(self._asked) > _REMEMBERED_MAX:
                    self._asked.popitem(last=False)
                self._wake.set()
            return asked

    def run(self, stop: Stop, interval_seconds: float, progressed: Callable[[], None]) -> None:
        """Body of the thread; ``progressed`` is called while there is progress."""
        stop.call(self._wake.set)
        while True:
            with self._lock:
                self._wake.clear()
                current, self._next = self._next, UpkeepPass()
            if stop.requested:  # looked at after the wake-up was cleared, which may have been its
                return
            self._pass(current, stop, progressed)
            progressed()
            self._wake.wait(interval_seconds)

    def _pass(self, current: UpkeepPass, stop: Stop, progressed: Callable[[], None]) -> None:
        def sweep() -> SweepTally:
            return self.sweeper.run(lambda: stop.requested, progressed, current.swept)

        def rewrite() -> RewriteTally:
            return self.rewriter.run(lambda: stop.requested, progressed, current.rewritten)

        current.state = "sweeping"
        self._tried(sweep, current)
        current.state = "rewriting"
        self._tried(rewrite, current)
        if not stop.requested:
            current.state = "failed" if current.failure else "done"
            current.ended.set()

    def _tried(self, work: Callable[[], SweepTally | RewriteTally], current: UpkeepPass) -> None:
        try:
            tally = work()
        except BackcastError as err:
            current.failure = current.failure or err
            log.warning("upkeep put off", extra={"detail": str(err)})
        else:
            log.info("upkeep", extra={"done": str(tally)})
