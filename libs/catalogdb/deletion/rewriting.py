"""Rewriting: the live items of mostly dead packs move to one new pack, the old ones are condemned.

A rewriter chooses packs (`libs.catalogdb.deletion.mostly_dead`), begins to mark them
(`begin_marking`), reads the block maps of every live snapshot that may need them (`next_point`),
stores those of their items that it met in a new pack (`begin_rewrite`, PUT), and commits
(`commit_rewrite`).

Why nothing that is live stays behind. Let P be an old pack, and an item of P be *live* if a live
snapshot's map names it. The commit happens only if the token that marking began with still stands.

1. When marking began, no pin stood on P, and P was locked FOR UPDATE. So every attempt that had
   pinned P before has ended, and its snapshot, if any, is sealed and visible to what follows.
2. An attempt that pins P later takes the token away (`packs`), in the transaction of its pin, under
   FOR SHARE. The commit locks P FOR UPDATE before it looks at the token, so it sees that, also if
   the session has sealed and dropped its pins since (scenarios 4 and 27). Counts could not tell: a
   session may revive a dead item and drop a live one.
3. A snapshot sealed meanwhile without having pinned P names items of P only below nodes that it
   shares with its base. The base is pinned against expiry until the seal. Points are asked for one
   by one, in order of sequence, each when the one before has been read. So either the base was live
   when the marking passed it, and was read; or it is itself such a snapshot; or it had expired by
   then, and what was built upon it had been sealed, has a higher sequence, and is read in its turn.
4. Nothing else refers to P: `pack_use` names every volume with a live snapshot that does, of
   whatever tenant. One that was granted P's domain names P's items by the tag that the domain has
   in its group, and the marking looks for them by that tag.

Readers need P only while they read: one that stands keeps the rewrite from committing, one that has
gone does not matter. Marking itself is such a reader.

Order: marking begun → maps read → row `uploading` → PUT → the commit. A crash before the commit
leaves a marking that another rewriter may take over at its deadline, and an object that is swept;
after it, tombstones that collectors delete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from libs.catalogdb.deletion.condemning import condemn
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import INSERT_COPIES, withdraw_whole
from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.packs.location import LOCATION_COLUMNS, PackLocation
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows
from libs.catalogdb.snapshots.points import SnapshotVolume, volume_of_snapshot
from libs.events.packs import PackRewritten


@dataclass(frozen=True, slots=True)
class Moved:
    """A new pack's items: where they lie, and how many of them are chunks."""

    ids: Sequence[bytes]
    places: Sequence[int]
    chunk_count: int


def begin_marking(
    catalog: Catalog, token: UUID, packs: Sequence[int], deadline_seconds: float
) -> dict[int, list[PackLocation]]:
    """Begin to mark packs; those that are pinned, locked or marked by another are left out.

    Args:
        catalog: the catalog.
        token: names this marking and owns the packs that come of it.
        packs: what to mark.
        deadline_seconds: without `renew_marking` for so long, another rewriter may begin anew.

    Returns:
        The packs that are being marked, by domain number.

    Raises:
        NotReconciledError: the catalog may be older than the store.
    """
    marked: dict[int, list[PackLocation]] = {}

    def add(domain_no: int, **location: Any) -> None:
        marked.setdefault(domain_no, []).append(PackLocation(**location))

    with catalog.transaction() as tx:
        require_reconciled(tx)
        # A statement of its own: what a session does that holds the pack now is seen by the next.
        free = tx.execute(
            """SELECT pack_no FROM pack WHERE pack_no = ANY(%s) AND state = 'l'
               ORDER BY pack_no FOR UPDATE SKIP LOCKED""",
            [list(packs)],
        ).fetchall()
        all_rows(
            tx,
            add,
            sql.SQL(
                """WITH taken AS (
                   INSERT INTO marking AS m (pack_no, token, again_at)
                   SELECT pack_no, %(token)s, now() + make_interval(secs => %(deadline)s)
                   FROM unnest(%(packs)s::int[]) AS pack_no
                   WHERE NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = pack_no.pack_no)
                     AND may_be_moved(pack_no.pack_no)
                   ORDER BY pack_no
                   ON CONFLICT (pack_no) DO UPDATE
                   SET token = excluded.token, again_at = excluded.again_at
                   WHERE m.again_at <= now()
                   RETURNING pack_no)
               SELECT p.domain_no, {}
               FROM taken JOIN pack p USING (pack_no) JOIN domain d USING (domain_no)
               ORDER BY p.pack_no"""
            ).format(LOCATION_COLUMNS),
            {"token": token, "deadline": deadline_seconds, "packs": [row[0] for row in free]},
        )
    return marked


def renew_marking(catalog: Catalog, token: UUID, deadline_seconds: float) -> set[int]:
    """Move the deadline; returns the packs whose marking still stands."""
    with catalog.transaction() as tx:
        renewed = tx.execute(
            """UPDATE marking SET again_at = now() + make_interval(secs => %s)
               WHERE token = %s RETURNING pack_no""",
            [deadline_seconds, token],
        )
        return {row[0] for row in renewed}


