"""Packs as the store has them, and the references of volumes counted anew from their block maps.

Every function is one transaction that may be repeated; services/catalog/recovery/reconciler has the
order.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from libs.blockmap.tagged import positions_by_tag
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.notifications.damage import tell_repaired
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.packs.index import Domains
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows
from libs.events.packs import PackDeleted

#: Nobody's attempt: packs that were found in the store were registered by a catalog of before.
_FOUND = UUID(int=0)


def packs_between(catalog: Catalog, first: UUID, last: UUID) -> dict[UUID, str]:
    """State of each pack with a generation from ``first`` to ``last``, both included."""
    with catalog.transaction() as tx:
        return dict(
            tx.execute(
                "SELECT generation, state::text FROM pack WHERE generation BETWEEN %s AND %s",
                [first, last],
            ).fetchall()
        )


def bury_condemned(tx: Tx, generation: UUID) -> None:
    """A pack that a later moment had condemned is dead, though its object may still be there.

    A collector of that time may have slept since, and delete it at any moment.
    """
    bury(tx, [generation])
    tx.execute(
        "INSERT INTO pack (generation, state) VALUES (%s, 'd') ON CONFLICT DO NOTHING", [generation]
    )


def bury(tx: Tx, generations: Sequence[UUID]) -> int:
    """Make packs dead for ever in the caller's transaction, whatever the catalog believed of them.

    Nothing is deduplicated against them: look-ups pin live packs only. Volumes that use one are
    counted anew, which finds the snapshots that are damaged by it.

    Returns:
        How many of them were live.
    """
    rows = tx.execute(
        """SELECT pack_no, generation, state::text,
                  tenant_of_domain(pack.domain_no)
           FROM pack WHERE generation = ANY(%s) AND state <> 'd'
           ORDER BY pack_no FOR UPDATE""",
        [list(generations)],
    ).fetchall()
    numbers = [row[0] for row in rows]
    tx.execute("UPDATE pack SET state = 'd', frames = '' WHERE pack_no = ANY(%s)", [numbers])
    for table in ("candidate", "tombstone", "copy", "damage", "marking"):
        tx.execute(
            sql.SQL("DELETE FROM {} WHERE pack_no = ANY(%s)").format(sql.Identifier(table)),
            [numbers],
        )
    tx.execute(
        """INSERT INTO recount SELECT DISTINCT volume_no FROM pack_use WHERE pack_no = ANY(%s)
           ON CONFLICT DO NOTHING""",
        [numbers],
    )
    deleted = [
        Entry(PackDeleted(generation=generation), tenant, generation.hex)
        for _, generation, _, tenant in rows
    ]
    append(tx, "catalog", deleted + tell_repaired(tx, numbers))
    return sum(state == "l" for _, _, state, _ in rows)


@dataclass(frozen=True, slots=True)
class FoundPack:
    """A pack in the store that the catalog does not know, as its trailer describes it."""

    domain: UUID
    generation: UUID
    key_id: UUID
    size_bytes: int
    frames: bytes
    ids: Sequence[bytes]
    places: Sequence[int]


@idempotent
def register_found(catalog: Catalog, pack: FoundPack) -> bool:
    """Make a pack that was found in the store live, and index its items; harmless if repeated.

    Items that lie in another live pack keep that place. Dead generations stay dead.

    Returns:
        False if the catalog does not know the pack's domain: nothing was done.
    """
    with catalog.transaction() as tx:
        domain = tx.execute(
            "SELECT domain_no FROM domain WHERE domain = %s", [pack.domain]
        ).fetchone()
        if domain is None:
            return False
        row = tx.execute(
            """INSERT INTO pack (generation, domain_no, key_id, attempt, state, size_bytes, items,
                                 frames)
               VALUES (%s, %s, %s, %s, 'l', %s, %s, %s)
               ON CONFLICT (generation) DO UPDATE
               SET state = 'l', size_bytes = excluded.size_bytes, items = excluded.items,
                   frames = excluded.frames
               WHERE pack.state = 'u' RETURNING pack_no""",
            [
                pack.generation,
                domain[0],
                pack.key_id,
                _FOUND,
                pack.size_bytes,
                len(pack.ids),
                pack.frames,
            ],
        ).fetchone()
        if row is None:
            return True
        _index(tx, domain[0], row[0], pack)
        # Every live pack without a row of pack_use is a candidate; counting takes it out again.
        tx.execute(
            "INSERT INTO candidate (pack_no, unclaimed) VALUES (%s, true) ON CONFLICT DO NOTHING",
            [row[0]],
        )
        return True


@dataclass(frozen=True, slots=True)
class VolumeToCount:
    """A volume whose references are to be counted anew."""

    volume_no: int
    name: str
    tenant: str
    #: Numbers of the domains that the tags of its maps mean; the first one is the tenant's own.
    domain_nos: Sequence[int]
    #: The tenant's own domain.
    domain: UUID
    key_id: UUID


@dataclass(frozen=True, slots=True)
class LivePoint:
    """A live snapshot of a volume."""

    session: UUID
    sequence: int
    root: bytes | None
    root_level: int
    is_head: bool


@dataclass(frozen=True, slots=True)
class UseRow:
    """A row of `pack_use`."""

    pack_no: int
    addresses: int
    first_sequence: int
    last_sequence: int | None


def volumes_to_count(catalog: Catalog) -> list[VolumeToCount]:
    """The volumes whose references are to be counted anew."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            VolumeToCount,
            """SELECT v.volume_no, v.name, t.name AS tenant,
                      ARRAY(SELECT l.domain_no FROM domain_tag l
                            WHERE l.group_no = v.group_no ORDER BY l.tag) AS domain_nos,
                      d.domain, d.key_id
               FROM recount JOIN volume v USING (volume_no) JOIN tenant t USING (tenant_no)
               JOIN domain d USING (domain_no) ORDER BY v.volume_no""",
        )


