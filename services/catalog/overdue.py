"""Ends overdue sessions and leases, so that the dead hold nothing back, and revoked ones."""

import logging
from collections.abc import Callable

from libs.catalogdb.access.tokens import reject_begun_with_revoked
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import reject_overdue
from libs.catalogdb.snapshots.leases import drop_overdue_leases
from libs.runtime.signals import Stop

log = logging.getLogger(__name__)


def end_overdue(catalog: Catalog, _stop: Stop, _progressed: Callable[[], None]) -> None:
    """One round. Being wrong about who is dead costs a retry, never data."""
    reject_overdue(catalog)
    reject_begun_with_revoked(catalog)
    dropped = drop_overdue_leases(catalog)
    if dropped:
        log.info("leases past their deadline", extra={"count": dropped})
