"""Opening and resolving notifications: a row for each thing that is wrong now, and its events.

A row is opened and resolved by the transaction that decides it, or that learns of it, and the event
is appended by the same transaction. So a crash leaves both or neither. Repeating a transaction does
no harm: what is open already is only seen again, and what is resolved stays so.

Nothing is told in a life of the server that was not compared with the store. Whoever may act then
(`is_compared`) leaves the row as it is. `libs.catalogdb.notifications.reviewing` does it later.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from psycopg.types.json import Jsonb

from libs.catalogdb.log.log import Entry
from libs.catalogdb.pool import Tx
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.notifications import (
    NotificationChanged,
    NotificationOpened,
    NotificationResolved,
    Severity,
)
from libs.ids import uuid7

#: Tenant of what concerns the whole installation.
EVERYBODY = "*"
#: Open notifications of damage at most, so that a store that lost everything does not write a row
#: and an event for each of its packs. What is beyond is opened when others are resolved. Everything
#: else is bounded by the number of groups, nodes or stores.
OPEN_COUNT_MAX = 1000


class Kind(StrEnum):
    """Everything that a notification can be opened for; the comment says what it is about."""

    #: A group's newest session was rejected. About the group's id.
    SESSION_REJECTED = "session-rejected"
    #: Items of a live pack, or all of it, are readable in no copy. About the generation.
    DAMAGE = "damage"
    #: Objects could not be deleted. About the loop that deletes.
    DELETION_FAILED = "deletion-failed"
    #: The brake holds back what would be given up. About the kind of its suspects.
    BRAKE_ENGAGED = "brake-engaged"
    #: There is hardly room where an agent keeps its state. About ``node/NAME``.
    DISK_FULL = "disk-full"
    #: The primary store takes nothing more. About the store.
    STORE_FULL = "store-full"
    #: No agent has announced itself for a node. About the node.
    NODE_SILENT = "node-silent"
    #: No volume leads to a VM of a node. About ``vm/NODE/SOCKET``.
    VM_UNPROTECTED = "vm-unprotected"
    #: No chunker takes captures. About ``chunkers``.
    NO_CHUNKER = "no-chunker"
    #: A store does not answer the catalog service. About the store.
    STORE_UNREACHABLE = "store-unreachable"
    #: The second store lacks what has been in the primary for too long. About the store.
    COPY_BEHIND = "copy-behind"
    #: Copies of live packs are damaged or gone at a store. About the store.
    COPIES_DAMAGED = "copies-damaged"
    #: The store does not know what the catalog has decided lately. About the catalog.
    CHECKPOINT_OVERDUE = "checkpoint-overdue"
    #: Kafka does not have what the log has. About the topic.
    RELAY_BEHIND = "relay-behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong."""

    kind: Kind
    #: A name that never changes, and that only one thing of this kind has.
    about: str
    #: Whom it concerns; `EVERYBODY`: who runs the installation.
    tenant: str
    severity: Severity
    #: For people. What differs at every look, such as an age, does not belong in it: each other
    #: message is another event.
    message: str
    #: What it is about, as people call it: group, volume, node, store, and the session.
    names: Mapping[str, str]


def open_notification(tx: Tx, finding: Finding) -> list[Entry]:
    """Open a notification, or see it again; what to append of it to the log.

    Call it after everything that it reports was written: who resolves it locks the row first and
    looks afterwards whether it still holds, so one of both sees the other.
    """
    message = finding.message[:MESSAGE_LENGTH_MAX]
    values = {
        "kind": finding.kind,
        "about": finding.about,
        "tenant": finding.tenant,
        "severity": finding.severity,
        "message": message,
        "names": Jsonb(dict(finding.names)),
        "most": OPEN_COUNT_MAX if finding.kind is Kind.DAMAGE else None,
    }
    event: type[NotificationOpened | NotificationChanged] | None
    while True:
        seen = tx.execute(_SEE, values).fetchone()
        if seen:
            notification, is_other = seen
            event = NotificationChanged if is_other else None
            break
        row = tx.execute(_OPEN, {**values, "notification": uuid7()}).fetchone()
        if row:
            notification, event = row[0], NotificationOpened
            break
        if tx.execute(_IS_FULL, values).fetchone() is not None:
            return []
        # Somebody else has opened it meanwhile.
    if event is None:
        return []
    told = event(
        notification=str(notification),
        kind=finding.kind,
        about=finding.about,
        severity=finding.severity,
        message=message,
        **finding.names,
    )
    return [Entry(told, finding.tenant, finding.about)]


