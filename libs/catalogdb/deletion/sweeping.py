"""The orphan sweep: objects that the catalog does not need, whoever left them behind.

A generation is written down as dead before its object is deleted, and stays so for ever: whoever
uploads it at this moment cannot register it any more (scenario 7), and should its PUT land later,
the next listing shows an object that is known to be dead (scenario 28). An object's age decides
nothing: it only spares the catalog rows of dead generations while somebody else's clock is wrong.

Sweepers divide the store by prefixes of its keys. A claim has a deadline, and only saves work: to
sweep a prefix twice, or at the same time, is harmless.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from psycopg import sql

from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import one_row


@dataclass(frozen=True, slots=True)
class Claim:
    """A prefix that this sweeper sweeps, and where an earlier one stopped."""

    prefix: str
    #: Key of the last object that was looked at; empty at the beginning.
    after: str


class Verdict(Enum):
    """What the catalog says about an object."""

    #: Needed, perhaps needed, or left to the collector.
    KEEP = "keep"
    #: Its row says that it is dead: delete it, again if need be.
    DEAD = "dead"
    #: Its uploader is gone. It is `DEAD` once `bury_abandoned` has been there.
    ABANDONED = "abandoned"
    #: There is no row of it.
    UNKNOWN = "unknown"


#: Whether somebody may still register the pack `p`, which is being uploaded. A rewriter is there as
#: long as its marking is (`libs.catalogdb.deletion.rewriting`).
_HAS_UPLOADER = sql.SQL(
    """(EXISTS (SELECT FROM attempt a WHERE a.attempt = p.attempt AND a.open)
        OR EXISTS (SELECT FROM marking m WHERE m.token = p.attempt AND m.again_at > now()))"""
)


def begin_pass(catalog: Catalog) -> datetime:
    """The catalog's time: prefixes swept to the end before it belong to earlier passes.

    Raises:
        NotReconciledError: the catalog may be older than the store; nothing may be deleted.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute("SELECT now()").fetchone()
        assert row is not None
        begun: datetime = row[0]
        return begun


def list_prefixes(catalog: Catalog, store_no: int) -> list[str]:
    """What sweepers of a store divide among themselves, ascending: all packs and manifests.

    Raises:
        NotReconciledError: as `begin_pass`: what such a catalog says of objects means nothing.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        rows = tx.execute(
            "SELECT prefix FROM sweep WHERE store_no = %s ORDER BY prefix", [store_no]
        )
        return [row[0] for row in rows]


def claim_prefix(catalog: Catalog, store_no: int, begun: datetime, seconds: float) -> Claim | None:
    """Claim a prefix that was not swept since, for so long; None if others have the rest.

    Raises:
        NotReconciledError: as `begin_pass`.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        return one_row(
            tx,
            Claim,
            """UPDATE sweep SET claimed_until = now() + make_interval(secs => %s)
               WHERE (store_no, prefix) = (
                   SELECT store_no, prefix FROM sweep
                   WHERE store_no = %s AND swept_at < %s AND claimed_until <= now()
                   ORDER BY swept_at, prefix LIMIT 1 FOR UPDATE SKIP LOCKED)
               RETURNING prefix, after""",
            [seconds, store_no, begun],
        )


def advance(catalog: Catalog, store_no: int, prefix: str, after: str, seconds: float) -> None:
    """Record how far a prefix is swept and renew the claim; 0 seconds give it back."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE sweep SET after = %s, claimed_until = now() + make_interval(secs => %s)
               WHERE store_no = %s AND prefix = %s""",
            [after, seconds, store_no, prefix],
        )


def finish_prefix(catalog: Catalog, store_no: int, prefix: str) -> None:
    """Record that a prefix is swept to its end; the next pass begins it anew."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE sweep SET after = '', swept_at = now(), claimed_until = '-infinity'
               WHERE store_no = %s AND prefix = %s""",
            [store_no, prefix],
        )


def judge_packs(catalog: Catalog, generations: Sequence[UUID]) -> dict[UUID, Verdict]:
    """What the catalog says about packs that a listing showed; writes nothing."""
    with catalog.reading() as tx:
        rows = tx.execute(
            sql.SQL(
                """SELECT p.generation,
                          CASE WHEN p.state = 'd' THEN 'dead'
                               WHEN p.state = 'u' AND NOT {} THEN 'abandoned'
                               ELSE 'keep' END
                   FROM pack p WHERE p.generation = ANY(%s)"""
            ).format(_HAS_UPLOADER),
            [list(generations)],
        ).fetchall()
    known = {generation: Verdict(verdict) for generation, verdict in rows}
    return {generation: known.get(generation, Verdict.UNKNOWN) for generation in generations}


def bury_abandoned(catalog: Catalog, limit: int) -> int:
    """Write down as dead what nobody can register any more; how many, at most ``limit``.

    Its attempt is closed for ever, or its rewriter has missed the deadline: should that one still
    live, its commit finds the pack dead and gives up.

    Raises:
        NotReconciledError: as `begin_pass`.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        return tx.execute(
            sql.SQL(
                """UPDATE pack SET state = 'd' WHERE pack_no IN (
                       SELECT pack_no FROM pack p WHERE state = 'u' AND NOT {}
                       ORDER BY pack_no LIMIT %s FOR UPDATE SKIP LOCKED)"""
            ).format(_HAS_UPLOADER),
            [limit],
        ).rowcount


def bury_unknown(catalog: Catalog, generations: Collection[UUID]) -> set[UUID]:
    """Write down as dead what the catalog has never known; returns those that may be deleted.

    One that somebody has claimed meanwhile is not among them.

    Raises:
        NotReconciledError: as `begin_pass`; what such a catalog does not know may be needed.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        rows = tx.execute(
            """INSERT INTO pack (generation, state) SELECT unnest(%s::uuid[]), 'd'
               ON CONFLICT (generation) DO NOTHING RETURNING generation""",
            [sorted(generations)],
        )
        return {row[0] for row in rows}


def judge_manifests(catalog: Catalog, sessions: Mapping[str, UUID]) -> dict[str, Verdict]:
    """What the catalog says about manifests that a listing showed; writes nothing.

    A manifest of an open session is kept, whether or not it is the one that the seal will name;
    that of an expired snapshot is left to the collector until that has deleted it once.
    Sessions end once and for all, and the seal writes the snapshot's row in the same transaction,
    so a manifest that is dead here stays so, and no lock is needed.

    Args:
        catalog: the catalog.
        sessions: object key of each manifest → the session that its name says.

    Raises:
        NotReconciledError: as `begin_pass`; what such a catalog does not know may be needed.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        rows = tx.execute(
            """SELECT key, CASE WHEN f.session IS NOT NULL THEN 'dead'
                                WHEN s.session IS NULL THEN 'unknown'
                                WHEN s.state = 'o' THEN 'keep'
                                WHEN n.manifest_key = key AND NOT n.manifest_deleted THEN 'keep'
                                ELSE 'dead' END
               FROM unnest(%s::text[], %s::uuid[]) AS manifest (key, session)
               LEFT JOIN session s USING (session) LEFT JOIN snapshot n USING (session)
               LEFT JOIN past f USING (session)""",
            [list(sessions), list(sessions.values())],
        ).fetchall()
    return {key: Verdict(verdict) for key, verdict in rows}
