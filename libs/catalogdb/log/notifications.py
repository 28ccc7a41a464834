"""Notifications: what a person may want to be told, appended to the log like every event."""

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.events.notifications import NotificationRaised


@idempotent
def raise_notification(
    catalog: Catalog, source: str, tenant: str, about: str, notice: NotificationRaised
) -> None:
    """Append a notification. Calling it again tells it twice at worst.

    Args:
        catalog: the catalog.
        source: the service that noticed.
        tenant: whom it concerns.
        about: name of what it is about; the stream key.
        notice: what to say.
    """
    with catalog.transaction() as tx:
        append(tx, source, [Entry(notice, tenant, about)])
