"""What the log tells of notifications."""

from libs.catalogdb.log.log import read_log
from libs.events.codec import decode
from libs.events.notifications import (
    NotificationChanged,
    NotificationOpened,
    NotificationResolved,
)
from libs.events.topics import NOTIFICATIONS
from tests.support.catalog import CatalogSite

Told = NotificationOpened | NotificationChanged | NotificationResolved


def told(site: CatalogSite) -> list[Told]:
    """The events, in their order."""
    events = []
    for one in read_log(site.catalog, NOTIFICATIONS, 0, 1000):
        event = decode(one.envelope.type, one.envelope.version, one.value)
        if isinstance(event, Told):
            assert one.envelope.subject == event.about
            events.append(event)
    return events


def told_of(site: CatalogSite) -> list[str]:
    """The same in words: ``opened damage``."""
    return [
        f"{type(event).__name__.removeprefix('Notification').lower()} {event.kind}"
        for event in told(site)
    ]