def end_marking(
    catalog: Catalog, token: UUID, too_live: Sequence[int], again_seconds: float
) -> None:
    """Let go of what is still being marked; packs found too live are left alone for some time."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE marking SET token = NULL, again_at = now() + make_interval(secs => %s)
               WHERE token = %s AND pack_no = ANY(%s)""",
            [again_seconds, token, list(too_live)],
        )
        tx.execute("DELETE FROM marking WHERE token = %s", [token])


def indexed_in(catalog: Catalog, domain_no: int, pack_no: int, ids: Sequence[bytes]) -> set[bytes]:
    """Of the items stored in a live pack, those whose place is there: others have it elsewhere.

    The answer can only lose ids later: a place in a live pack is never given to it afterwards.
    """
    high, _ = halves(ids)
    with catalog.reading() as tx:
        rows = tx.execute(
            sql.SQL(
                "SELECT id_high, id_low FROM {} WHERE id_high = ANY(%s::uuid[]) AND pack_no = %s"
            ).format(chunk_table(domain_no)),
            [high, pack_no],
        )
        return {id_high.bytes + id_low.bytes for id_high, id_low in rows}


def next_point(
    catalog: Catalog, packs: Sequence[int], volume_no: int, sequence: int
) -> SnapshotVolume | None:
    """The live snapshot after this one, by volume and sequence, whose volume may need the packs.

    Ask when the one before has been read, never for several in advance (the module says why).
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT t.name, s.session, u.volume_no
               FROM pack_use u JOIN volume v USING (volume_no) JOIN tenant t USING (tenant_no)
               JOIN snapshot s ON s.group_no = v.group_no AND s.state = 'l'
                AND s.sequence BETWEEN u.first_sequence AND coalesce(u.last_sequence, s.sequence)
               WHERE u.pack_no = ANY(%s) AND (u.volume_no, s.sequence) > (%s, %s)
               ORDER BY u.volume_no, s.sequence LIMIT 1""",
            [list(packs), volume_no, sequence],
        ).fetchone()
        if row is None:
            return None
        tenant, session, number = row
        return volume_of_snapshot(tx, tenant, session, number)


@idempotent
def begin_rewrite(catalog: Catalog, token: UUID, domain_no: int, generation: UUID) -> UUID:
    """Claim the generation of a new pack before its object is written; returns its key id.

    Calling it again with the same generation is harmless.
    """
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
               SELECT %s, domain_no, key_id, %s, 'u' FROM domain WHERE domain_no = %s
               ON CONFLICT (generation) DO NOTHING""",
            [generation, token, domain_no],
        )
        row = tx.execute("SELECT key_id FROM pack WHERE generation = %s", [generation]).fetchone()
    assert row is not None
    key_id: UUID = row[0]
    return key_id


@idempotent
def commit_rewrite(  # noqa: PLR0913 -- everything that changes at once
    catalog: Catalog,
    token: UUID,
    domain_no: int,
    new: PackRecord,
    moved: Moved,
    old: Mapping[int, Sequence[bytes]],
) -> bool:
    """Make the new pack live, repoint what lies in it, and condemn the old packs, all at once.

    Args:
        catalog: the catalog.
        token: what the old packs were marked with.
        domain_no: their domain.
        new: the new pack; its object is durable. Its ``pack_no`` is not looked at.
        moved: what lies in it: every live item of the old packs.
        old: pack number → all ids that were ever stored in it.

    Returns:
        Whether it happened. False: a pin stands on an old pack or came and went since its marking
        began, it is damaged, or the sweep was first; nothing was changed.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        if _is_done(tx, new.generation, old):  # the answer of a first call was lost
            return True
        # Items before packs, as `register` does, in order of ids.
        _lock_items(tx, domain_no, [id_ for ids in old.values() for id_ in ids])
        if not _may_commit(tx, token, list(old)):
            return False
        row = tx.execute(
            sql.SQL(
                """WITH live AS (
                       UPDATE pack SET state = 'l', size_bytes = %s, frames = %s, items = %s
                       WHERE generation = %s AND attempt = %s AND state = 'u' RETURNING pack_no),
                   copies AS ({})
                   SELECT pack_no FROM live"""
            ).format(INSERT_COPIES),
            [new.size_bytes, new.frames, len(moved.ids), new.generation, token],
        ).fetchone()
        if row is None:
            return False
        _repoint(tx, domain_no, row[0], moved, old)
        _move_uses(tx, row[0], list(old))
        withdraw_whole(tx, row[0])
        # Nothing may use it any more: expiry works beside us.
        tx.execute("INSERT INTO candidate VALUES (%s) ON CONFLICT DO NOTHING", [row[0]])
        entries = _condemn(tx, domain_no, row[0], new, moved, list(old))
        append(tx, "catalog", entries)
        return True


