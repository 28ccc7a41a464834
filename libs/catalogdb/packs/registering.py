"""Registering packs: claim a generation, and make what was uploaded live.

Order of a pack's life: row `uploading` (begin_pack) → PUT → `live` with its items indexed
(register). A crash after the row leaves a row that the orphan sweep will mark dead before it
deletes the object; a crash after the PUT leaves the same; after `register` the pack is pinned by
its attempts, and when those are closed and nothing uses it, it is condemned like any other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import INSERT_COPIES
from libs.catalogdb.packs.damage import note_repair
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.packs.index import find_damaged, find_items, pin_for_attempt
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.sessions.attempts import Stale, require_open
from libs.errors import InvariantViolation
from libs.events.packs import PackStored


@dataclass(frozen=True, slots=True)
class PackRecord:
    """What the catalog keeps of an uploaded pack, besides its items."""

    pack_no: int
    generation: UUID
    size_bytes: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class Registered:
    """A pack is live."""

    #: For each item that has a winner, by its position, the winner's pack number.
    winners: dict[int, int]
    #: Attempts that it is pinned for.
    current: frozenset[UUID]


@idempotent
def begin_pack(
    catalog: Catalog, attempt: UUID, domain_no: int, key_id: UUID, generation: UUID
) -> int | Stale:
    """Claim a generation before its object is written; return the pack's number."""
    with catalog.transaction() as tx:
        if not require_open(tx, attempt):
            return Stale(attempt)
        row = tx.execute(
            """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
               VALUES (%s, %s, %s, %s, 'u')
               ON CONFLICT (generation) DO NOTHING RETURNING pack_no""",
            [generation, domain_no, key_id, attempt],
        ).fetchone()
        if row is None:  # the answer of a first call was lost
            row = tx.execute(
                "SELECT pack_no FROM pack WHERE generation = %s AND attempt = %s AND state = 'u'",
                [generation, attempt],
            ).fetchone()
        if row is None:
            raise InvariantViolation(
                f"generation {generation.hex}: already used; a random 128-bit name came twice"
            )
        return int(row[0])


@idempotent
def register(  # noqa: PLR0913 -- the record of a pack
    catalog: Catalog,
    attempt: UUID,
    domain_no: int,
    tenant: str,
    session: UUID,
    pack: PackRecord,
    ids: Sequence[bytes],
    places: Sequence[int],
    chunk_count: int,
    sharers: Collection[UUID] = (),
) -> Registered | Stale:
    """Make an uploaded pack live, pin it and index its items. Its object must be durable.

    Attempts at several parts of one session may share a pack. It is pinned for each of them that is
    still current; that one of them is stale, even the one that claimed the pack, does not keep back
    what the others stored.

    An item that another pack registered first keeps that place: the winner's pack is pinned and
    returned, and the caller counts the winner (scenarios 5 and 22).

    Args:
        catalog: the catalog.
        attempt: claimed the pack.
        domain_no: where its items belong.
        tenant: whose domain that is.
        session: of all attempts.
        pack: what is kept of it.
        ids: of its items, each once.
        places: of its items.
        chunk_count: how many of them are chunks.
        sharers: attempts that need items of the pack; by default the one that claimed it.

    Returns:
        `Stale` if no attempt that needs it is current, or the sweep has given the pack up.
    """
    with catalog.transaction() as tx:
        current = _lock_open(tx, sharers or (attempt,))
        if not current:
            return Stale(attempt)
        row = tx.execute(
            "SELECT state::text FROM pack WHERE pack_no = %s AND attempt = %s FOR UPDATE",
            [pack.pack_no, attempt],
        ).fetchone()
        state = row[0] if row else None
        if state not in ("u", "l"):  # the sweep was first: the generation is dead for ever
            return Stale(attempt)
        _make_live(tx, pack, len(ids), current)
        winners, told = _index(tx, domain_no, current, pack.pack_no, ids, places)
        if state == "u":  # else the answer of a first call was lost
            stored = PackStored(
                generation=pack.generation, domain=_domain_id(tx, domain_no), tenant=tenant,
                session=session, size_bytes=pack.size_bytes, chunk_count=chunk_count,
            )  # fmt: skip
            told.append(Entry(stored, tenant, pack.generation.hex, session))
        append(tx, "chunker", told)
        return Registered(winners, current)


def _make_live(tx: Tx, pack: PackRecord, item_count: int, pinned_by: Collection[UUID]) -> None:
    # Its copies in the same statement: a backup makes no more round trips for them.
    tx.execute(
        sql.SQL(
            """WITH live AS (
                   UPDATE pack SET state = 'l', size_bytes = %s, frames = %s, items = %s
                   WHERE pack_no = %s RETURNING pack_no) {}"""
        ).format(INSERT_COPIES),
        [pack.size_bytes, pack.frames, item_count, pack.pack_no],
    )
    tx.execute(
        "INSERT INTO pin (owner, pack_no) SELECT unnest(%s::uuid[]), %s ON CONFLICT DO NOTHING",
        [sorted(pinned_by), pack.pack_no],
    )
    # Nothing uses it before a seal, and perhaps no seal ever does.
    tx.execute("INSERT INTO candidate VALUES (%s) ON CONFLICT DO NOTHING", [pack.pack_no])


