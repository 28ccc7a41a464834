"""Collection: packs that nothing needs are condemned, deleted, and dead for ever.

A pack is needed while a row of `pack_use` covers a live snapshot, while anything pins it, or while
it leans on a live pack (`libs.catalogdb.packs.damage`). Closed rows end at live snapshots and open
ones exist only while the head is live (`libs.catalogdb.snapshots.expiry`), so a row is enough: it
always covers one.

Order of a pack's end, and what a crash after each step leaves:

1. `condemn_unused` (one transaction): state `condemned`, a tombstone, PackCondemned. From here on
   nobody can pin the pack, and look-ups ignore its items. A crash leaves a tombstone, which any
   collector claims.
2. `claim_tombstones`: a deadline, so that collectors do not do the same. After it the tombstone is
   anybody's again.
3. Its trailer is read and its rows of the chunk index go (`forget_items`). A crash leaves some of
   them; the next collector goes on. A registration may take rows over meanwhile; those stay.
4. DELETE of the object, repeated until the store confirms it. A crash leaves a tombstone without
   an object; the next collector finds that out. Each copy has a tombstone of its own, and goes at
   its own time: a store that is away keeps its tombstones until it is back.
5. `bury` (one transaction): the tombstone goes; with a pack's last one: state `dead`, PackDeleted.
   The row stays for ever, because a generation is never used twice: a late DELETE cannot hit
   anything, and a late PUT is deleted by the sweep (scenario 28).

Which packs to look at is known without a scan: whoever makes a pack live, or takes a row of it
away, adds it to the candidates in the same transaction. `list_unused` finds the same by looking at
every pack, slowly, should that ever be wrong.

Nothing is condemned or buried while the catalog has not been reconciled with the store.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.damage import forget_damage
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import one_row
from libs.events.packs import PackCondemned


@dataclass(frozen=True, slots=True)
class Condemned:
    """What a look at some candidates came to."""

    #: The last pack that was looked at; None: there are no more candidates.
    after: int | None
    packs: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What collection has to do."""

    #: Packs that perhaps nothing needs.
    candidates: int
    #: Those of them that nothing needs now, and their bytes.
    unused: int
    unused_bytes: int
    #: Condemned packs whose objects are not deleted for certain, and their bytes.
    tombstones: int
    tombstone_bytes: int
    #: Expired snapshots whose manifests are not deleted for certain.
    manifests: int


#: Whether nothing needs the pack `p`; asked in a statement after the one that locked it.
IS_UNUSED = sql.SQL(
    """NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = p.pack_no)
       AND NOT EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no)
       AND NOT leans_on_live(p.pack_no)"""
)


