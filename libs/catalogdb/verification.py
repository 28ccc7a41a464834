"""What verification reads from the catalog and records there.

A verification reads under leases of its own (`libs.catalogdb.snapshots.leases`), one per volume,
so nothing that it looks at goes away meanwhile. The packs that they pin are its work list: it is in
Postgres, so memory stays bounded whatever the size of the snapshot.

What is found damaged is recorded at once (`libs.catalogdb.packs.damage`); the verdict on a snapshot
comes last, with its event. A crash before that leaves the damage known, the snapshot as it was
judged before, and leases that fall at their deadline; packs that were found intact say when, so a
verification that begins again may skip them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.packs.copies import CopyState, copies_of
from libs.catalogdb.packs.index import find_items
from libs.catalogdb.packs.location import LOCATION_COLUMNS, PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.snapshots.leases import renew_lease
from libs.errors import NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX, VerificationLevel
from libs.events.snapshots import DamagedExtent, SnapshotDamaged, SnapshotVerified


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """What the catalog knows of a snapshot's manifest."""

    key: str
    mac: bytes
    #: MAC of the group's previous snapshot, live or expired; None for the first.
    previous_mac: bytes | None


@dataclass(frozen=True, slots=True)
class PackToCheck:
    """A pack that a verification has pinned."""

    pack: PackLocation
    domain_no: int
    #: In order of the stores.
    copies: Sequence[CopyState]


@dataclass(frozen=True, slots=True)
class DueSnapshot:
    """A snapshot that should be verified now."""

    tenant: str
    session: UUID
    #: It was verified before: everything is looked at again.
    again: bool
    #: Somebody could not restore it: every byte is looked at.
    demanded: bool


@dataclass(frozen=True, slots=True)
class Intact:
    """Verdict: nothing wrong was found."""

    level: VerificationLevel
    packs: int
    fetched_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Damaged:
    """Verdict: it contains what cannot be read."""

    #: None: it was not verified, but is known to contain what was found damaged elsewhere.
    level: VerificationLevel | None
    damaged_bytes: int
    extent_count: int
    extents: tuple[DamagedExtent, ...]
    manifest: str | None


def read_manifest_record(catalog: Catalog, session: UUID) -> ManifestRecord:
    """What a live snapshot's manifest must be.

    Raises:
        NotFoundError: the snapshot is not live.
    """
    with catalog.transaction() as tx:
        record = one_row(
            tx,
            ManifestRecord,
            """SELECT s.manifest_key AS key, s.mac, coalesce(p.mac, f.mac) AS previous_mac
               FROM snapshot s
               LEFT JOIN snapshot p ON p.group_no = s.group_no AND p.sequence = s.sequence - 1
               LEFT JOIN past f ON f.group_no = s.group_no AND f.sequence = s.sequence - 1
               WHERE s.session = %s AND s.state = 'l'""",
            [session],
        )
    if record is None:
        raise NotFoundError(f"snapshot {session}: it has expired meanwhile")
    return record


def packs_to_check(
    catalog: Catalog, leases: Sequence[UUID], after: int, limit: int
) -> list[PackToCheck]:
    """Packs that the leases have pinned, by number, after ``after``."""

    def made(domain_no: int, **location: Any) -> tuple[int, PackLocation]:
        return domain_no, PackLocation(**location)

    with catalog.transaction() as tx:
        found = all_rows(
            tx,
            made,
            sql.SQL(
                """SELECT p.domain_no, {} FROM pack p JOIN domain d USING (domain_no)
                   WHERE p.pack_no IN (SELECT DISTINCT pack_no FROM pin
                                       WHERE owner = ANY(%s) AND pack_no > %s
                                       ORDER BY pack_no LIMIT %s)
                   ORDER BY p.pack_no"""
            ).format(LOCATION_COLUMNS),
            [list(leases), after, limit],
        )
        copies = copies_of(tx, [pack.pack_no for _, pack in found])
    return [PackToCheck(pack, number, copies.get(pack.pack_no, [])) for number, pack in found]


def measure_pinned(catalog: Catalog, leases: Sequence[UUID]) -> tuple[int, int]:
    """How many packs the leases have pinned, and their bytes."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM pack
               WHERE pack_no IN (SELECT pack_no FROM pin WHERE owner = ANY(%s))""",
            [list(leases)],
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def keep_leases(catalog: Catalog, leases: Sequence[UUID], deadline_seconds: float) -> None:
    """Renew the leases' deadlines.

    Raises:
        NotFoundError: one of them is closed or its deadline has passed.
    """
    with catalog.transaction() as tx:
        for lease in leases:
            renew_lease(tx, lease, deadline_seconds)


