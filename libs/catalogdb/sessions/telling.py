"""What is told of sessions that were rejected: a notification, and lines in a service's log."""

import logging
from collections.abc import Iterable

from libs.catalogdb.log.log import Entry
from libs.catalogdb.notifications.opening import Finding, Kind
from libs.errors import CancelledError
from libs.events.snapshots import SnapshotRejected

log = logging.getLogger(__name__)


def finding_of(event: SnapshotRejected, tenant: str, group: str) -> Finding | None:
    """What is wrong with a group whose session was rejected, until its next one is sealed.

    None: a person cancelled the session, which is nothing wrong.
    """
    if event.code == CancelledError.code:
        return None
    return Finding(
        kind=Kind.SESSION_REJECTED,
        about=str(event.group),
        tenant=tenant,
        severity="error",
        message=f"group {group}: its last snapshot was not made: {event.code}: {event.message}",
        names={"group": group, "session": str(event.session)},
    )


def tell_rejected(entries: Iterable[Entry]) -> bool:
    """Log each session that was rejected, once the commit is certain; whether there was one."""
    rejected = False
    for entry in entries:
        if not isinstance(entry.event, SnapshotRejected):
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
