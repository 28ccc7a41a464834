"""The brake: what would be given up because something is not there waits until a person has looked.

A listing without its objects, a catalog without its rows and a rule that keeps nothing look like
work to do, and doing it deletes everything. So each thing that would be given up by absence is
first a *suspect*. When the suspects of one kind are too large a share, a *halt* stands, and nothing
of that kind is given up. A person looks, and accepts exactly what they were shown: the name of a
halt has a digest of its suspects, so that a name that was read yesterday does not accept what came
since. A halt also goes by itself when its suspects do: the objects are seen again, the rule is
changed.

Suspects and halts are rows, so a restart forgets neither. A notification is open while a halt
stands.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications.opening import (
    EVERYBODY,
    Finding,
    open_notification,
    resolve_notifications,
    see_notification,
)
from libs.catalogdb.notifications.opening import Kind as NotificationKind
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import ConflictError, NotFoundError
from libs.sizes import human_bytes

#: Up to so many suspects pass, whatever their share: a few orphans of a crash are no disaster, and
#: of a store of ten packs one is a tenth.
PASSING_COUNT_MAX = 4
#: More than this share of live packs, or of their bytes, is too much to be gone or unknown at once.
SHARE_MAX = 0.05
#: No more suspects of a kind are written down: so many 32 MiB packs are 3 TiB. What is beyond waits
#: for the next look.
SUSPECTS_MAX = 100_000
#: Suspects that are named where a halt is shown.
_EXAMPLES_MAX = 20


class Kind(StrEnum):
    """What is held back. The values are parts of names, and what notifications are about."""

    #: Live packs whose objects the store does not have: reconciling would bury them.
    MISSING = "packs-missing"
    #: Objects that no row of the catalog names: a sweep would delete them.
    UNKNOWN = "objects-unknown"
    #: Live packs that nobody gave up and no row refers to: collection would delete them.
    UNCLAIMED = "packs-unclaimed"
    #: Most points of a group, which its retention does not keep: they would expire at once.
    OVERDUE = "points-overdue"
    #: The time that retention goes by.
    CLOCK = "clock-jump"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of packs, objects or points, and their bytes."""

    count: int
    size_bytes: int

    def is_large_share_of(self, whole: "Amount") -> bool:
        """Whether a person should look before it is given up."""
        return self.count > PASSING_COUNT_MAX and (
            self.count > SHARE_MAX * whole.count or self.size_bytes > SHARE_MAX * whole.size_bytes
        )

    def __str__(self) -> str:
        return f"{self.count} ({human_bytes(self.size_bytes)})"


@dataclass(frozen=True, slots=True)
class Halt:
    """A brake that is on."""

    #: What a person accepts: the kind and a digest of its suspects.
    name: str
    kind: Kind
    since: datetime
    suspects: Amount
    message: str
    #: Some of the suspects: generations, object keys, or sessions.
    examples: Sequence[str]


def live_packs(tx: Tx) -> Amount:
    """All live packs."""
    found = one_row(
        tx,
        Amount,
        """SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS size_bytes
           FROM pack WHERE state = 'l'""",
    )
    assert found is not None
    return found


def suspect(tx: Tx, kind: Kind, items: Iterable[tuple[str, int]]) -> None:
    """Write down suspects, with their bytes; those that are known keep what is known of them."""
    named = sorted(items)
    tx.execute(
        """INSERT INTO suspect (kind, item, size_bytes)
           SELECT %(kind)s, item, size_bytes
           FROM unnest(%(items)s::text[], %(sizes)s::bigint[]) AS new (item, size_bytes)
           LIMIT greatest(0, %(most)s - (SELECT count(*) FROM suspect WHERE kind = %(kind)s))
           ON CONFLICT DO NOTHING""",
        {
            "kind": kind,
            "items": [item for item, _ in named],
            "sizes": [size for _, size in named],
            "most": SUSPECTS_MAX,
        },
    )


def clear(tx: Tx, kind: Kind, items: Sequence[str]) -> int:
    """Suspects that are none any more; how many there were."""
    return tx.execute(
        "DELETE FROM suspect WHERE kind = %s AND item = ANY(%s)", [kind, list(items)]
    ).rowcount


def keep_only(tx: Tx, kind: Kind, items: Iterable[tuple[str, int]]) -> None:
    """Make these, and no others, the suspects of a kind."""
    named = list(items)
    tx.execute(
        "DELETE FROM suspect WHERE kind = %s AND item <> ALL(%s)",
        [kind, [item for item, _ in named]],
    )
    suspect(tx, kind, named)


