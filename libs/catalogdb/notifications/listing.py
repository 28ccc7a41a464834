"""What is wrong now: the open notifications, for people and programs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows
from libs.events.notifications import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something that is wrong now."""

    notification: UUID
    kind: str
    #: A name that never changes, of one thing of this kind.
    about: str
    #: '*': it concerns the whole installation.
    tenant: str
    severity: Severity
    message: str
    #: As people call what it is about; None: it is about no such thing.
    group: str | None = None
    volume: str | None = None
    node: str | None = None
    store: str | None = None
    #: Session in which it was found last, as text.
    session: str | None = None
    opened_at: datetime
    #: When it was last found to be so.
    seen_at: datetime


def list_notifications(catalog: Catalog, tenant: str | None = None) -> list[Notification]:
    """What is wrong now, errors first, then the oldest first; [] means that nothing is known.

    Args:
        catalog: the catalog, in any service's role.
        tenant: whose; None: those of all tenants and of the installation.
    """
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            _notification,
            """SELECT notification, kind, about, tenant, severity, message, names, opened_at,
                      seen_at
               FROM notification WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s
               ORDER BY severity <> 'error', opened_at, kind, about""",
            {"tenant": tenant},
        )


def _notification(names: dict[str, Any], **columns: Any) -> Notification:
    return Notification(**columns, **names)
