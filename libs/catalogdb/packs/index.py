"""Packs and the index of what lies in them: look up, pin, upload, register.

Order of a pack's life: row `uploading` (begin_pack) → PUT → `live` with its items indexed
(register). A crash after the row leaves a row that the orphan sweep will mark dead before it
deletes the object; a crash after the PUT leaves the same; after `register` the pack is pinned by
its attempt, and when the attempt is closed and nothing uses it, it is condemned like any other.

A pin takes the pack's row FOR SHARE and condemning takes it FOR UPDATE in a statement of its own
before it looks for pins: without both, a pin and a condemnation can commit side by side (scenario
6).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.blockmap.tagged import id_text, positions_by_tag
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import INSERT_COPIES
from libs.catalogdb.packs.damage import ITEM_IS_DAMAGED, note_repair
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.packs.location import PackLocation, locate_packs
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.sessions.attempts import Stale, require_open
from libs.errors import DamagedDataError, InvariantViolation
from libs.events.packs import PackStored


@dataclass(frozen=True, slots=True)
class PackRecord:
    """What the catalog keeps of an uploaded pack, besides its items."""

    pack_no: int
    generation: UUID
    size_bytes: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where items lie: for each id (pack number, place), and the packs."""

    locations: list[tuple[int, int]]
    packs: dict[int, PackLocation]


#: Numbers of the domains that the tags of tagged ids mean.
Domains = Sequence[int]


@idempotent
def lookup_and_pin(
    catalog: Catalog, domains: Domains, attempt: UUID, ids: Sequence[bytes], pinned: set[int]
) -> list[int] | Stale:
    """Find which ids are stored in live packs, and pin those packs for the attempt.

    Args:
        catalog: the catalog.
        domains: where to look; an id is found in the domain of its tag and in no other.
        attempt: must be current.
        ids: tagged chunk ids; some hundred to a few thousand at once are efficient. One statement
            for each domain that occurs.
        pinned: packs known to be pinned by this attempt; extended by those that this call pins.
            Pins fall only with the whole attempt, so what was pinned once needs no second look.

    Returns:
        For each id the number of its pack, 0 where it is unknown or its pack could not be pinned
        (it is being deleted) or it is known to be damaged: such a chunk is stored anew.
    """
    with catalog.reading() as tx:
        found = _find(tx, domains, ids, _FIND_INTACT)
    missing = {pack_no for pack_no, _ in found.values()} - pinned
    refused: set[int] = set()
    if missing:
        # A pack may be rewritten or condemned since we looked; then it is not live and not pinned.
        with catalog.transaction() as tx:
            if not require_open(tx, attempt):
                return Stale(attempt)
            refused = missing - _claim(tx, attempt, missing)
    pinned |= missing - refused
    packs = [0] * len(ids)
    for ordinal, (pack_no, _) in found.items():
        if pack_no not in refused:
            packs[ordinal] = pack_no
    return packs


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
) -> dict[int, int] | Stale:
    """Make an uploaded pack live, pin it and index its items. Its object must be durable.

    An item that another pack registered first keeps that place: the winner's pack is pinned and
    returned, and the caller counts the winner (scenarios 5 and 22).

    Returns:
        For each item that has a winner, by its position in ``ids``, the winner's pack number.
    """
    with catalog.transaction() as tx:
        if not require_open(tx, attempt):
            return Stale(attempt)
        row = tx.execute(
            "SELECT state::text FROM pack WHERE pack_no = %s AND attempt = %s FOR UPDATE",
            [pack.pack_no, attempt],
        ).fetchone()
        state = row[0] if row else None
        if state not in ("u", "l"):  # the sweep was first: the generation is dead for ever
            return Stale(attempt)
        # Its copies in the same statement: a backup makes no more round trips for them.
        tx.execute(
            sql.SQL(
                """WITH live AS (
                       UPDATE pack SET state = 'l', size_bytes = %s, frames = %s, items = %s
                       WHERE pack_no = %s RETURNING pack_no) {}"""
            ).format(INSERT_COPIES),
            [pack.size_bytes, pack.frames, len(ids), pack.pack_no],
        )
        tx.execute(
            "INSERT INTO pin (owner, pack_no) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [attempt, pack.pack_no],
        )
        # Nothing uses it before a seal, and perhaps no seal ever does.
        tx.execute("INSERT INTO candidate VALUES (%s) ON CONFLICT DO NOTHING", [pack.pack_no])
        winners = _index(tx, domain_no, attempt, pack.pack_no, ids, places)
        if state == "u":  # else the answer of a first call was lost
            event = PackStored(
                generation=pack.generation,
                domain=_domain_id(tx, domain_no),
                tenant=tenant,
                session=session,
                size_bytes=pack.size_bytes,
                chunk_count=chunk_count,
            )
            append(tx, "chunker", [Entry(event, tenant, pack.generation.hex, session)])
        return winners


