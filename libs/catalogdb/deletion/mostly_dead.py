"""Mostly dead packs: which ones a rewriter looks at, and what that may free. Nothing is written.

`pack_use` counts only what heads use. What older snapshots use besides is known when their block
maps have been read, which is marking (`libs.catalogdb.deletion.rewriting`); so the choice is a
hint, and bytes are an estimate that holds where no older snapshot uses the pack.
"""

from collections.abc import Collection
from dataclasses import dataclass

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import one_row


@dataclass(frozen=True, slots=True)
class MostlyDead:
    """Packs that seem to be worth marking, and where to go on looking."""

    #: Pack number → number of items.
    packs: dict[int, int]
    #: None: all packs have been looked at.
    next_pack_no: int | None


@dataclass(frozen=True, slots=True)
class Weight:
    """What rewriting some packs may free."""

    size_bytes: int
    #: The share of their items that heads use.
    live_bytes: int
    #: Packs that live snapshots before the heads use too, perhaps more of them; and how much of the
    #: rest, ``size_bytes - live_bytes``, lies in those.
    unsure: int
    unsure_bytes: int


def find_mostly_dead(
    catalog: Catalog, first_pack_no: int, live_share_max: float, scan_count: int
) -> MostlyDead:
    """Look through ``scan_count`` packs for those whose heads use few of their items.

    A hint: older snapshots may use more, which marking finds out, and an item that is used at many
    addresses counts often. A pack that was found too live is left alone for the time that was then
    asked for.
    """
    with catalog.reading() as tx:
        rows = tx.execute(
            """SELECT p.pack_no, p.state = 'l' AND p.items > 0
                      AND coalesce(u.addresses, 0) < %(share)s * p.items
                      AND NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = p.pack_no)
                      AND NOT EXISTS (SELECT FROM marking m
                                      WHERE m.pack_no = p.pack_no AND m.again_at > now())
                      AND EXISTS (SELECT FROM pack_use a WHERE a.pack_no = p.pack_no)
                      AND may_be_moved(p.pack_no), p.items
               FROM (SELECT * FROM pack WHERE pack_no >= %(first)s
                     ORDER BY pack_no LIMIT %(count)s) p
               LEFT JOIN LATERAL (SELECT sum(addresses) AS addresses FROM pack_use
                                  WHERE pack_no = p.pack_no AND last_sequence IS NULL) u ON true
               ORDER BY p.pack_no""",
            {"share": live_share_max, "first": first_pack_no, "count": scan_count},
        ).fetchall()
    more = len(rows) == scan_count
    packs = {pack_no: items for pack_no, mostly_dead, items in rows if mostly_dead}
    return MostlyDead(packs, rows[-1][0] + 1 if more else None)


def weigh(catalog: Catalog, packs: Collection[int]) -> Weight:
    """What rewriting these packs may free."""
    with catalog.reading() as tx:
        weight = one_row(
            tx,
            Weight,
            """SELECT coalesce(sum(size_bytes), 0)::bigint AS size_bytes,
                      coalesce(sum(live), 0)::bigint AS live_bytes,
                      count(*) FILTER (WHERE unsure) AS unsure,
                      coalesce(sum(size_bytes - live) FILTER (WHERE unsure), 0)::bigint
                          AS unsure_bytes
               FROM (SELECT p.size_bytes,
                            trunc(p.size_bytes * least(coalesce(u.addresses, 0), p.items)
                                  / greatest(p.items, 1)) AS live,
                            EXISTS (SELECT FROM pack_use o JOIN volume USING (volume_no)
                                    JOIN volume_group g USING (group_no)
                                    JOIN snapshot s USING (group_no)
                                    WHERE o.pack_no = p.pack_no AND s.state = 'l'
                                      AND s.sequence BETWEEN o.first_sequence
                                      AND coalesce(o.last_sequence, g.head_sequence - 1)) AS unsure
                     FROM pack p
                     LEFT JOIN LATERAL (SELECT sum(addresses) AS addresses FROM pack_use
                                        WHERE pack_no = p.pack_no AND last_sequence IS NULL) u
                       ON true
                     WHERE p.pack_no = ANY(%s)) weighed""",
            [list(packs)],
        )
    assert weight is not None
    return weight
