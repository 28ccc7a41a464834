"""The loop that verifies: each new snapshot soon, each old one again within a period.

A new snapshot is looked at structurally, and of it what its group's last verified one does not
share. An old one is looked at as a whole, with a sample of its frames. Damage that others met (a
restore, a chunker) is assessed first: which snapshots contain it?
"""

import logging
from collections.abc import Callable
from uuid import UUID

from libs.catalogdb.verification import Damaged, next_due
from libs.errors import NotFoundError
from libs.runtime.signals import Stop
from services.catalog.verification.verifier import (
    StoppedError,
    Thoroughness,
    VerificationProgress,
    Verifier,
)

log = logging.getLogger(__name__)


class VerificationLoop:
    """Verifies what is due. For one loop; several processes may repeat each other at worst.

    Args:
        verifier: does the work.
        period_seconds: each live snapshot is verified at least this often.
        sample: share of frames that is read when a snapshot is verified again.
    """

    def __init__(self, verifier: Verifier, period_seconds: float, sample: float) -> None:
        self._verifier = verifier
        self._period_seconds = period_seconds
        self._sample = sample
        #: Could not be verified; they wait until the others are through.
        self._failed: set[UUID] = set()

    def round(self, _stop: Stop, progressed: Callable[[], None]) -> None:
        """Verify until nothing is due."""
        try:
            while self.step(progressed):
                progressed()
        except StoppedError:
            return

    def step(self, progressed: Callable[[], None] = lambda: None) -> bool:
        """Name the snapshots with new damage, and verify one that is due; False if none is.

        Raises:
            BackcastError: the catalog or the store does not answer.
            StoppedError: the process is stopping.
        """
        self._verifier.assess()
        due = next_due(self._verifier.catalog, self._period_seconds, self._failed)
        if due is None:
            self._failed.clear()
            return False
        if due.demanded:
            how = Thoroughness("full")
        elif due.again:
            how = Thoroughness("sampled", self._sample, self._period_seconds / 2)
        else:
            how = Thoroughness("structural", 0, self._period_seconds, only_new=True)
        try:
            verdict = self._verifier.verify(
                due.tenant, due.session, how, VerificationProgress(progressed)
            )
        except NotFoundError:  # it has expired meanwhile
            return True
        except StoppedError:
            raise
        except Exception:  # the next round begins with another one
            self._failed.add(due.session)
            raise
        if isinstance(verdict, Damaged):
            log.error(
                "snapshot damaged",
                extra={"session": str(due.session), "damaged_bytes": verdict.damaged_bytes},
            )
        return True