def locate(tx: Tx, domains: Domains, ids: Sequence[bytes]) -> Resolved:
    """Find where items lie, given their tagged ids, in the caller's transaction.

    Raises:
        DamagedDataError: an id is not in the index.
    """
    found = _find(tx, domains, ids)
    if len(found) != len(ids):
        lost = next(id_ for n, id_ in enumerate(ids) if n not in found)
        raise DamagedDataError(
            f"chunk {id_text(lost)}: not in the catalog's index; run a verification"
        )
    packs = {pack_no for pack_no, _ in found.values()}
    return Resolved([found[n] for n in range(len(ids))], locate_packs(tx, packs))


@idempotent
def find_item(catalog: Catalog, domain_no: int, id_: bytes) -> tuple[PackLocation, int]:
    """The pack and the place of one item, unpinned: for what the caller's session or lease keeps.

    Raises:
        DamagedDataError: it is not in the index.
    """
    with catalog.transaction() as tx:
        resolved = locate(tx, [domain_no], [id_])
    pack_no, place = resolved.locations[0]
    return resolved.packs[pack_no], place


@idempotent
def count_by_pack(catalog: Catalog, domains: Domains, ids: Sequence[bytes]) -> dict[int, int]:
    """How many of the tagged ``ids`` (with repetitions) lie in each pack.

    Raises:
        InvariantViolation: one of them is not in the index.
    """
    counts: dict[int, int] = {}
    with catalog.transaction() as tx:
        found = _find(tx, domains, ids)
    if len(found) != len(ids):
        lost = next(id_ for n, id_ in enumerate(ids) if n not in found)
        raise InvariantViolation(
            f"chunk {id_text(lost)}: referenced by the base, but not in the index"
        )
    for pack_no, _ in found.values():
        counts[pack_no] = counts.get(pack_no, 0) + 1
    return counts


def find_items(tx: Tx, domains: Domains, ids: Sequence[bytes]) -> dict[int, tuple[int, int]]:
    """Position in the tagged ``ids`` → (pack number, place), for those in the index."""
    return _find(tx, domains, ids)


def find_damaged(tx: Tx, domains: Domains, ids: Sequence[bytes]) -> dict[int, tuple[int, int]]:
    """The same for those that are known to be damaged where the index has them."""
    return _find(tx, domains, ids, _FIND_DAMAGED)


def pin_packs(tx: Tx, owner: UUID, packs: Iterable[int]) -> set[int]:
    """Pin live packs for a lease; return those that could be pinned."""
    live = {
        row[0]
        for row in tx.execute(
            """SELECT pack_no FROM pack WHERE pack_no = ANY(%s) AND state = 'l'
               ORDER BY pack_no FOR SHARE""",
            [list(packs)],
        )
    }
    tx.execute(
        "INSERT INTO pin (owner, pack_no) SELECT %s, unnest(%s::int[]) ON CONFLICT DO NOTHING",
        [owner, list(live)],
    )
    return live


