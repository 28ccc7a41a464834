"""Packs as whoever reads them needs them: how their frames are found and opened, and where."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.packs.copies import COPIES_OF
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows
from libs.copies.stores import PRIMARY

#: Columns of a `PackLocation`, of pack `p` and domain `d`.
LOCATION_COLUMNS = sql.SQL(
    "p.pack_no, p.generation, d.domain, p.key_id, p.size_bytes, p.frames, {} AS copies"
).format(COPIES_OF)


@dataclass(frozen=True, slots=True)
class PackLocation:
    """A pack that holds wanted items: how its frames are found and opened."""

    pack_no: int
    generation: UUID
    domain: UUID
    key_id: UUID
    size_bytes: int
    frames: bytes
    #: Numbers of the stores that have a copy, in the order in which they are to be asked.
    copies: Sequence[int] = (PRIMARY,)


def locate_packs(tx: Tx, packs: Collection[int]) -> dict[int, PackLocation]:
    """Pack number → where the pack is, of those of these packs that there are."""
    found = all_rows(
        tx,
        PackLocation,
        sql.SQL(
            "SELECT {} FROM pack p JOIN domain d USING (domain_no) WHERE pack_no = ANY(%s)"
        ).format(LOCATION_COLUMNS),
        [list(packs)],
    )
    return {pack.pack_no: pack for pack in found}


@idempotent
def is_live(catalog: Catalog, generation: UUID) -> bool:
    """Whether a pack is live, whichever stores have a copy of it.

    Ask it of a pack that nothing pins before you say that its object is gone or damaged. A pack
    that was condemned meanwhile may be deleted at any moment, and it is nobody's loss.
    """
    with catalog.transaction() as tx:
        live = tx.execute(
            "SELECT FROM pack WHERE generation = %s AND state = 'l'", [generation]
        ).fetchone()
        return live is not None