def _is_done(tx: Tx, generation: UUID, old: Mapping[int, Sequence[bytes]]) -> bool:
    row = tx.execute(
        """SELECT count(*) FROM pack o JOIN pack n ON n.pack_no = o.moved_to
           WHERE o.pack_no = ANY(%s) AND n.generation = %s""",
        [list(old), generation],
    ).fetchone()
    return bool(row and row[0] == len(old))


def _lock_items(tx: Tx, domain_no: int, ids: Sequence[bytes]) -> None:
    high, _ = halves(ids)
    tx.execute(
        sql.SQL(
            """SELECT FROM {} WHERE id_high = ANY(%s::uuid[]) ORDER BY id_high FOR UPDATE"""
        ).format(chunk_table(domain_no)),
        [high],
    )


def _may_commit(tx: Tx, token: UUID, old: Sequence[int]) -> bool:
    """Lock the old packs, then look: each is live, unpinned, and marked by us to this day."""
    locked = tx.execute(
        "SELECT state = 'l' FROM pack WHERE pack_no = ANY(%s) ORDER BY pack_no FOR UPDATE", [old]
    ).fetchall()
    standing = tx.execute(
        """SELECT count(*) FROM marking m
           WHERE pack_no = ANY(%s) AND token = %s AND may_be_moved(pack_no)
             AND NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = m.pack_no)""",
        [old, token],
    ).fetchone()
    return all(live for (live,) in locked) and standing is not None and standing[0] == len(old)


def _repoint(
    tx: Tx, domain_no: int, new: int, moved: Moved, old: Mapping[int, Sequence[bytes]]
) -> None:
    """The index says where live items are now, and forgets those that were left behind."""
    table = chunk_table(domain_no)
    high, low = halves(moved.ids)
    tx.execute(
        sql.SQL(
            """UPDATE {} AS c SET pack_no = %s, place = item.place
               FROM unnest(%s::uuid[], %s::uuid[], %s::int[]) AS item (high, low, place)
               WHERE c.id_high = item.high AND c.id_low = item.low AND c.pack_no = ANY(%s)"""
        ).format(table),
        [new, high, low, list(moved.places), list(old)],
    )
    high, _ = halves([id_ for ids in old.values() for id_ in ids])
    tx.execute(
        sql.SQL("DELETE FROM {} WHERE id_high = ANY(%s::uuid[]) AND pack_no = ANY(%s)").format(
            table
        ),
        [high, list(old)],
    )


def _move_uses(tx: Tx, new: int, old: Sequence[int]) -> None:
    """References follow the items; a volume's open rows become one.

    Rows change in place, so that an expiry or a seal that waits for one of them finds it. The lock
    comes first: what it waited for is then seen by the statements after it.
    """
    tx.execute("SELECT FROM pack_use WHERE pack_no = ANY(%s) ORDER BY pack_no FOR UPDATE", [old])
    tx.execute(
        """UPDATE pack_use u SET addresses = one.addresses, first_sequence = one.first_sequence
           FROM (SELECT volume_no, min(pack_no) AS pack_no, sum(addresses) AS addresses,
                        min(first_sequence) AS first_sequence
                 FROM pack_use WHERE pack_no = ANY(%s) AND last_sequence IS NULL
                 GROUP BY volume_no) one
           WHERE (u.volume_no, u.pack_no) = (one.volume_no, one.pack_no)
             AND u.last_sequence IS NULL""",
        [old],
    )
    tx.execute(
        """DELETE FROM pack_use u USING pack_use kept
           WHERE u.pack_no = ANY(%s) AND kept.pack_no = ANY(%s) AND u.volume_no = kept.volume_no
             AND u.last_sequence IS NULL AND kept.last_sequence IS NULL
             AND u.pack_no > kept.pack_no""",
        [old, old],
    )
    tx.execute("UPDATE pack_use SET pack_no = %s WHERE pack_no = ANY(%s)", [new, old])


def _condemn(  # noqa: PLR0913 -- old and new
    tx: Tx, domain_no: int, new_no: int, new: PackRecord, moved: Moved, old: Sequence[int]
) -> list[Entry]:
    """The old packs are tombstones; what to log of it."""
    replaced = tx.execute(
        "UPDATE pack SET moved_to = %s WHERE pack_no = ANY(%s) RETURNING generation", [new_no, old]
    ).fetchall()
    tx.execute("DELETE FROM marking WHERE pack_no = ANY(%s)", [old])
    row = tx.execute(
        "SELECT domain, tenant_of_domain(domain_no) FROM domain WHERE domain_no = %s", [domain_no]
    ).fetchone()
    assert row is not None
    domain, tenant = row
    rewritten = PackRewritten(
        generation=new.generation,
        domain=domain,
        tenant=tenant,
        size_bytes=new.size_bytes,
        chunk_count=moved.chunk_count,
        replaced=tuple(generation for (generation,) in replaced),
    )
    return [Entry(rewritten, tenant, new.generation.hex), *condemn(tx, old)]