#: Query parameters: the halves of ids.
_FIND = sql.SQL(
    """SELECT wanted.n::int4, c.pack_no, c.place
       FROM unnest(%s::uuid[], %s::uuid[]) WITH ORDINALITY AS wanted (high, low, n)
       JOIN {table} c ON c.id_high = wanted.high AND c.id_low = wanted.low"""
)
_FIND_INTACT = sql.SQL(_FIND.as_string() + " WHERE NOT " + ITEM_IS_DAMAGED)
_FIND_DAMAGED = sql.SQL(_FIND.as_string() + " WHERE " + ITEM_IS_DAMAGED)


def _find(
    tx: Tx, domains: Domains, ids: Sequence[bytes], query: sql.SQL = _FIND
) -> dict[int, tuple[int, int]]:
    """Position in ``ids`` → (pack number, place), for those in the index that the query wants.

    Rows stay tuples here: a window of a plan looks up tens of thousands of ids at once, and to make
    an object by name of each of 32,768 rows took 56 ms where tuples took 10.

    Raises:
        DamagedDataError: a tag is not in the list of domains.
    """
    found: dict[int, tuple[int, int]] = {}
    for tag, positions in positions_by_tag(ids).items():
        if tag >= len(domains):
            raise DamagedDataError(
                f"chunk {id_text(ids[positions[0]])}: the group's list has {len(domains)} domains"
            )
        all_of_one = len(positions) == len(ids)
        high, low = halves(ids if all_of_one else [ids[n] for n in positions])
        rows = tx.execute(
            query.format(table=chunk_table(domains[tag])), [high, low], binary=True
        ).fetchall()
        if all_of_one:
            return {n - 1: (pack_no, place) for n, pack_no, place in rows}
        found |= {positions[n - 1]: (pack_no, place) for n, pack_no, place in rows}
    return found


def _claim(tx: Tx, attempt: UUID, packs: set[int]) -> set[int]:
    """Pin live packs for an attempt, whose snapshot may come to need items that are dead now.

    A rewriter that has begun to learn which items are live learns by the lost token that it must
    begin again: the pin itself may be gone when it looks (scenario 27).
    """
    live = pin_packs(tx, attempt, packs)
    tx.execute(
        "UPDATE marking SET token = NULL WHERE pack_no = ANY(%s) AND token IS NOT NULL",
        [list(live)],
    )
    return live


def _index(  # noqa: PLR0913 -- the same record as register
    tx: Tx, domain_no: int, attempt: UUID, pack_no: int, ids: Sequence[bytes], places: Sequence[int]
) -> dict[int, int]:
    """Index items that have no place in a live pack yet; pin and return the winners of the others.

    Each step is a statement of its own, because a statement sees other packs as they were when it
    began: one that waited for a rival's row would not see that the rival's pack is live by now, and
    would take over the place that the rival has just been promised (scenarios 5 and 22).
    """
    high, low = halves(ids)
    items = {"pack_no": pack_no, "high": high, "low": low, "places": list(places)}
    fresh = tx.execute(_INSERT.format(table=chunk_table(domain_no)), items)
    if fresh.rowcount == len(ids):
        return {}
    repaired = _repair(tx, domain_no, pack_no, ids, places)
    # A winner may be condemned between our look and our pin; then its row is ours to take. Each
    # turn either pins all winners or meets a newly condemned pack, so it ends.
    while True:
        tx.execute(_TAKE_OVER.format(table=chunk_table(domain_no)), items)
        found = _find(tx, [domain_no], ids)
        if len(found) != len(ids):
            clash = next(id_ for n, id_ in enumerate(ids) if n not in found)
            raise InvariantViolation(
                f"chunk {clash.hex()}: the index holds another id with the same first half; "
                f"refusing to mix them"
            )
        winners = {n: winner for n, (winner, _) in found.items() if winner != pack_no}
        wanted = set(winners.values())
        if not wanted or _claim(tx, attempt, wanted) == wanted:
            note_repair(tx, pack_no, repaired)  # after the pins: who records damage locks so, too
            return winners


def _repair(
    tx: Tx, domain_no: int, pack_no: int, ids: Sequence[bytes], places: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Take over the places of items that are known to be damaged; (pack, id) of each of them."""
    damaged = _find(tx, [domain_no], ids, _FIND_DAMAGED)
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
    domain: UUID = row[0]
    return domain