def judge(tx: Tx, kind: Kind, is_too_much: Callable[[Amount], bool], what: str) -> bool:
    """Whether the suspects of a kind are held back; turns the brake on or off, and tells of it.

    Args:
        tx: the caller's transaction.
        kind: which suspects.
        is_too_much: whether so many that nobody has accepted are held back.
        what: what they are, and what is not done with them, as a sentence for people.
    """
    found, digest = _unaccepted(tx, kind)
    if found.count == 0 or not is_too_much(found):
        if tx.execute("DELETE FROM halt WHERE kind = %s", [kind]).rowcount:
            _tell_over(tx, kind, "it went by itself")
        return False
    name = f"{kind}-{digest}"
    message = f"{what} Look at them; if they may go, run: backcast gc --accept {name}"
    begun = tx.execute(
        """INSERT INTO halt (kind, name, count, size_bytes, message) VALUES (%s, %s, %s, %s, %s)
           ON CONFLICT (kind) DO NOTHING""",
        [kind, name, found.count, found.size_bytes, message],
    ).rowcount
    if begun:
        append(tx, "catalog", open_notification(tx, _finding(kind, message)))
    else:  # its figures grow with every look: they are in the halt, and not told each time
        see_notification(tx, NotificationKind.BRAKE_ENGAGED, kind)
        tx.execute(
            "UPDATE halt SET name = %s, count = %s, size_bytes = %s, message = %s WHERE kind = %s",
            [name, found.count, found.size_bytes, message, kind],
        )
    return True


def read_halts(catalog: Catalog) -> list[Halt]:
    """The brakes that are on."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            _halt,
            """SELECT name, kind, halted_at AS since, count, size_bytes, message,
                      ARRAY(SELECT item FROM suspect s WHERE s.kind = h.kind AND NOT accepted
                            ORDER BY item LIMIT %s) AS examples
               FROM halt h ORDER BY halted_at, kind""",
            [_EXAMPLES_MAX],
        )


def _halt(kind: str, count: int, size_bytes: int, **columns: Any) -> Halt:
    return Halt(kind=Kind(kind), suspects=Amount(count, size_bytes), **columns)


def accept(catalog: Catalog, name: str, by: str) -> Kind:
    """Let go what a person was shown under a name; whoever held it back goes on at its next turn.

    One transaction. Repeating it is refused, as nothing is halted under the name any more.

    Args:
        catalog: the catalog.
        name: of the halt, as it was shown.
        by: name of whoever accepts.

    Raises:
        NotFoundError: nothing is halted under this name.
        ConflictError: there are other suspects now than were shown.
    """
    with catalog.transaction() as tx:
        # No suspect comes between the look at them and their acceptance.
        tx.execute("LOCK TABLE suspect IN SHARE ROW EXCLUSIVE MODE")
        row = tx.execute("SELECT kind FROM halt WHERE name = %s", [name]).fetchone()
        if row is None:
            raise NotFoundError(
                f"halt {name}: nothing is halted under this name; it is over, or it has other "
                f"suspects by now: `backcast gc --dry-run` names what is halted"
            )
        kind = Kind(row[0])
        _, digest = _unaccepted(tx, kind)
        if name != f"{kind}-{digest}":
            raise ConflictError(
                f"halt {name}: its suspects have changed since; it gets its new name in some "
                f"minutes, see `backcast gc --dry-run`"
            )
        tx.execute("UPDATE suspect SET accepted = true WHERE kind = %s", [kind])
        tx.execute("DELETE FROM halt WHERE kind = %s", [kind])
        if kind is Kind.CLOCK:
            tx.execute(
                """UPDATE retention_clock
                   SET trusted_at = clock_timestamp(), halted_since = NULL"""
            )
            tx.execute("DELETE FROM suspect WHERE kind = %s", [kind])
        _tell_over(tx, kind, f"{by} has accepted {name}")
        return kind


def _unaccepted(tx: Tx, kind: Kind) -> tuple[Amount, str]:
    def made(digest: str, **amount: int) -> tuple[Amount, str]:
        return Amount(**amount), digest

    found = one_row(
        tx,
        made,
        """SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS size_bytes,
                  left(md5(coalesce(string_agg(item, ' ' ORDER BY item COLLATE "C"), '')), 12)
                      AS digest
           FROM suspect WHERE kind = %s AND NOT accepted""",
        [kind],
    )
    assert found is not None
    return found


def _finding(kind: Kind, message: str) -> Finding:
    return Finding(
        kind=NotificationKind.BRAKE_ENGAGED,
        about=kind,
        tenant=EVERYBODY,
        severity="error",
        message=message,
        names={},
    )


def _tell_over(tx: Tx, kind: Kind, why: str) -> None:
    about = NotificationKind.BRAKE_ENGAGED
    append(tx, "catalog", resolve_notifications(tx, about, [kind], f"{kind}: {why}"))