def live_points(catalog: Catalog, volume_no: int) -> list[LivePoint]:
    """The live snapshots of a volume, oldest first."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            LivePoint,
            """SELECT s.session, s.sequence, p.root, p.root_level,
                      s.sequence = g.head_sequence AS is_head
               FROM snapshot s JOIN snapshot_volume p USING (session)
               JOIN volume_group g USING (group_no)
               WHERE p.volume_no = %s AND s.state = 'l' ORDER BY s.sequence""",
            [volume_no],
        )


def count_live(
    catalog: Catalog, domains: Domains, ids: Sequence[bytes]
) -> tuple[Counter[int], list[bytes]]:
    """How many of the tagged ids, with repetitions, lie in each live pack; and those in none."""
    counts: Counter[int] = Counter()
    found = set[int]()
    with catalog.reading() as tx:
        for tag, positions in positions_by_tag(ids).items():
            if tag >= len(domains):
                continue  # nobody knows where they lie
            high, low = halves([ids[n] for n in positions])
            rows = tx.execute(
                sql.SQL(
                    """SELECT wanted.n::int4, c.pack_no
                       FROM unnest(%s::uuid[], %s::uuid[]) WITH ORDINALITY AS wanted (high, low, n)
                       JOIN {} c ON c.id_high = wanted.high AND c.id_low = wanted.low
                       JOIN pack p ON p.pack_no = c.pack_no AND p.state = 'l'"""
                ).format(chunk_table(domains[tag])),
                [high, low],
            ).fetchall()
            found.update(positions[n - 1] for n, _ in rows)
            counts.update(pack_no for _, pack_no in rows)
    return counts, [id_ for n, id_ in enumerate(ids) if n not in found]


def replace_uses(
    catalog: Catalog, volume_no: int, rows: Iterable[UseRow], *, damaged: bool
) -> None:
    """Replace the references of a volume by what was counted.

    Args:
        catalog: the catalog.
        volume_no: the volume.
        rows: its new rows.
        damaged: something that a snapshot refers to is gone: the next session takes no base, so
            that nothing is shared with a map whose chunks are not all there.
    """
    with catalog.transaction() as tx:
        before = {
            row[0]
            for row in tx.execute(
                "DELETE FROM pack_use WHERE volume_no = %s RETURNING pack_no", [volume_no]
            )
        }
        columns = "COPY pack_use (volume_no, pack_no, addresses, first_sequence, last_sequence) "
        with tx.cursor() as cursor, cursor.copy((columns + "FROM STDIN").encode()) as copy:
            for row in rows:
                copy.write_row(
                    (volume_no, row.pack_no, row.addresses, row.first_sequence, row.last_sequence)
                )
        # Nobody gave up what they use no more: the rows may have been right, and the count wrong.
        tx.execute(
            """INSERT INTO candidate (pack_no, unclaimed)
               SELECT pack_no, true FROM unnest(%s::int[]) AS gone (pack_no)
               JOIN pack p USING (pack_no) WHERE p.state = 'l'
                 AND NOT EXISTS (SELECT FROM pack_use u WHERE u.pack_no = gone.pack_no)
               ON CONFLICT DO NOTHING""",
            [list(before)],
        )
        tx.execute(
            """DELETE FROM candidate c WHERE unclaimed
                 AND EXISTS (SELECT FROM pack_use u
                             WHERE u.volume_no = %s AND u.pack_no = c.pack_no)""",
            [volume_no],
        )
        if damaged:
            tx.execute("UPDATE volume SET counted_damage = -1 WHERE volume_no = %s", [volume_no])
        tx.execute("DELETE FROM recount WHERE volume_no = %s", [volume_no])


def _index(tx: Tx, domain_no: int, pack_no: int, pack: FoundPack) -> None:
    high, low = halves(pack.ids)
    items: Mapping[str, object] = {
        "pack_no": pack_no,
        "high": high,
        "low": low,
        "places": list(pack.places),
    }
    tx.execute(_INDEX.format(table=chunk_table(domain_no)), items)


#: A row whose pack is not live is taken over. Two ids that share the first half are never mixed.
_INDEX = sql.SQL(
    """INSERT INTO {table} AS c (id_high, id_low, pack_no, place)
       SELECT DISTINCT ON (high) high, low, %(pack_no)s, place
       FROM unnest(%(high)s::uuid[], %(low)s::uuid[], %(places)s::int[]) AS item (high, low, place)
       ORDER BY high
       ON CONFLICT (id_high) DO UPDATE SET pack_no = excluded.pack_no, place = excluded.place
       WHERE c.id_low = excluded.id_low
         AND NOT EXISTS (SELECT FROM pack WHERE pack.pack_no = c.pack_no AND pack.state = 'l')"""
)
