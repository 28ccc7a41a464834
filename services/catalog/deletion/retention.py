"""Retention: expires what groups' rules do not keep, unless clock or rule look like a mistake."""

import logging
import time
from collections.abc import Callable
from datetime import datetime

from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots.expiry import Expired, expire_overdue
from libs.catalogdb.snapshots.retention import (
    ClockState,
    hold_back_overdue,
    observe_clock,
    overdue_snapshots,
)

log = logging.getLogger(__name__)

#: Snapshots that are asked for at a time.
_PAGE_COUNT = 100


class Retention:
    """Looks at the clock, then at the snapshots. For one thread; several processes may run it.

    Args:
        catalog: the catalog, in the catalog service's role.
        monotonic: seconds by a clock that never jumps.
    """

    def __init__(self, catalog: Catalog, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._monotonic = monotonic
        #: The trusted time as it was seen last, and when it was first seen.
        self._seen: datetime | None = None
        self._seen_at = 0.0

    def round(self) -> int:
        """Expire everything that is overdue now and not held back; how many snapshots.

        Raises:
            BackcastError: the catalog does not answer or must be reconciled first.
        """
        if self._observe().halted:
            return 0
        if hold_back_overdue(self._catalog):
            log.warning("most points of a group would expire at once: they are held back")
        count, last = 0, None
        while page := overdue_snapshots(self._catalog, _PAGE_COUNT, last):
            for overdue in page:
                outcome = expire_overdue(self._catalog, overdue.tenant, overdue.session)
                count += isinstance(outcome, Expired)
            last = page[-1]
        if count:
            log.info("snapshots expired", extra={"count": count})
        return count

    def _observe(self) -> ClockState:
        now = self._monotonic()
        state = observe_clock(self._catalog, self._seen, now - self._seen_at)
        if state.trusted_at != self._seen:
            self._seen, self._seen_at = state.trusted_at, now
        if state.halted:
            log.warning(
                "the clock of Postgres has jumped: nothing expires",
                extra={"trusted_at": state.trusted_at, "server_at": state.server_at},
            )
        return state
