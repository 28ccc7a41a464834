"""Tombstones: deleting the copies of condemned packs, until the packs are dead.

`libs.catalogdb.deletion.condemning` has the order of a pack's end and what a crash after each step
leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import COPIES_OF
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows
from libs.events.packs import PackDeleted


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A copy of a condemned pack: its object may still exist."""

    pack_no: int
    generation: UUID
    domain_no: int
    domain: UUID
    key_id: UUID
    size_bytes: int
    #: The store whose copy is to be deleted.
    store_no: int
    #: Whether its items are out of the index.
    forgotten: bool
    #: Stores whose copies say what is in it.
    copies: Sequence[int]


def claim_tombstones(
    catalog: Catalog, store_no: int, after: int, limit: int, deadline_seconds: float
) -> list[Tombstone]:
    """The next tombstones of a store, this collector's until a deadline; then any other's again.

    The deadline only saves work: to do the rest twice, or at the same time, is harmless.

    Args:
        catalog: the catalog.
        store_no: the store.
        after: number of the last pack that was claimed, 0 to begin.
        limit: tombstones at most.
        deadline_seconds: how long they are not given to others.
    """
    with catalog.transaction() as tx:
        claimed = [
            row[0]
            for row in tx.execute(
                """SELECT pack_no FROM tombstone
                   WHERE store_no = %s AND pack_no > %s AND deadline <= now()
                   ORDER BY pack_no LIMIT %s FOR UPDATE SKIP LOCKED""",
                [store_no, after, limit],
            )
        ]
        tx.execute(
            """UPDATE tombstone SET deadline = now() + make_interval(secs => %s)
               WHERE store_no = %s AND pack_no = ANY(%s)""",
            [deadline_seconds, store_no, claimed],
        )
        return all_rows(
            tx,
            Tombstone,
            sql.SQL(
                """SELECT pack_no, generation, domain_no, domain, p.key_id, size_bytes, store_no,
                          forgotten, {} AS copies
                   FROM tombstone JOIN pack p USING (pack_no) JOIN domain USING (domain_no)
                   WHERE store_no = %s AND pack_no = ANY(%s) ORDER BY pack_no"""
            ).format(COPIES_OF),
            [store_no, claimed],
        )


def is_condemned(catalog: Catalog, dead: Tombstone) -> bool:
    """Whether the pack still is what the tombstone said; ask before each DELETE.

    A collector may have slept while Postgres went back in time, and was reconciled with the store:
    then the pack may be live, or its number another's.
    """
    with catalog.transaction() as tx:
        return _lock_condemned(tx, dead)


def forget_items(catalog: Catalog, dead: Tombstone, ids: Sequence[bytes]) -> bool:
    """Take the items of a condemned pack out of the index; those that others store by now stay.

    Args:
        catalog: the catalog.
        dead: the pack.
        ids: everything that lies in it.

    Returns:
        Whether it still is condemned, see `is_condemned`; else nothing happened.
    """
    # In order of ids, as registrations lock them: neither can wait for the other for ever.
    high, low = halves(sorted(ids))
    return _forget(
        catalog,
        dead,
        """USING unnest(%s::uuid[], %s::uuid[]) AS item (high, low)
           WHERE c.id_high = item.high AND c.id_low = item.low AND c.pack_no = %s""",
        [high, low, dead.pack_no],
    )


def forget_all_items(catalog: Catalog, dead: Tombstone) -> bool:
    """The same for a pack that does not say what is in it: reads the whole index of its domain."""
    return _forget(catalog, dead, "WHERE c.pack_no = %s", [dead.pack_no])


def bury(catalog: Catalog, store_no: int, packs: Sequence[UUID]) -> int:
    """Record that copies of condemned packs are deleted; returns how many this call buried.

    A pack is dead when its last copy is buried.

    Args:
        catalog: the catalog.
        store_no: where the objects were deleted.
        packs: generations, as a catalog that went back may have given a number to another pack.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        # Alone in its statement: who buries the other copy at this moment is seen afterwards.
        locked = tx.execute(
            """SELECT pack_no FROM pack WHERE generation = ANY(%s) AND state = 'c'
               ORDER BY pack_no FOR UPDATE""",
            [list(packs)],
        ).fetchall()
        return bury_copies(tx, store_no, [row[0] for row in locked])


def bury_copies(tx: Tx, store_no: int, packs: Sequence[int]) -> int:
    """End tombstones of a store in the caller's transaction, which has locked the packs.

    Returns:
        How many tombstones there were.
    """
    buried = tx.execute(
        "DELETE FROM tombstone WHERE store_no = %s AND pack_no = ANY(%s) RETURNING pack_no",
        [store_no, list(packs)],
    ).fetchall()
    numbers = [row[0] for row in buried]
    tx.execute("DELETE FROM copy WHERE store_no = %s AND pack_no = ANY(%s)", [store_no, numbers])
    # A dead pack keeps its name, because a generation is never used twice, and what its items moved
    # to, because a session may have counted them before. A look-up that was slow may still find the
    # row, and then that it is not live.
    dead = tx.execute(
        """UPDATE pack p SET state = 'd', frames = '', key_id = NULL, attempt = NULL,
                  size_bytes = NULL, items = NULL, created_at = NULL
           WHERE pack_no = ANY(%s)
             AND NOT EXISTS (SELECT FROM tombstone t WHERE t.pack_no = p.pack_no)
           RETURNING p.pack_no, p.generation,
                     tenant_of_domain(p.domain_no)""",
        [numbers],
    ).fetchall()
    tx.execute("DELETE FROM copy WHERE pack_no = ANY(%s)", [[pack_no for pack_no, _, _ in dead]])
    events = [
        Entry(PackDeleted(generation=generation), tenant, generation.hex)
        for _, generation, tenant in dead
    ]
    append(tx, "catalog", events)
    return len(numbers)


def _forget(
    catalog: Catalog, dead: Tombstone, condition: LiteralString, arguments: Sequence[object]
) -> bool:
    with catalog.transaction() as tx:
        if not _lock_condemned(tx, dead):
            return False
        tx.execute(
            sql.SQL("DELETE FROM {} c ").format(chunk_table(dead.domain_no)) + sql.SQL(condition),
            arguments,
        )
        tx.execute("UPDATE tombstone SET forgotten = true WHERE pack_no = %s", [dead.pack_no])
        return True


def _lock_condemned(tx: Tx, dead: Tombstone) -> bool:
    require_reconciled(tx)
    row = tx.execute(
        """SELECT FROM pack WHERE pack_no = %s AND generation = %s AND state = 'c' FOR SHARE""",
        [dead.pack_no, dead.generation],
    ).fetchone()
    return row is not None