def expected_items(
    catalog: Catalog, domain_no: int, pack_no: int, ids: Sequence[bytes]
) -> dict[bytes, int]:
    """Of these items, those that the catalog expects in this pack, and at which place."""
    with catalog.transaction() as tx:
        found = find_items(tx, [domain_no], ids)
    return {ids[n]: place for n, (where, place) in found.items() if where == pack_no}


def has_damage(catalog: Catalog, leases: Sequence[UUID]) -> bool:
    """Whether a pack that the leases have pinned is known to be damaged."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT EXISTS (SELECT FROM damage JOIN pin USING (pack_no)
                              WHERE owner = ANY(%s) AND healed_at IS NULL)""",
            [list(leases)],
        ).fetchone()
    return bool(row and row[0])


def new_damage(catalog: Catalog) -> dict[int, int]:
    """Packs with damage whose snapshots are not named yet, and the newest number in each."""
    with catalog.transaction() as tx:
        rows = tx.execute(
            """SELECT pack_no, max(damage_no) FROM damage
               WHERE NOT assessed AND healed_at IS NULL GROUP BY pack_no ORDER BY pack_no"""
        ).fetchall()
    return dict(rows)


def mark_assessed(catalog: Catalog, packs: dict[int, int]) -> None:
    """Note that the snapshots with damage up to these numbers are named."""
    with catalog.transaction() as tx:
        tx.execute(
            """UPDATE damage d SET assessed = true
               FROM unnest(%s::int[], %s::int[]) AS done (pack_no, newest)
               WHERE d.pack_no = done.pack_no AND d.damage_no <= done.newest""",
            [list(packs), list(packs.values())],
        )


def snapshots_with(catalog: Catalog, packs: Sequence[int]) -> list[tuple[str, UUID]]:
    """Tenant and session of live snapshots that may read from these packs, oldest first.

    A snapshot reads from the packs that it is counted in and from those that lean on them.
    """
    with catalog.transaction() as tx:
        rows = tx.execute(
            """WITH RECURSIVE counted (pack_no) AS (
                   SELECT unnest(%s::int[])
                   UNION SELECT l.on_pack_no FROM leans l JOIN counted USING (pack_no))
               SELECT DISTINCT t.name, s.session, s.sealed_at
               FROM counted JOIN pack_use u USING (pack_no) JOIN volume v USING (volume_no)
               JOIN tenant t USING (tenant_no)
               JOIN snapshot s ON s.group_no = v.group_no AND s.state = 'l'
                AND s.sequence >= u.first_sequence
                AND s.sequence <= coalesce(u.last_sequence, s.sequence)
               ORDER BY s.sealed_at, s.session""",
            [list(packs)],
        ).fetchall()
    return [(tenant, session) for tenant, session, _ in rows]


