"""Copies of packs: which stores have a pack's bytes, and what state they are in there.

Order of a copy's life: row `making` (in the transaction that makes the pack live) → PUT of the same
bytes → `present` (`record_copies`, which requires that the pack is live) → with its pack condemned
it has a tombstone → DELETE → the row goes (`libs.catalogdb.deletion.condemning`). A crash after the
row leaves work for whoever makes copies; one after the PUT leaves an object that the next try
writes once more, with the same bytes (scenario 13).

A copy never brings a pack back. `record_copies` takes the pack's row FOR SHARE, and condemning
takes it FOR UPDATE before it writes tombstones, one for each copy whatever its state. So whoever
is second sees the other: a copy that was recorded has a tombstone, and one that was not is never
recorded. Its object, should it land later still, is of a dead generation, and the sweep of that
store deletes it (scenarios 7 and 28).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows
from libs.copies.stores import STORE_NAMES

REASON_LENGTH_MAX = 500

#: Numbers of the stores that have pack `p`: intact copies first, then in order of the stores.
COPIES_OF = sql.SQL(
    """ARRAY(SELECT y.store_no FROM copy y WHERE y.pack_no = p.pack_no AND y.state IN ('p', 'x')
             ORDER BY y.state = 'x', y.store_no)"""
)

#: Rows of the copies of a pack that becomes live, from the CTE `live (pack_no)`: present at the
#: primary, wanted at every other store that is online.
INSERT_COPIES = sql.SQL(
    """INSERT INTO copy (pack_no, store_no, state)
    SELECT live.pack_no, store.store_no, (CASE store.store_no WHEN 1 THEN 'p' ELSE 'm' END)::"char"
    FROM live, store WHERE store.store_no = 1 OR store.state = 'o'
    ON CONFLICT DO NOTHING"""
)


@dataclass(frozen=True, slots=True)
class CopyState:
    """A copy that should be readable."""

    store_no: int
    is_damaged: bool
    #: When it was last found as it must be, and every byte of it; None: never.
    checked_at: datetime | None
    checked_in_full_at: datetime | None


def copies_of(tx: Tx, packs: Collection[int]) -> dict[int, list[CopyState]]:
    """Pack number → its copies that were made, in order of the stores."""
    found: dict[int, list[CopyState]] = {}

    def add(pack_no: int, **state: Any) -> None:
        found.setdefault(pack_no, []).append(CopyState(**state))

    all_rows(
        tx,
        add,
        """SELECT pack_no, store_no, state = 'x' AS is_damaged, checked_at, checked_in_full_at
           FROM copy WHERE pack_no = ANY(%s) AND state IN ('p', 'x') ORDER BY pack_no, store_no""",
        [list(packs)],
    )
    return found


@idempotent
def mark_checked(catalog: Catalog, pack_no: int, store_no: int, *, in_full: bool) -> None:
    """Record that a copy is as it must be, or every byte of it."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE copy SET checked_at = now(),
                               checked_in_full_at = CASE WHEN %s THEN now()
                                                         ELSE checked_in_full_at END,
                               state = CASE WHEN %s THEN 'p' ELSE state END,
                               damage = CASE WHEN %s THEN NULL ELSE damage END
               WHERE pack_no = %s AND store_no = %s AND state IN ('p', 'x')""",
            [in_full, in_full, in_full, pack_no, store_no],
        )


def mark_copy_damaged(catalog: Catalog, generation: UUID, store_no: int, reason: str) -> bool:
    """Record that a copy is damaged or gone; whether that is news.

    It is read only where nothing else is left, and made anew from an intact copy if there is one.
    """
    with catalog.transaction() as tx:
        marked = tx.execute(
            """UPDATE copy y SET state = 'x', damage = %s FROM pack p
               WHERE p.generation = %s AND p.state = 'l' AND y.pack_no = p.pack_no
                 AND y.store_no = %s AND y.state = 'p'""",
            [reason[:REASON_LENGTH_MAX], generation, store_no],
        )
        return marked.rowcount == 1


def record_copies(tx: Tx, store_no: int, packs: Sequence[int]) -> set[int]:
    """Record copies whose objects are durable and verified, in the caller's transaction.

    Returns:
        The packs that are live: only their copies were recorded. The objects of the others belong
        to dead generations, or to such as will be, and are swept.
    """
    online = tx.execute(
        "SELECT FROM store WHERE store_no = %s AND state = 'o' FOR SHARE", [store_no]
    ).fetchone()
    if online is None:  # a person has given it up meanwhile
        return set()
    live = {
        row[0]
        for row in tx.execute(
            """SELECT pack_no FROM pack WHERE pack_no = ANY(%s) AND state = 'l'
               ORDER BY pack_no FOR SHARE""",
            [list(packs)],
        )
    }
    tx.execute(
        """INSERT INTO copy AS y (pack_no, store_no, state, checked_at, checked_in_full_at)
           SELECT unnest(%s::int[]), %s, 'p', now(), now()
           ON CONFLICT (pack_no, store_no) DO UPDATE
           SET state = 'p', damage = NULL, checked_at = now(), checked_in_full_at = now()""",
        [sorted(live), store_no],
    )
    return live


def withdraw_whole(tx: Tx, pack_no: int) -> None:
    """Say of no snapshot that uses a new pack that another store has it whole.

    In the transaction that moves items to the pack, which has no other copy yet: the copies of the
    old packs may be deleted from now on.
    """
    tx.execute(
        """UPDATE snapshot s SET replicated_at = NULL
           FROM pack_use u JOIN volume v USING (volume_no)
           WHERE u.pack_no = %s AND s.group_no = v.group_no
             AND s.state = 'l' AND s.replicated_at IS NOT NULL
             AND s.sequence >= u.first_sequence
             AND s.sequence <= coalesce(u.last_sequence, s.sequence)""",
        [pack_no],
    )


@idempotent
def know_store(catalog: Catalog, store_no: int) -> None:
    """Add a store to a catalog that is only made to be compared, and does not know it yet."""
    with catalog.transaction() as tx:
        tx.execute(
            "INSERT INTO store (store_no, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [store_no, STORE_NAMES[store_no]],
        )


@idempotent
def note_listed(
    catalog: Catalog, store_no: int, first: UUID, last: UUID, listed: Collection[UUID]
) -> None:
    """Make copies agree with a listing of a store, while the catalog is being reconciled.

    What is listed is present, unless it is known to be damaged. What is not listed is to be made,
    or is damaged if it should be there: nothing is given up because of a listing.

    Args:
        catalog: the catalog.
        store_no: the store, which the catalog knows.
        first: live packs with a generation from this one
        last: to this one, both included, are looked at.
        listed: generations that the store has.
    """
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO copy AS y (pack_no, store_no, state)
               SELECT pack_no, %(store)s,
                      (CASE WHEN generation = ANY(%(listed)s) THEN 'p' ELSE 'm' END)::"char"
               FROM pack WHERE state = 'l' AND generation BETWEEN %(first)s AND %(last)s
               ON CONFLICT (pack_no, store_no) DO UPDATE
               SET state = CASE WHEN excluded.state = 'p' THEN 'p' ELSE 'x' END,
                   damage = CASE WHEN excluded.state = 'p' THEN NULL
                                 ELSE 'a listing of the store does not show it' END
               WHERE (y.state, excluded.state) IN (('m', 'p'), ('p', 'm'))""",
            {"store": store_no, "first": first, "last": last, "listed": list(listed)},
        )


@dataclass(frozen=True, slots=True)
class WantedCopy:
    """A copy of a live pack that is to be made, or made anew because it is damaged."""

    pack_no: int
    generation: UUID
    is_damaged: bool


@idempotent
def wanted_copies(catalog: Catalog, store_no: int, after: int, limit: int) -> list[WantedCopy]:
    """The next copies that a store should have and has not, by the numbers of their packs."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            WantedCopy,
            """SELECT pack_no, generation, y.state = 'x' AS is_damaged
               FROM copy y JOIN pack p USING (pack_no)
               WHERE store_no = %s AND y.state <> 'p' AND p.state = 'l' AND pack_no > %s
               ORDER BY pack_no LIMIT %s""",
            [store_no, after, limit],
        )
