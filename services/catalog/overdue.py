"""Ends overdue sessions and readers, so that the dead hold nothing back."""

import logging
from collections.abc import Callable

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import reject_overdue
from libs.catalogdb.snapshots.readers import drop_overdue_readers
from libs.errors import BackcastError
from libs.runtime.signals import Stop

log = logging.getLogger(__name__)


def end_overdue(
    catalog: Catalog, stop: Stop, interval_seconds: float, progressed: Callable[[], None]
) -> None:
    """Body of a thread. Being wrong about who is dead costs a retry, never data."""
    while not stop.wait(interval_seconds):
        try:
            for session in reject_overdue(catalog):
                log.info("session past its deadline", extra={"session": str(session)})
            dropped = drop_overdue_readers(catalog)
            if dropped:
                log.info("readers past their deadline", extra={"count": dropped})
        except BackcastError as err:
            log.warning("overdue sessions and readers not ended", extra={"detail": str(err)})
        progressed()
