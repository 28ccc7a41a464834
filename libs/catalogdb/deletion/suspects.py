"""What is not there: packs without an object, objects without a row, packs without a reference.

Each is a suspect before it is given up, and the brake looks at all of them together
(`libs.catalogdb.deletion.brake`). Order, for each kind: suspects are written down → the brake is
judged → what it lets go is given up, piece by piece, and is a suspect no more. A crash after any
step leaves suspects that the next look judges again.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from psycopg import sql

from libs.catalogdb.deletion.brake import (
    SUSPECTS_MAX,
    Kind,
    clear,
    judge,
    keep_only,
    live_packs,
    suspect,
)
from libs.catalogdb.deletion.condemning import IS_UNUSED
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.recovery.references import bury

#: Packs that are buried in one transaction.
_BURIED_COUNT = 500


def note_missing(catalog: Catalog, generations: Collection[UUID], apart_seconds: float) -> int:
    """Write down that the store has no objects of these packs, which was asked for each by itself.

    A second look that finds the same so much later confirms it. That of live packs alone waits for
    the brake: an upload of before, or a condemned pack, may well have no object.

    Returns:
        How many of them are written down; the others wait until these have gone.
    """
    names = [generation.hex for generation in generations]
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE suspect SET confirmed_at = now()
               WHERE kind = %s AND item = ANY(%s) AND confirmed_at IS NULL
                 AND noted_at <= now() - make_interval(secs => %s)""",
            [Kind.MISSING, names, apart_seconds],
        )
        packs = tx.execute(
            "SELECT generation, size_bytes, state = 'l' FROM pack WHERE generation = ANY(%s)",
            [list(generations)],
        ).fetchall()
        suspect(tx, Kind.MISSING, [(generation.hex, size) for generation, size, _ in packs])
        tx.execute(
            "UPDATE suspect SET accepted = true WHERE kind = %s AND item = ANY(%s)",
            [Kind.MISSING, [generation.hex for generation, _, is_live in packs if not is_live]],
        )
        row = tx.execute(
            "SELECT count(*) FROM suspect WHERE kind = %s AND item = ANY(%s)", [Kind.MISSING, names]
        ).fetchone()
    assert row is not None
    return int(row[0])


def clear_missing(catalog: Catalog, generations: Collection[UUID]) -> int:
    """These packs' objects are there; how many of them were suspects."""
    with catalog.transaction() as tx:
        return clear(tx, Kind.MISSING, [generation.hex for generation in generations])


def count_missing(catalog: Catalog) -> tuple[int, int]:
    """How many packs were found missing, and how many of them by one look only."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT count(*), count(*) FILTER (WHERE confirmed_at IS NULL)
               FROM suspect WHERE kind = %s""",
            [Kind.MISSING],
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def hold_back_missing(catalog: Catalog) -> bool:
    """Whether the packs that are missing are too many to be buried without a person's word."""
    with catalog.transaction() as tx:
        live = live_packs(tx)
        what = (
            f"catalog: the store says of too many packs that it has no such object, of {live} that "
            f"are live; none of them is given up. Is it the right bucket, is it whole, are all of "
            f"its disks and replicas there? They are looked for again by themselves."
        )
        return judge(tx, Kind.MISSING, lambda part: part.is_large_share_of(live), what)


def bury_missing(catalog: Catalog) -> int:
    """Give up the packs whose absence is confirmed, if the brake lets them go; how many were live.

    One transaction for each few hundred; repeating it goes on with the rest.
    """
    lost = 0
    while True:
        with catalog.transaction() as tx:
            items = [
                row[0]
                for row in tx.execute(
                    """SELECT item FROM suspect
                       WHERE kind = %s AND confirmed_at IS NOT NULL ORDER BY item LIMIT %s""",
                    [Kind.MISSING, _BURIED_COUNT],
                )
            ]
            if not items:
                return lost
            lost += bury(tx, [UUID(hex=item) for item in items])
            clear(tx, Kind.MISSING, items)


def note_unknown(catalog: Catalog, objects: Sequence[tuple[str, int]]) -> None:
    """Write down objects, by key and size, that no row of the catalog names."""
    with catalog.transaction() as tx:
        suspect(tx, Kind.UNKNOWN, objects)


def list_unknown(catalog: Catalog, after: str, limit: int) -> list[tuple[str, int, bool]]:
    """Objects that no row named: key, size, and whether a person let it go; a page, by key."""
    with catalog.transaction() as tx:
        return tx.execute(
            """SELECT item, size_bytes, accepted FROM suspect
               WHERE kind = %s AND item > %s ORDER BY item LIMIT %s""",
            [Kind.UNKNOWN, after, limit],
        ).fetchall()


def clear_unknown(catalog: Catalog, keys: Sequence[str]) -> None:
    """These objects are known, or gone."""
    with catalog.transaction() as tx:
        clear(tx, Kind.UNKNOWN, keys)


def hold_back_unknown(catalog: Catalog) -> bool:
    """Whether the objects that no row names are too many to be deleted without a person's word.

    Raises:
        NotReconciledError: the catalog may be older than the store; nothing may be deleted.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        live = live_packs(tx)
        what = (
            f"catalog: too many objects in the store are named by no row, where {live} packs are "
            f"live; none of them is deleted. Is it this catalog's bucket, and has this catalog "
            f"all of its rows?"
        )
        return judge(tx, Kind.UNKNOWN, lambda part: part.is_large_share_of(live), what)


def hold_back_unclaimed(catalog: Catalog) -> bool:
    """Let collection have the live packs that no row refers to, unless they are too many.

    Only those that nobody gave up, see `candidate` in the schema. They are not collected before
    this was called.

    Raises:
        NotReconciledError: the catalog may have gone back in time; nothing may be deleted.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        tx.execute(
            """DELETE FROM candidate c USING pack p
               WHERE c.unclaimed AND p.pack_no = c.pack_no
                 AND (p.state <> 'l'
                      OR EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no))"""
        )
        rows = tx.execute(
            sql.SQL(
                """SELECT generation, size_bytes FROM candidate JOIN pack p USING (pack_no)
                   WHERE unclaimed AND state = 'l' AND {} ORDER BY pack_no LIMIT %s"""
            ).format(IS_UNUSED),
            [SUSPECTS_MAX],
        ).fetchall()
        keep_only(tx, Kind.UNCLAIMED, [(generation.hex, size) for generation, size in rows])
        live = live_packs(tx) if rows else None
        what = (
            f"catalog: too many packs are used by no snapshot, though nobody gave them up, of "
            f"{live} that are live; none of them is collected. Are all snapshots there, as "
            f"`backcast snapshot list` says, and all manifests in the bucket?"
        )
        halted = judge(
            tx, Kind.UNCLAIMED, lambda part: live is None or part.is_large_share_of(live), what
        )
        tx.execute(
            """UPDATE candidate c SET unclaimed = false
               FROM pack p JOIN suspect s ON s.kind = %s AND s.item::uuid = p.generation
               WHERE c.pack_no = p.pack_no AND (s.accepted OR NOT %s)""",
            [Kind.UNCLAIMED, halted],
        )
        return halted
