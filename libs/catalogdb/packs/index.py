"""The index of what lies in packs: look up and pin, locate, count.

A pin takes the pack's row FOR SHARE and condemning takes it FOR UPDATE in a statement of its own
before it looks for pins: without both, a pin and a condemnation can commit side by side (scenario
6).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.blockmap.tagged import id_text, positions_by_tag
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.packs.damage import ITEM_IS_DAMAGED
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.packs.location import PackLocation, locate_packs
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_whole
from libs.catalogdb.sessions.attempts import Stale, require_open
from libs.errors import DamagedDataError, InvariantViolation


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
            refused = missing - pin_for_attempt(tx, attempt, missing)
    pinned |= missing - refused
    packs = [0] * len(ids)
    for ordinal, (pack_no, _) in found.items():
        if pack_no not in refused:
            packs[ordinal] = pack_no
    return packs


def locate(tx: Tx, domains: Domains, ids: Sequence[bytes], *, whole: bool = True) -> Resolved:
    """Find where items lie, given their tagged ids, in the caller's transaction.

    Args:
        tx: the transaction.
        domains: which domains they may be of.
        ids: the tagged ids.
        whole: only a reconciled catalog may say that an item is not there; who reconciles it asks
            what it has so far.

    Raises:
        DamagedDataError: an id is not in the index.
        NotReconciledError: it is not there, and the catalog may not know yet what the store has.
    """
    found = _find(tx, domains, ids)
    if whole and len(found) != len(ids):
        require_whole(tx)
        found = _find(tx, domains, ids)
    if len(found) != len(ids):
        lost = next(id_ for n, id_ in enumerate(ids) if n not in found)
        raise DamagedDataError(
            f"chunk {id_text(lost)}: not in the catalog's index; run a verification"
        )
    packs = {pack_no for pack_no, _ in found.values()}
    return Resolved([found[n] for n in range(len(ids))], locate_packs(tx, packs))


@idempotent
def find_item(
    catalog: Catalog, domain_no: int, id_: bytes, *, whole: bool = True
) -> tuple[PackLocation, int]:
    """The pack and the place of one item, unpinned: for what the caller's session or lease keeps.

    Raises as `locate` does.
    """
    with catalog.transaction() as tx:
        resolved = locate(tx, [domain_no], [id_], whole=whole)
    pack_no, place = resolved.locations[0]
    return resolved.packs[pack_no], place


@idempotent
def count_each_by_pack(
    catalog: Catalog, domains: Domains, lists: Sequence[Sequence[bytes]]
) -> list[dict[int, int]]:
    """How many of the tagged ids of each list (with repetitions) lie in each pack.

    Raises:
        InvariantViolation: one of them is not in the index.
    """
    ids = [id_ for one in lists for id_ in one]
    with catalog.transaction() as tx:
        found = _find(tx, domains, ids)
    if len(found) != len(ids):
        lost = next(id_ for n, id_ in enumerate(ids) if n not in found)
        raise InvariantViolation(
            f"chunk {id_text(lost)}: referenced by the base, but not in the index"
        )
    counts, at = [], 0
    for one in lists:
        counts.append(dict(Counter(found[n][0] for n in range(at, at + len(one)))))
        at += len(one)
    return counts


def count_by_pack(catalog: Catalog, domains: Domains, ids: Sequence[bytes]) -> dict[int, int]:
    """The same for one list."""
    return count_each_by_pack(catalog, domains, [ids])[0]


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


def pin_for_attempt(tx: Tx, attempt: UUID, packs: set[int]) -> set[int]:
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
