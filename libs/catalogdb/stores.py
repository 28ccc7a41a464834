"""Stores, and the copies of packs and manifests that each should have.

Order of adding a store: its row (from then on every pack that becomes live wants a copy there) →
copies of all live packs are wanted, piece by piece (`want_copies`). A pack that became live beside
the row is in the log after the position that the row begins with. A crash between leaves copies
that nobody wants yet; whoever replicates begins with that step every time it starts.

Order of losing a store: its state (from then on nothing is recorded there, and nothing that is
condemned waits for it) → its tombstones end and its copies go, piece by piece. It may be repeated.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from psycopg import sql

from libs.catalogdb.deletion.tombstones import (
    bury_copies,
)
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import record_copies
from libs.catalogdb.packs.location import LOCATION_COLUMNS, PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows, one_row
from libs.copies.stores import PRIMARY, SECOND
from libs.errors import NotFoundError
from libs.events.snapshots import SnapshotReplicated
from libs.events.topics import PACKS


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the catalog knows of a store."""

    store_no: int
    #: What its bucket says it is; None: nobody has looked yet.
    store_id: UUID | None
    name: str
    state: Literal["online", "lost"]
    #: The last event of the log of packs whose copy was made there.
    position: int
    #: Whether everything is to be looked at again: it was added, or came back empty.
    refill: bool


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """What a store still lacks."""

    #: Copies of live packs that are to be made, and that are damaged.
    wanted: int
    damaged: int
    tombstones: int
    #: Age of the oldest event of a new pack whose copy was not made; 0: there is none.
    lag_seconds: float


@idempotent
def read_stores(catalog: Catalog) -> list[StoreState]:
    """All stores, the primary first."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            StoreState,
            """SELECT store_no, store_id, name, position, refill,
                      CASE state WHEN 'o' THEN 'online' ELSE 'lost' END AS state
               FROM store ORDER BY store_no""",
        )


@idempotent
def read_store_figures(catalog: Catalog, store_no: int) -> StoreFigures:
    """What a store still lacks: reads rows of what is missing only."""
    with catalog.transaction() as tx:
        figures = one_row(
            tx,
            StoreFigures,
            """SELECT count(*) FILTER (WHERE y.state = 'm') AS wanted,
                      count(*) FILTER (WHERE y.state = 'x') AS damaged,
                      (SELECT count(*) FROM tombstone t WHERE t.store_no = %(store)s)
                          AS tombstones,
                      coalesce((SELECT extract(epoch FROM now() - min(occurred_at))
                                FROM event_log e JOIN store s ON s.store_no = %(store)s
                                WHERE e.topic = %(topic)s AND e.position > s.position
                                  AND s.store_no <> 1), 0)::float8
                          AS lag_seconds
               FROM copy y JOIN pack p USING (pack_no)
               WHERE y.store_no = %(store)s AND y.state <> 'p' AND p.state = 'l'""",
            {"store": store_no, "topic": PACKS},
        )
    assert figures is not None
    return figures


def count_live_packs(catalog: Catalog) -> int:
    """How many packs each store should have; reads all packs, so it is for people."""
    with catalog.transaction() as tx:
        row = tx.execute("SELECT count(*) FROM pack WHERE state = 'l'").fetchone()
    return int(row[0]) if row else 0


@idempotent
def domain_keys(catalog: Catalog) -> set[UUID]:
    """Ids of the wrapped keys that new packs use."""
    with catalog.transaction() as tx:
        return {row[0] for row in tx.execute("SELECT key_id FROM domain")}


def identify_store(catalog: Catalog, store_no: int, store_id: UUID) -> None:
    """Record which bucket a store of the catalog is, when nobody has looked before."""
    with catalog.transaction() as tx:
        tx.execute(
            "UPDATE store SET store_id = %s WHERE store_no = %s AND store_id IS NULL",
            [store_id, store_no],
        )


@idempotent
def add_store(catalog: Catalog, store_no: int, name: str, store_id: UUID) -> None:
    """Add a store, which gets copies of everything from now on; harmless if repeated."""
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO store (store_no, store_id, name, refill, position)
               SELECT %s, %s, %s, true,
                      coalesce((SELECT last FROM log_position WHERE topic = %s), 0)
               ON CONFLICT (store_no) DO NOTHING""",
            [store_no, store_id, name, PACKS],
        )
        tx.execute("SELECT begin_sweeping(%s)", [store_no])