def _lock_open(tx: Tx, attempts: Collection[UUID]) -> frozenset[UUID]:
    """Lock attempts against take-over for the rest of the transaction; those that are current."""
    rows = tx.execute(
        "SELECT attempt FROM attempt WHERE attempt = ANY(%s) AND open ORDER BY attempt FOR SHARE",
        [list(attempts)],
    )
    return frozenset(attempt for (attempt,) in rows)


def _index(  # noqa: PLR0913 -- the same record as register
    tx: Tx,
    domain_no: int,
    attempts: Collection[UUID],
    pack_no: int,
    ids: Sequence[bytes],
    places: Sequence[int],
) -> tuple[dict[int, int], list[Entry]]:
    """Index items that have no place in a live pack yet; pin and return the winners of the others.

    Also returns what to append to the log of damage that is repaired.

    Each step is a statement of its own, because a statement sees other packs as they were when it
    began: one that waited for a rival's row would not see that the rival's pack is live by now, and
    would take over the place that the rival has just been promised (scenarios 5 and 22).
    """
    high, low = halves(ids)
    items = {"pack_no": pack_no, "high": high, "low": low, "places": list(places)}
    fresh = tx.execute(_INSERT.format(table=chunk_table(domain_no)), items)
    if fresh.rowcount == len(ids):
        return {}, []
    repaired = _repair(tx, domain_no, pack_no, ids, places)
    # A winner may be condemned between our look and our pin; then its row is ours to take. Each
    # turn either pins all winners or meets a newly condemned pack, so it ends.
    while True:
        tx.execute(_TAKE_OVER.format(table=chunk_table(domain_no)), items)
        found = find_items(tx, [domain_no], ids)
        if len(found) != len(ids):
            clash = next(id_ for n, id_ in enumerate(ids) if n not in found)
            raise InvariantViolation(
                f"chunk {clash.hex()}: the index holds another id with the same first half; "
                f"refusing to mix them"
            )
        winners = {n: winner for n, (winner, _) in found.items() if winner != pack_no}
        wanted = set(winners.values())
        if all(
            pin_for_attempt(tx, attempt, wanted) == wanted for attempt in sorted(attempts) if wanted
        ):
            # After the pins: who records damage locks so, too.
            return winners, note_repair(tx, pack_no, repaired)


def _repair(
    tx: Tx, domain_no: int, pack_no: int, ids: Sequence[bytes], places: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Take over the places of items that are known to be damaged; (pack, id) of each of them."""
    damaged = find_damaged(tx, [domain_no], ids)
    repaired = {n: where for n, (where, _) in damaged.items() if where != pack_no}
    if repaired:
        high, low = halves([ids[n] for n in repaired])
        tx.execute(
            _MOVE.format(table=chunk_table(domain_no)),
            {
                "pack_no": pack_no,
                "high": high,
                "low": low,
                "places": [places[n] for n in repaired],
            },
        )
    return [(where, ids[n]) for n, where in repaired.items()]


#: In order of ids, so that two registrations cannot wait for each other. A row that exists is not
#: changed, but waited for and locked: nobody else moves the item until this transaction ends.
_INSERT = sql.SQL(
    """INSERT INTO {table} AS c (id_high, id_low, pack_no, place)
       SELECT high, low, %(pack_no)s, place
       FROM unnest(%(high)s::uuid[], %(low)s::uuid[], %(places)s::int[]) AS item (high, low, place)
       ORDER BY high
       ON CONFLICT (id_high) DO UPDATE SET place = c.place WHERE false"""
)

_MOVE = sql.SQL(
    """UPDATE {table} AS c SET pack_no = %(pack_no)s, place = item.place
       FROM unnest(%(high)s::uuid[], %(low)s::uuid[], %(places)s::int[]) AS item (high, low, place)
       WHERE c.id_high = item.high AND c.id_low = item.low"""
)
#: A row whose pack is no longer live is taken over: its copy is going away.
_TAKE_OVER = sql.SQL(
    _MOVE.as_string()
    + " AND NOT EXISTS (SELECT FROM pack WHERE pack.pack_no = c.pack_no AND pack.state = 'l')"
)


def _domain_id(tx: Tx, domain_no: int) -> UUID:
    row = tx.execute("SELECT domain FROM domain WHERE domain_no = %s", [domain_no]).fetchone()
    assert row is not None
    return UUID(str(row[0]))
