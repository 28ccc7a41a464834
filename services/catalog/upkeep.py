"""The loop that keeps the store small beyond collection: it sweeps orphans and rewrites packs."""

import logging
from collections.abc import Callable

from libs.errors import BackcastError
from libs.runtime.signals import Stop
from services.catalog.rewriter import Rewriter, RewriteTally
from services.catalog.sweeper import Sweeper, SweepTally

log = logging.getLogger(__name__)


class Upkeep:
    """For one thread, apart from collection: reading block maps may take hours.

    Args:
        sweeper: deletes what the catalog does not need.
        rewriter: moves what mostly dead packs still hold.
    """

    def __init__(self, sweeper: Sweeper, rewriter: Rewriter) -> None:
        self._sweeper = sweeper
        self._rewriter = rewriter

    def run(self, stop: Stop, interval_seconds: float, progressed: Callable[[], None]) -> None:
        """Body of the thread; ``progressed`` is called while there is progress."""
        while not stop.requested:
            for work in (self._sweeper.run, self._rewriter.run):
                self._tried(work, stop, progressed)
            progressed()
            stop.wait(interval_seconds)

    def _tried(
        self,
        work: Callable[[Callable[[], bool], Callable[[], None]], SweepTally | RewriteTally],
        stop: Stop,
        progressed: Callable[[], None],
    ) -> None:
        try:
            tally = work(lambda: stop.requested, progressed)
        except BackcastError as err:
            log.warning("upkeep put off", extra={"detail": str(err)})
        else:
            log.info("upkeep", extra={"done": str(tally)})