@idempotent
def want_copies(catalog: Catalog, store_no: int, after: int, limit: int) -> int | None:
    """Want a copy of each live pack at a store, where there is no row of one.

    Args:
        catalog: the catalog.
        store_no: the store.
        after: number of the last pack that was looked at, 0 to begin.
        limit: packs to look at.

    Returns:
        The last pack that was looked at; None after the last one.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """WITH looked_at AS (
                   SELECT pack_no, state FROM pack WHERE pack_no > %s ORDER BY pack_no LIMIT %s),
               wanted AS (
                   INSERT INTO copy (pack_no, store_no, state)
                   SELECT pack_no, %s, 'm' FROM looked_at WHERE state = 'l'
                   ON CONFLICT DO NOTHING)
               SELECT max(pack_no) FROM looked_at""",
            [after, limit, store_no],
        ).fetchone()
    return row[0] if row else None


@idempotent
def end_refill(catalog: Catalog, store_no: int) -> None:
    """Record that everything that a store lacked was found out."""
    with catalog.transaction() as tx:
        tx.execute("UPDATE store SET refill = false WHERE store_no = %s", [store_no])


def lose_store(catalog: Catalog, store_no: int) -> None:
    """Record that a person gave a store up: nothing waits for it, and nothing is recorded there.

    Raises:
        NotFoundError: no such store.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        found = tx.execute(
            """UPDATE store SET state = 'l',
                                lost_through = (SELECT coalesce(max(pack_no), 0) FROM pack)
               WHERE store_no = %s""",
            [store_no],
        )
        if found.rowcount == 0:
            raise NotFoundError(f"store {store_no}: the catalog knows none of this number")
        if store_no != PRIMARY:
            tx.execute(
                "UPDATE snapshot SET manifest_copied = false, replicated_at = NULL"
                " WHERE manifest_copied OR replicated_at IS NOT NULL"
            )


@idempotent
def forget_copies(catalog: Catalog, store_no: int, limit: int) -> int:
    """End tombstones and forget copies of a lost store; how many rows went, 0 at the end.

    Raises:
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        # Alone in its statement, as burying one does: the other copy may be buried beside it.
        condemned = tx.execute(
            """SELECT pack_no FROM pack p WHERE state = 'c' AND pack_no IN (
                   SELECT pack_no FROM tombstone WHERE store_no = %s ORDER BY pack_no LIMIT %s)
               ORDER BY pack_no FOR UPDATE""",
            [store_no, limit],
        ).fetchall()
        if condemned:
            return bury_copies(tx, store_no, [row[0] for row in condemned])
        return tx.execute(
            """DELETE FROM copy WHERE store_no = %(store)s AND pack_no IN (
                   SELECT pack_no FROM copy y JOIN store s USING (store_no)
                   WHERE store_no = %(store)s AND s.state = 'l' AND pack_no <= s.lost_through
                   LIMIT %(limit)s)""",
            {"store": store_no, "limit": limit},
        ).rowcount


def begin_repair(catalog: Catalog, store_no: int, store_id: UUID) -> None:
    """Record that a store is there again, empty or not: whatever it lacks is made again.

    Raises:
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        tx.execute(
            """UPDATE store
               SET state = 'o', store_id = %s, refill = true,
                   position = coalesce((SELECT last FROM log_position WHERE topic = %s), 0)
               WHERE store_no = %s""",
            [store_id, PACKS, store_no],
        )
        if store_no != PRIMARY:
            tx.execute("UPDATE snapshot SET manifest_copied = false WHERE manifest_copied")


