"""Damage: what is known not to be readable any more, and how the next capture repairs it.

Damage is recorded per item of a pack, or for a whole pack (its object is gone, cut off, another's).
A damaged item is unknown to look-ups, so the next capture that has its bytes stores it in a new
pack R, and `register` repoints its id from the damaged pack P to R: every live snapshot that
contains it reads it from R from then on.

Why no count is ever below what refers to a pack. References are counted per pack and volume, so
after a repair, the volumes that counted the item in P read it in R. A departure of it would be
looked up in R and taken from R's count, where it never was. Therefore:

1. A repair needs damage that was recorded before it. Numbers of damage ascend in order of commit.
2. A session notes the newest damage when it opens. It gets a base only if no damage is newer than
   the volume's last count anew (`volume.counted_damage`) on a pack in which the volume's head is
   counted. So no based session departs from what may have been repointed before it opened. A
   session without a base closes all rows and counts anew, where items lie then; that also makes the
   agent announce chunks that did not change, which is what repairs them.
3. What is damaged, and perhaps repointed, after a session opened is newer than what it noted. The
   seal refuses if there is such damage on a pack that the session touched or, if it has a base, on
   one in which a volume of it is counted. Recording locks the pack FOR UPDATE and the seal FOR
   SHARE, so one of them sees the other.
4. Older snapshots stay counted in P, though they read R. R leans on P: it is not condemned while P
   is live, and P is live while any row on it covers a live snapshot. R may be damaged in turn and
   repaired in S, which leans on R; new packs lean on older ones only, so there is no circle.
5. Only the owner of a domain repairs in it. Volumes of other tenants that name the item count
   anew like the owner's; until the owner has repaired it, their captures cannot name it any more,
   because it is unknown to look-ups, and store the bytes in their own domain.
6. A rewrite moves neither a pack with damage nor one that leans or is leaned on.

So the count of a volume in a pack is that of its head's addresses there, or the volume counts
anew next; and a pack without any count, pin or lean is read by nobody.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.notifications.damage import tell_damage, tell_repaired
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows

#: Stands for the whole pack where an item is expected.
WHOLE_PACK = b""
REASON_LENGTH_MAX = 500
#: Any number that only recorders of damage use.
_NUMBERS_LOCK = 0x64616D61


@dataclass(frozen=True, slots=True)
class KnownDamage:
    """Damage of a live pack that is neither repaired nor found intact again."""

    pack_no: int
    generation: UUID
    #: Id of a chunk or map node, or `WHOLE_PACK`.
    item: bytes
    reason: str


@idempotent
def record_damage(
    catalog: Catalog, pack_no: int, items: Collection[bytes], reason: str
) -> list[bytes]:
    """Record what was found damaged; known damage stays as it is.

    One transaction, which opens the notification too. A crash before its commit leaves the damage
    unknown until it is met again.

    Args:
        catalog: the catalog.
        pack_no: where it lies.
        items: ids, or `WHOLE_PACK` alone.
        reason: what was found, for people.

    Returns:
        Of the items, those whose damage was not known; none if the pack is no longer live: nobody
        reads it any more, and whoever did looks again.
    """
    with catalog.transaction() as tx:
        # Alone in its statement, as condemning does, and before numbers are given.
        row = tx.execute(
            "SELECT state::text FROM pack WHERE pack_no = %s FOR UPDATE", [pack_no]
        ).fetchone()
        if row is None or row[0] != "l":
            return []
        # Held until the commit: whoever sees a number sees every lower one.
        tx.execute("SELECT pg_advisory_xact_lock(%s)", [_NUMBERS_LOCK])
        recorded = tx.execute(
            """INSERT INTO damage AS d (pack_no, item, reason)
               SELECT %s, item, %s FROM unnest(%s::bytea[]) AS item ORDER BY item
               ON CONFLICT (pack_no, item) DO UPDATE
               SET damage_no = excluded.damage_no, reason = excluded.reason, found_at = now(),
                   healed_at = NULL, assessed = false
               WHERE d.healed_at IS NOT NULL RETURNING item""",
            [pack_no, reason[:REASON_LENGTH_MAX], list(dict.fromkeys(items))],
        ).fetchall()
        if items:
            append(tx, "catalog", tell_damage(tx, pack_no, reason[:REASON_LENGTH_MAX]))
        return [bytes(item) for (item,) in recorded]


def withdraw_damage(catalog: Catalog, pack_no: int, items: Collection[bytes]) -> int:
    """Note that items, or `WHOLE_PACK`, were found intact again; returns how many were damaged.

    The rows stay with their numbers: some of the items may have been repointed meanwhile.
    """
    with catalog.transaction() as tx:
        withdrawn = tx.execute(
            """UPDATE damage SET healed_at = now()
               WHERE pack_no = %s AND item = ANY(%s) AND healed_at IS NULL""",
            [pack_no, list(items)],
        )
        append(tx, "catalog", tell_repaired(tx, [pack_no]))
        return withdrawn.rowcount


def demand_recount(catalog: Catalog, volume_no: int) -> None:
    """Make the volume's next session complete: its head contains what the catalog has lost."""
    with catalog.transaction() as tx:
        tx.execute("UPDATE volume SET counted_damage = -1 WHERE volume_no = %s", [volume_no])


