"""What the log of a service says of sessions that it ended; called once the commit is certain."""

import logging
from collections.abc import Iterable

from libs.catalogdb.log.log import Entry
from libs.events.snapshots import SnapshotRejected

log = logging.getLogger(__name__)


def tell_rejected(entries: Iterable[Entry | None]) -> bool:
    """Log each session that was rejected; whether there was one."""
    rejected = False
    for entry in entries:
        if entry is None or not isinstance(entry.event, SnapshotRejected):
            continue
        rejected = True
        about = {
            "tenant": entry.tenant,
            "group_id": str(entry.event.group),
            "session": str(entry.event.session),
            "code": entry.event.code,
            "detail": entry.event.message,
        }
        log.warning("session rejected", extra=about)
    return rejected