def condemn_unused(catalog: Catalog, after: int, limit: int) -> Condemned:
    """Condemn those of the next candidates that nothing needs, in one transaction.

    What somebody locks at this moment is left for the next time; so several collectors share the
    work, and no seal ever waits for one that waits itself. A pin waits until this transaction ends
    and then finds the pack condemned; a seal that holds the pack's lock keeps it (scenarios 6, 26).

    Args:
        catalog: the catalog.
        after: number of the last pack that was looked at, 0 to begin.
        limit: candidates at most, which bounds memory and the time that pins may wait.

    Raises:
        NotReconciledError: the catalog may have gone back in time; nothing may be deleted.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        # Their rows stay locked: a pack that loses its last row now becomes a candidate afterwards.
        looked_at = [
            row[0]
            for row in tx.execute(
                """SELECT pack_no FROM candidate WHERE pack_no > %s AND NOT unclaimed
                   ORDER BY pack_no LIMIT %s FOR UPDATE SKIP LOCKED""",
                [after, limit],
            )
        ]
        if not looked_at:
            return Condemned(None, 0, 0)
        # Alone in its statement: the next one sees what was committed before the locks were had.
        locked = [
            row[0]
            for row in tx.execute(
                """SELECT pack_no FROM pack WHERE pack_no = ANY(%s) AND state = 'l'
                   ORDER BY pack_no FOR UPDATE SKIP LOCKED""",
                [looked_at],
            )
        ]
        unused = tx.execute(
            sql.SQL("SELECT pack_no, size_bytes FROM pack p WHERE pack_no = ANY(%s) AND {}").format(
                IS_UNUSED
            ),
            [locked],
        ).fetchall()
        # Off the list: what a row needs (it comes back when the row goes), and what is not live.
        tx.execute(
            """DELETE FROM candidate c USING pack p
               WHERE c.pack_no = ANY(%s) AND p.pack_no = c.pack_no
                 AND (p.state <> 'l'
                      OR EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no))""",
            [looked_at],
        )
        append(tx, "catalog", condemn(tx, [pack_no for pack_no, _ in unused]))
        return Condemned(looked_at[-1], len(unused), sum(size for _, size in unused))


def condemn(tx: Tx, packs: Collection[int]) -> list[Entry]:
    """Condemn live packs in the caller's transaction; what to log of it.

    The caller has locked them FOR UPDATE in a statement of its own and has checked afterwards that
    nothing needs them. `moved_to` is set before, if they were rewritten.
    """
    rows = tx.execute(
        """UPDATE pack p SET state = 'c' WHERE pack_no = ANY(%s)
           RETURNING generation, size_bytes,
                     tenant_of_domain(p.domain_no),
                     (SELECT m.generation FROM pack m WHERE m.pack_no = p.moved_to)""",
        [list(packs)],
    ).fetchall()
    # One for each copy, also for those that are only being made; none where a person has said that
    # all is gone. FOR SHARE: who says so waits, and finds them.
    tx.execute(
        """WITH online AS (SELECT store_no FROM store WHERE state = 'o' OR store_no = 1 FOR SHARE)
           INSERT INTO tombstone (pack_no, store_no)
           SELECT pack_no, store_no FROM unnest(%s::int[]) AS pack_no, online
           WHERE store_no = 1 OR EXISTS (SELECT FROM copy y WHERE y.pack_no = pack_no.pack_no
                                         AND y.store_no = online.store_no)""",
        [list(packs)],
    )
    tx.execute("DELETE FROM candidate WHERE pack_no = ANY(%s)", [list(packs)])
    # What leaned on them is perhaps needed by nothing else.
    tx.execute(
        """INSERT INTO candidate AS c
           SELECT DISTINCT l.pack_no FROM leans l JOIN pack p USING (pack_no)
           WHERE l.on_pack_no = ANY(%s) AND p.state = 'l' ORDER BY 1
           ON CONFLICT (pack_no) DO UPDATE SET pack_no = c.pack_no""",
        [list(packs)],
    )
    repaired = forget_damage(tx, packs)
    condemned = [
        Entry(
            PackCondemned(generation=generation, size_bytes=size_bytes, moved_to=moved_to),
            tenant,
            generation.hex,
        )
        for generation, size_bytes, tenant, moved_to in rows
    ]
    return condemned + repaired


def list_unused(catalog: Catalog, after: int, limit: int) -> int | None:
    """Make candidates of live packs without a row, by looking at all of them.

    Args:
        catalog: the catalog.
        after: number of the last pack that was looked at, 0 to begin.
        limit: packs to look at.

    Returns:
        The last pack that was looked at; None after the last one.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """WITH looked_at AS (
                   SELECT pack_no, state FROM pack WHERE pack_no > %s ORDER BY pack_no LIMIT %s),
               missing AS (
                   INSERT INTO candidate (pack_no, unclaimed)
                   SELECT pack_no, true FROM looked_at l WHERE state = 'l'
                     AND NOT EXISTS (SELECT FROM pack_use u WHERE u.pack_no = l.pack_no)
                   ON CONFLICT DO NOTHING)
               SELECT max(pack_no) FROM looked_at""",
            [after, limit],
        ).fetchone()
    return row[0] if row else None


def leftover_manifests(catalog: Catalog, after: UUID, limit: int) -> list[tuple[UUID, str]]:
    """Expired snapshots whose manifests may still exist, with the manifests' object keys.

    Args:
        catalog: the catalog.
        after: the last one of the previous page; that of number 0 to begin.
        limit: snapshots at most.

    Raises:
        NotReconciledError: the catalog may have gone back in time; nothing may be deleted.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        return tx.execute(
            """SELECT session, manifest_key FROM snapshot
               WHERE state = 'x' AND NOT manifest_deleted AND session > %s
               ORDER BY session LIMIT %s""",
            [after, limit],
        ).fetchall()


def record_manifests_deleted(catalog: Catalog, sessions: Sequence[UUID]) -> None:
    """Record that the manifests of expired snapshots are deleted."""
    with catalog.transaction() as tx:
        tx.execute(
            "UPDATE snapshot SET manifest_deleted = true WHERE session = ANY(%s) AND state = 'x'",
            [list(sessions)],
        )


def read_collection_state(catalog: Catalog) -> CollectionState:
    """What collection has to do now; changes nothing."""
    with catalog.transaction() as tx:
        state = one_row(
            tx,
            CollectionState,
            sql.SQL(
                """SELECT (SELECT count(*) FROM candidate) AS candidates,
                          u.packs AS unused, u.bytes AS unused_bytes,
                          t.packs AS tombstones, t.bytes AS tombstone_bytes,
                          (SELECT count(*) FROM snapshot WHERE state = 'x' AND NOT manifest_deleted)
                              AS manifests
                   FROM (SELECT count(*) AS packs, coalesce(sum(size_bytes), 0)::bigint AS bytes
                         FROM candidate JOIN pack p USING (pack_no)
                         WHERE state = 'l' AND {}) u,
                        (SELECT count(DISTINCT pack_no) AS packs,
                                coalesce(sum(size_bytes), 0)::bigint AS bytes
                         FROM tombstone JOIN pack USING (pack_no)) t"""
            ).format(IS_UNUSED),
        )
    assert state is not None
    return state
