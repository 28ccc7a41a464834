"""The loop that keeps the store small beyond collection: it sweeps orphans and rewrites packs."""

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from libs.errors import BackcastError, InvariantViolation
from libs.rest.waiting import Bells
from libs.runtime.signals import Stop
from libs.runtime.threads import is_expected
from services.catalog.deletion.rewriter import Rewriter, RewriteTally
from services.catalog.deletion.sweeper import Sweeper, SweepTally

log = logging.getLogger(__name__)

#: Passes that were asked for and can be asked about; the oldest are forgotten first.
_REMEMBERED_MAX = 1000

#: What requests wait for. Few do at the same time, so each of them looks whether its pass has.
ENDED = "ended"

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
    """For one loop, apart from collection: reading block maps may take hours.

    Passes that are asked for are not durable: after a restart nobody knows them, and whoever asks
    again begins another, which goes on where the one before was stopped.

    Args:
        sweeper: deletes what the catalog does not need.
        rewriter: moves what mostly dead packs still hold.
        other_sweepers: sweep the other stores; surveys leave them out.
    """

    def __init__(
        self, sweeper: Sweeper, rewriter: Rewriter, other_sweepers: Sequence[Sweeper] = ()
    ) -> None:
        self.sweeper = sweeper
        self._sweepers = [sweeper, *other_sweepers]
        self.rewriter = rewriter
        self._lock = threading.Lock()
        #: Set when somebody has asked for a pass.
        self.wake = threading.Event()
        #: Of the requests that wait for a pass to end.
        self.bells: Bells[str] = Bells()
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
                self.wake.set()
            return asked

    def round(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """One pass; ``progressed`` is called while there is progress.

        Raises:
            Exception: an error that nobody foresaw; whoever asked for the pass is told too.
        """
        with self._lock:
            self.wake.clear()
            current, self._next = self._next, UpkeepPass()
        if stop.requested:  # looked at after the wake-up was cleared, which may have been its
            return
        self._pass(current, stop, progressed)

    def _pass(self, current: UpkeepPass, stop: Stop, progressed: Callable[[], None]) -> None:
        def sweep(sweeper: Sweeper) -> SweepTally:
            return sweeper.run(lambda: stop.requested, progressed, current.swept)

        def rewrite() -> RewriteTally:
            return self.rewriter.run(lambda: stop.requested, progressed, current.rewritten)

        current.state = "sweeping"
        broken = None
        for sweeper in self._sweepers:
            broken = self._tried(functools.partial(sweep, sweeper), current) or broken
        current.state = "rewriting"
        broken = self._tried(rewrite, current) or broken
        if not stop.requested:
            current.state = "failed" if current.failure else "done"
            current.ended.set()
            self.bells.ring(ENDED)
        if broken:
            raise broken

    def _tried(
        self, work: Callable[[], SweepTally | RewriteTally], current: UpkeepPass
    ) -> Exception | None:
        """The error that nobody foresaw, if it ended with one."""
        try:
            tally = work()
        except BackcastError as err:
            current.failure = current.failure or err
            log.warning("upkeep put off", extra={"detail": str(err)})
            return None if is_expected(err) else err
        except Exception as err:
            log.exception("upkeep failed")
            unforeseen = InvariantViolation(f"{type(err).__name__} in upkeep; see the log")
            current.failure = current.failure or unforeseen
            return err
        log.info("upkeep", extra={"done": str(tally)})
        return None