def known_damage(catalog: Catalog, packs: Sequence[int], limit: int = 1000) -> list[KnownDamage]:
    """What is known to be damaged in these packs now, at most ``limit`` rows."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            KnownDamage,
            """SELECT d.pack_no, generation, item, reason FROM damage d JOIN pack USING (pack_no)
               WHERE d.pack_no = ANY(%s) AND healed_at IS NULL AND state = 'l'
               ORDER BY d.pack_no, item LIMIT %s""",
            [list(packs), limit],
        )


#: Whether item `c` of a chunk table (id_high, id_low) is known to be damaged. Whether anything is,
#: is asked once per statement: without that, look-ups of 512 ids take a third longer.
ITEM_IS_DAMAGED: LiteralString = """
    (EXISTS (SELECT FROM damage WHERE healed_at IS NULL)
     AND EXISTS (SELECT FROM damage d
                 WHERE d.pack_no = c.pack_no AND d.healed_at IS NULL
                   AND (d.item = '' OR d.item = uuid_send(c.id_high) || uuid_send(c.id_low))))"""


def newest_damage(tx: Tx, group_no: int) -> tuple[int, bool]:
    """The newest damage, and whether volumes of the group must be counted anew because of one.

    A volume that was removed has no part of the session, so nothing departs from its counts. One
    statement, so that what it does not see is newer than what it returns.
    """
    row = tx.execute(
        """SELECT coalesce((SELECT max(damage_no) FROM damage), 0),
                  EXISTS (SELECT FROM volume v
                          WHERE v.group_no = %(group)s AND v.counted_damage < 0
                            AND v.removed_at IS NULL)
                  OR EXISTS (SELECT FROM damage d JOIN pack_use u USING (pack_no)
                             JOIN volume v USING (volume_no)
                             WHERE v.group_no = %(group)s AND u.last_sequence IS NULL
                               AND v.removed_at IS NULL AND d.damage_no > v.counted_damage)""",
        {"group": group_no},
    ).fetchone()
    assert row is not None
    return int(row[0]), bool(row[1])


def damaged_since_opened(tx: Tx, session: UUID, packs: Collection[int]) -> int | None:
    """A pack whose new damage makes the session's counts doubtful, or None.

    Args:
        tx: the seal's transaction, which has locked ``packs``.
        session: the session.
        packs: those that its addresses enter or leave, and where rewrites moved them.
    """
    row = tx.execute(
        """SELECT d.pack_no FROM session s JOIN damage d ON d.damage_no > s.damage_seen
           WHERE s.session = %(session)s
             AND (d.pack_no = ANY(%(packs)s)
                  OR s.base IS NOT NULL
                     AND EXISTS (SELECT FROM pack_use u JOIN part USING (volume_no)
                                 WHERE part.session = s.session AND u.pack_no = d.pack_no
                                   AND u.last_sequence IS NULL))
           LIMIT 1""",
        {"session": session, "packs": list(packs)},
    ).fetchone()
    return int(row[0]) if row else None


def note_repair(tx: Tx, pack_no: int, repaired: Sequence[tuple[int, bytes]]) -> list[Entry]:
    """Note that a new pack holds items that were damaged elsewhere: it leans on those packs.

    Returns what to append to the log.

    Args:
        tx: the transaction that registers the pack and repoints the items.
        pack_no: the new pack.
        repaired: (damaged pack, id) of each item.
    """
    if not repaired:
        return []
    packs, items = [pack for pack, _ in repaired], [item for _, item in repaired]
    tx.execute(
        """INSERT INTO leans (pack_no, on_pack_no) SELECT DISTINCT %s, unnest(%s::int[])
           ON CONFLICT DO NOTHING""",
        [pack_no, packs],
    )
    tx.execute(
        """UPDATE damage d SET healed_at = now()
           FROM unnest(%s::int[], %s::bytea[]) AS r (pack_no, item)
           WHERE d.pack_no = r.pack_no AND d.item = r.item AND d.healed_at IS NULL""",
        [packs, items],
    )
    return tell_repaired(tx, set(packs))


def forget_damage(tx: Tx, packs: Collection[int]) -> list[Entry]:
    """Drop what is known of packs that are condemned; whoever leaned on them does so no more.

    Returns what to append to the log.
    """
    tx.execute("DELETE FROM damage WHERE pack_no = ANY(%s)", [list(packs)])
    tx.execute(
        "DELETE FROM leans WHERE pack_no = ANY(%(packs)s) OR on_pack_no = ANY(%(packs)s)",
        {"packs": list(packs)},
    )
    return tell_repaired(tx, packs)