def demand_verification(catalog: Catalog, session: UUID) -> None:
    """Have a snapshot verified in full soon: whoever restores it says that it is damaged.

    A client's word starts a look; it is never taken for damage.
    """
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO verification (session, level, damaged, damaged_bytes, demanded)
               VALUES (%s, '', false, 0, true)
               ON CONFLICT (session) DO UPDATE SET demanded = true""",
            [session],
        )


def next_due(
    catalog: Catalog, period_seconds: float, but: Collection[UUID] = ()
) -> DueSnapshot | None:
    """The live snapshot to verify next, or None.

    First those that could not be restored; then those that were never verified, newest first; then
    damaged ones whose group has a newer snapshot, which may have repaired them; then the one that
    was verified longest ago, if that is longer than the period. Those of ``but`` are left out.
    """
    with catalog.transaction() as tx:
        return one_row(
            tx,
            DueSnapshot,
            """SELECT t.name AS tenant, s.session, v.level <> '' IS TRUE AS again,
                      v.demanded IS TRUE AS demanded
               FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               LEFT JOIN verification v USING (session)
               WHERE s.state = 'l' AND s.session <> ALL(%s)
                 AND (v.level <> '' IS NOT TRUE OR v.demanded
                      OR v.verified_at < now() - make_interval(secs => %s)
                      OR v.damaged AND EXISTS (SELECT FROM snapshot n
                                               WHERE n.group_no = s.group_no AND n.state = 'l'
                                                 AND n.sealed_at > v.verified_at))
               ORDER BY v.demanded IS NOT TRUE, v.level <> '' IS TRUE, v.damaged DESC,
                        v.verified_at, s.sealed_at DESC
               LIMIT 1""",
            [list(but), period_seconds],
        )


def verified_before(
    catalog: Catalog, session: UUID, period_seconds: float
) -> dict[int, tuple[bytes | None, int]]:
    """Map roots of the newest older snapshot of the group that was verified within the period.

    Returns:
        Volume number → root and its level; empty if there is none, or damage was found in it.
    """
    with catalog.transaction() as tx:
        rows = tx.execute(
            """SELECT volume_no, root, root_level FROM snapshot_volume WHERE session =
               (SELECT o.session FROM snapshot s
                JOIN snapshot o ON o.group_no = s.group_no AND o.sequence < s.sequence
                 AND o.state = 'l'
                JOIN verification v ON v.session = o.session AND v.level <> '' AND NOT v.damaged
                 AND v.verified_at > now() - make_interval(secs => %s)
                WHERE s.session = %s ORDER BY o.sequence DESC LIMIT 1)""",
            [period_seconds, session],
        ).fetchall()
    return {volume_no: (root, level) for volume_no, root, level in rows}


#: What a verification may have shown, the least first.
_STRENGTHS = ("", "structural", "sampled", "full")


def record_verdict(catalog: Catalog, session: UUID, verdict: Intact | Damaged) -> None:
    """Record what is known of a live snapshot now; nothing if it has expired meanwhile.

    A snapshot that was not verified itself keeps its level and time, and an event that would only
    repeat the last one is not appended. What a verification has shown stands until damage is found.
    """
    damaged = isinstance(verdict, Damaged)
    damaged_bytes = verdict.damaged_bytes if isinstance(verdict, Damaged) else 0
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT t.name, g.group_id, s.sequence, v.damaged AND v.damaged_bytes = %s,
                      CASE WHEN v.damaged THEN '' ELSE coalesce(v.strongest, '') END
               FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               LEFT JOIN verification v USING (session)
               WHERE s.session = %s AND s.state = 'l' FOR SHARE OF s""",
            [damaged_bytes, session],
        ).fetchone()
        if row is None:
            return
        tenant, group, sequence, is_known, stood = row
        if verdict.level is None and is_known:
            return
        shown = verdict.level if isinstance(verdict, Intact) else ""
        strongest = max(shown, stood, key=_STRENGTHS.index) if shown else ""
        tx.execute(
            """INSERT INTO verification AS v (session, level, strongest, strongest_at, damaged,
                                             damaged_bytes)
               VALUES (%(session)s, coalesce(%(level)s, ''), %(strongest)s,
                       CASE WHEN %(strongest)s::text <> '' THEN now() END, %(damaged)s, %(bytes)s)
               ON CONFLICT (session) DO UPDATE
               SET level = coalesce(%(level)s, v.level),
                   strongest = excluded.strongest,
                   strongest_at = CASE WHEN %(stands)s::boolean THEN v.strongest_at
                                       ELSE excluded.strongest_at END,
                   demanded = v.demanded AND %(level)s::text IS DISTINCT FROM 'full',
                   damaged = %(damaged)s,
                   damaged_bytes = %(bytes)s,
                   verified_at = CASE WHEN %(level)s::text IS NULL THEN v.verified_at
                                      ELSE now() END""",
            {
                "session": session,
                "level": verdict.level,
                "strongest": strongest,
                "stands": strongest != shown,
                "damaged": damaged,
                "bytes": damaged_bytes,
            },
        )
        append(tx, "catalog", [_entry(session, verdict, tenant, group, sequence)])


def _entry(
    session: UUID, verdict: Intact | Damaged, tenant: str, group: UUID, sequence: int
) -> Entry:
    event: SnapshotVerified | SnapshotDamaged
    if isinstance(verdict, Intact):
        event = SnapshotVerified(
            session=session,
            group=group,
            sequence=sequence,
            level=verdict.level,
            packs=verdict.packs,
            fetched_bytes=verdict.fetched_bytes,
            seconds=verdict.seconds,
        )
    else:
        event = SnapshotDamaged(
            session=session,
            group=group,
            sequence=sequence,
            damaged_bytes=verdict.damaged_bytes,
            extent_count=verdict.extent_count,
            extents=verdict.extents,
            manifest=verdict.manifest[:MESSAGE_LENGTH_MAX] if verdict.manifest else None,
        )
    return Entry(event, tenant, str(group), session)