@idempotent
def locate_lacking(catalog: Catalog, store_no: int, packs: Collection[UUID]) -> list[PackLocation]:
    """Of these generations, the live packs whose copy at a store is not present."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            PackLocation,
            sql.SQL(
                """SELECT {} FROM pack p JOIN domain d USING (domain_no)
                   WHERE p.generation = ANY(%s) AND p.state = 'l'
                     AND NOT EXISTS (SELECT FROM copy c WHERE c.pack_no = p.pack_no
                                     AND c.store_no = %s AND c.state = 'p')
                   ORDER BY p.pack_no"""
            ).format(LOCATION_COLUMNS),
            [list(packs), store_no],
        )


@idempotent
def record_replicated(
    catalog: Catalog, store_no: int, packs: Sequence[int], position: int | None
) -> set[int]:
    """Record copies and, in the same transaction, how far the log was followed.

    Args:
        catalog: the catalog.
        store_no: the store.
        packs: those whose objects are durable there, and verified.
        position: of the last event that was handled; None: the work did not come from the log.

    Returns:
        The packs that are live; only their copies were recorded.
    """
    with catalog.transaction() as tx:
        live = record_copies(tx, store_no, packs)
        if position is not None:
            tx.execute(
                "UPDATE store SET position = greatest(position, %s) WHERE store_no = %s",
                [position, store_no],
            )
        return live


@dataclass(frozen=True, slots=True)
class SealedManifest:
    """The manifest of a live snapshot."""

    session: UUID
    key: str
    mac: bytes
    #: Of the tenant, whose data key it is sealed under.
    domain: UUID


@idempotent
def manifests_to_copy(
    catalog: Catalog, after: UUID, limit: int, *, everything: bool = False
) -> list[SealedManifest]:
    """The next live snapshots whose manifests the second store lacks; all if ``everything``."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            SealedManifest,
            """SELECT s.session, s.manifest_key AS key, s.mac, d.domain
               FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
                 JOIN domain d ON d.domain_no = t.domain_no
               WHERE s.state = 'l' AND (%s OR NOT s.manifest_copied) AND s.session > %s
               ORDER BY s.session LIMIT %s""",
            [everything, after, limit],
        )


@idempotent
def record_manifests_copied(catalog: Catalog, sessions: Collection[UUID]) -> None:
    """Record that manifests are durable at the second store, if that was not lost meanwhile."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE snapshot SET manifest_copied = true
               WHERE session = ANY(%s)
                 AND EXISTS (SELECT FROM store WHERE store_no = %s AND state = 'o' FOR SHARE)""",
            [list(sessions), SECOND],
        )


@idempotent
def review_snapshots(catalog: Catalog) -> tuple[int, int]:
    """Note which live snapshots the second store has whole, and which no longer.

    A snapshot is whole there if its manifest is, and so is each pack that it may read from: those
    that it is counted in, and those that lean on them (`libs.catalogdb.packs.damage`).

    Returns:
        How many became whole, and how many are so no longer.
    """
    with catalog.transaction() as tx:
        withdrawn = tx.execute(
            sql.SQL(
                """{} UPDATE snapshot s SET replicated_at = NULL
                   WHERE replicated_at IS NOT NULL AND state = 'l'
                     AND session IN (SELECT session FROM lacking)"""
            ).format(_LACKING),
            {"store": SECOND},
        ).rowcount
        whole = tx.execute(
            sql.SQL(
                """{} UPDATE snapshot s SET replicated_at = now()
                 FROM volume_group g JOIN tenant t USING (tenant_no)
                 WHERE s.group_no = g.group_no AND s.state = 'l' AND s.replicated_at IS NULL
                   AND s.manifest_copied AND s.session NOT IN (SELECT session FROM lacking)
                   AND EXISTS (SELECT FROM store o
                               WHERE o.store_no = %(store)s AND o.state = 'o' AND NOT o.refill)
                 RETURNING s.session, s.sequence, g.group_id, t.name"""
            ).format(_LACKING),
            {"store": SECOND},
        ).fetchall()
        entries = [
            Entry(
                SnapshotReplicated(session=session, group=group, sequence=sequence, copies=2),
                tenant,
                str(group),
                session,
            )
            for session, sequence, group, tenant in whole
        ]
        append(tx, "catalog", entries)
    return len(whole), withdrawn


#: Live snapshots that may read from a pack whose copy at a store is not present.
_LACKING = sql.SQL(
    """
    WITH RECURSIVE counted (pack_no) AS (
        SELECT y.pack_no FROM copy y JOIN pack p USING (pack_no)
        WHERE y.store_no = %(store)s AND y.state <> 'p' AND p.state = 'l'
        UNION SELECT l.on_pack_no FROM leans l JOIN counted USING (pack_no)),
    lacking AS (
        SELECT DISTINCT n.session
        FROM counted JOIN pack_use u USING (pack_no) JOIN volume v USING (volume_no)
        JOIN snapshot n ON n.group_no = v.group_no AND n.state = 'l'
         AND n.sequence >= u.first_sequence
         AND n.sequence <= coalesce(u.last_sequence, n.sequence))"""
)