def see_notification(tx: Tx, kind: Kind, about: str) -> bool:
    """What an open notification says still holds; False: none is open."""
    seen = tx.execute(
        "UPDATE notification SET seen_at = now() WHERE kind = %s AND about = %s", [kind, about]
    )
    return bool(seen.rowcount)


def resolve_notifications(tx: Tx, kind: Kind, about: Collection[str], reason: str) -> list[Entry]:
    """Resolve what is open of a kind; what to append of it to the log.

    The caller has written what ends it before, or holds a lock that keeps it from coming back.

    Args:
        tx: the transaction that knows that it is over.
        kind: of the notifications.
        about: what they are about; those of which none is open change nothing.
        reason: why it is over, for people.
    """
    if not about:
        return []
    rows = tx.execute(
        """WITH over AS (SELECT kind, about FROM notification
                         WHERE kind = %s AND about = ANY(%s) ORDER BY about FOR UPDATE)
           DELETE FROM notification n USING over o
           WHERE n.kind = o.kind AND n.about = o.about
           RETURNING n.notification, n.about, n.tenant, n.names,
                     greatest(0, extract(epoch FROM now() - n.opened_at))::float8""",
        [kind, list(about)],
    ).fetchall()
    return [
        _resolved(kind, notification, name, tenant, names, seconds, reason)
        for notification, name, tenant, names, seconds in rows
    ]


def resolve_others(tx: Tx, kind: Kind, keep: Collection[str], reason: str) -> list[Entry]:
    """Resolve what is open of a kind, except what is about these; what to append to the log."""
    rows = tx.execute(
        "SELECT about FROM notification WHERE kind = %s AND about <> ALL(%s)", [kind, list(keep)]
    ).fetchall()
    return resolve_notifications(tx, kind, [about for (about,) in rows], reason)


def lock_notifications(tx: Tx, kind: Kind, about: Collection[str]) -> set[str]:
    """Lock those that are open; who finds the same thing wrong now waits, and opens it anew.

    A statement that looks afterwards whether something is over sees what was committed before.
    """
    rows = tx.execute(
        """SELECT about FROM notification WHERE kind = %s AND about = ANY(%s)
           ORDER BY about FOR UPDATE""",
        [kind, list(about)],
    ).fetchall()
    return {about for (about,) in rows}


def is_compared(tx: Tx) -> bool:
    """Whether anything may be told: this life of the server was compared with the store."""
    row = tx.execute("SELECT life = catalog_life() FROM incarnation").fetchone()
    return bool(row and row[0])


def _resolved(  # noqa: PLR0913 -- the columns of a row
    kind: Kind,
    notification: UUID,
    about: str,
    tenant: str,
    names: Mapping[str, str],
    seconds: float,
    reason: str,
) -> Entry:
    event = NotificationResolved(
        notification=str(notification),
        kind=kind,
        about=about,
        reason=reason[:MESSAGE_LENGTH_MAX],
        seconds=seconds,
        **{name: value for name, value in names.items() if name != "session"},
    )
    return Entry(event, tenant, about)


_SEE = """
    UPDATE notification n
    SET severity = %(severity)s, message = %(message)s, names = %(names)s, seen_at = now()
    FROM (SELECT severity, message FROM notification
          WHERE kind = %(kind)s AND about = %(about)s FOR UPDATE) old
    WHERE n.kind = %(kind)s AND n.about = %(about)s
    RETURNING n.notification, (old.severity, old.message) IS DISTINCT FROM
                              (n.severity, n.message)"""

_OPEN = """
    INSERT INTO notification (kind, about, tenant, notification, severity, message, names)
    SELECT %(kind)s, %(about)s, %(tenant)s, %(notification)s, %(severity)s, %(message)s, %(names)s
    WHERE %(most)s::int IS NULL
       OR (SELECT count(*) FROM notification WHERE kind = %(kind)s) < %(most)s
    ON CONFLICT (kind, about) DO NOTHING RETURNING notification"""

_IS_FULL = """
    SELECT FROM notification WHERE kind = %(kind)s HAVING count(*) >= %(most)s"""
