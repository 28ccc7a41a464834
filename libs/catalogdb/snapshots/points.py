"""Reading sealed snapshots: list them, find the one that a recovery point means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import is_whole, require_whole
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import InvariantViolation, NotFoundError, NotReconciledError
from libs.points import RecoveryPoint


@dataclass(frozen=True, slots=True)
class SnapshotVolume:
    """One volume at one recovery point: the root of its block map and what the snapshot cost."""

    tenant: str
    #: What the domain tags of the block map mean: numbers of domains, and their names. The first
    #: one is the tenant's own.
    domain_nos: Sequence[int]
    domains: Sequence[UUID]
    #: Of the tenant's own domain: the data key that new packs use.
    key_id: UUID
    session: UUID
    sequence: int
    sealed_at: datetime
    consistency: str
    base: UUID | None
    group: str
    group_id: UUID
    volume_no: int
    volume: UUID
    name: str
    node: str
    path: str
    root: bytes | None
    root_level: int
    size_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int
    #: The strongest verification of its snapshot that still holds, and when it was; None: none.
    verified_at: datetime | None
    verified_level: str | None
    #: Whether its snapshot is known to contain what cannot be read.
    damaged: bool
    #: How its changes were known (`libs.catalogdb.sessions.attempts.Tracking`); ``unknown`` if it
    #: came back from the store, which does not say.
    tracking: str
    #: Why nobody knew what changed, if its tracking was lost.
    lost_reason: str | None
    #: Stores that have all of its snapshot, and how many should by the group's policy.
    copies: int
    copies_wanted: int
    #: What people want to remember about its snapshot.
    note: str | None

    @property
    def domain_no(self) -> int:
        """Number of the tenant's own domain, which the map's nodes are in."""
        return self.domain_nos[0]

    @property
    def domain(self) -> UUID:
        """The tenant's own domain."""
        return self.domains[0]

    def tag_of(self, domain_no: int) -> int:
        """The domain tag by which the volume's maps name chunks of a domain.

        Raises:
            InvariantViolation: the group's list does not have the domain, so no map can name it.
        """
        try:
            return self.domain_nos.index(domain_no)
        except ValueError as err:
            raise InvariantViolation(
                f"volume {self.label}: is counted in packs of domain number {domain_no}, which is "
                f"not in its group's list of domains"
            ) from err

    @property
    def label(self) -> str:
        """How a person names it: ``volume@sequence``."""
        return f"{self.name}@{self.sequence}"


_SNAPSHOT_VOLUMES: LiteralString = """
    SELECT t.name AS tenant,
           ARRAY(SELECT l.domain_no FROM domain_tag l
                 WHERE l.group_no = g.group_no ORDER BY l.tag) AS domain_nos,
           ARRAY(SELECT o.domain FROM domain_tag l JOIN domain o USING (domain_no)
                 WHERE l.group_no = g.group_no ORDER BY l.tag) AS domains,
           d.key_id, s.session, s.sequence, s.sealed_at, s.consistency, s.base,
           g.name AS group, g.group_id, v.volume_no, v.volume_id AS volume, v.name,
           n.name AS node, o.path, sv.root, sv.root_level, sv.size_bytes, sv.read_bytes,
           sv.changed_bytes, sv.sent_bytes, sv.stored_bytes,
           c.strongest_at AS verified_at,
           nullif(c.strongest, '') AS verified_level, coalesce(c.damaged, false) AS damaged,
           sv.tracking, sv.lost_reason, 1 + (s.replicated_at IS NOT NULL)::int AS copies,
           g.copies AS copies_wanted, s.note
    FROM tenant t JOIN domain d USING (domain_no) JOIN volume_group g USING (tenant_no)
    JOIN snapshot s ON s.group_no = g.group_no AND s.state = 'l'
    JOIN snapshot_volume sv USING (session) LEFT JOIN verification c USING (session)
    JOIN volume v USING (volume_no) JOIN source o ON o.volume_no = v.volume_no AND o.lead
    JOIN node n USING (node_no)
    WHERE t.name = %(tenant)s """


def list_snapshots(
    catalog: Catalog, tenant: str, name: str | None, limit: int, before: UUID | None
) -> list[SnapshotVolume]:
    """A page of the tenant's live snapshots, newest first; a row per volume.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: only snapshots of this group, or of the group of this volume.
        limit: snapshots at most; all volumes of each are given.
        before: session of the last snapshot of the previous page.
    """
    page: LiteralString = """
        AND s.session IN (
            SELECT s.session
            FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
            WHERE t.name = %(tenant)s AND s.state = 'l'
              AND (%(name)s::text IS NULL OR g.name = %(name)s
                   OR EXISTS (SELECT FROM volume v
                              WHERE v.group_no = g.group_no AND v.name = %(name)s))
              AND (%(before)s::uuid IS NULL
                   OR (s.sealed_at, s.session) <
                      (SELECT sealed_at, session FROM snapshot WHERE session = %(before)s))
            ORDER BY s.sealed_at DESC, s.session DESC LIMIT %(limit)s)
        ORDER BY s.sealed_at DESC, s.session DESC, v.name"""
    wanted = {"tenant": tenant, "name": name, "limit": limit, "before": before}
    with catalog.transaction() as tx:
        return _select(tx, page, wanted)


def read_snapshot(catalog: Catalog, tenant: str, session: UUID) -> list[SnapshotVolume]:
    """The volumes of one snapshot.

    Raises:
        NotFoundError: the tenant has no live snapshot of this id.
    """
    condition: LiteralString = "AND s.session = %(session)s ORDER BY v.name"
    with catalog.transaction() as tx:
        found = _select(tx, condition, {"tenant": tenant, "session": session})
    if not found:
        raise NotFoundError(f"snapshot {session}: tenant {tenant} has no live snapshot of this id")
    return found


def newest_points(
    catalog: Catalog, tenant: str, group: str | None = None, volume_no: int | None = None
) -> dict[UUID, SnapshotVolume]:
    """The newest recovery point of each of the tenant's volumes that has one, by volume id.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        group: only volumes of this group.
        volume_no: only this volume.
    """
    newest: LiteralString = """
        -- Volume by volume: one that was removed is in the newest snapshots of its group no more.
        AND (s.session, sv.volume_no) IN (
            SELECT newest.session, w.volume_no
            FROM volume w JOIN tenant x USING (tenant_no) JOIN volume_group o USING (group_no),
                 LATERAL (SELECT l.session FROM snapshot l
                          JOIN snapshot_volume p ON p.session = l.session
                                                AND p.volume_no = w.volume_no
                          WHERE l.group_no = w.group_no AND l.state = 'l'
                          ORDER BY l.sequence DESC LIMIT 1) newest
            WHERE x.name = %(tenant)s AND (%(group)s::text IS NULL OR o.name = %(group)s)
              AND (%(volume_no)s::int IS NULL OR w.volume_no = %(volume_no)s))"""
    wanted = {"tenant": tenant, "group": group, "volume_no": volume_no}
    with catalog.transaction() as tx:
        return {point.volume: point for point in _select(tx, newest, wanted)}


@dataclass(frozen=True, slots=True)
class History:
    """How many recovery points a volume has, and since when."""

    points: int
    oldest_at: datetime | None


def read_history(catalog: Catalog, volume_no: int) -> History:
    """The recovery points of a volume, counted."""
    with catalog.reading() as tx:
        found = one_row(
            tx,
            History,
            """SELECT count(*) AS points, min(s.sealed_at) AS oldest_at
               FROM snapshot s JOIN volume v USING (group_no)
               JOIN snapshot_volume p USING (session, volume_no)
               WHERE v.volume_no = %s AND s.state = 'l'""",
            [volume_no],
        )
    assert found is not None
    return found


def find_volume_at(catalog: Catalog, tenant: str, point: RecoveryPoint) -> SnapshotVolume:
    """One volume at a recovery point.

    A point that is not named by its number means the newest one up to a moment. While rows come
    back from the store, a newer one may still be missing, and the older one would pass for it. So
    only a number is answered then.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        point: of a volume, or of a group with a single volume.

    Raises:
        NotFoundError: no such volume, or it has no such recovery point.
        NotReconciledError: the catalog may not know yet what the store has, and either the point
            was not found or it is not named by its number.
    """
    condition: LiteralString = """
        AND (v.name = %(name)s OR g.name = %(name)s)
        AND (%(sequence)s::int IS NULL OR s.sequence = %(sequence)s)
        AND (%(at)s::timestamptz IS NULL OR s.sealed_at <= %(at)s)
        AND (%(ago)s::interval IS NULL OR s.sealed_at <= now() - %(ago)s::interval)
        ORDER BY s.sequence DESC, v.name = %(name)s DESC LIMIT 2"""
    wanted = {
        "tenant": tenant,
        "name": point.name,
        "sequence": point.sequence,
        "at": point.at,
        "ago": point.ago,
    }
    with catalog.transaction() as tx:
        is_sure = point.sequence is not None or is_whole(tx)  # before the rows are read
        found = _select(tx, condition, wanted)
        if not found:
            require_whole(tx)
            found, is_sure = _select(tx, condition, wanted), True
    if found and not is_sure:
        raise NotReconciledError(
            f"{point}: the catalog is not reconciled with the store, so a newer recovery point may "
            f"not be back yet; wait for it (`backcast catalog status` says how far it is), or name "
            f"one by its number: the newest that is known is {found[0].label}"
        )
    if not found:
        raise NotFoundError(
            f"{point}: tenant {tenant} has no such recovery point; "
            f"`backcast snapshot list {point.name}` shows those that there are"
        )
    first, *rest = found
    if first.name != point.name and rest and rest[0].session == first.session:
        raise NotFoundError(f"{point.name}: is a group of several volumes; name one of them")
    return first


def volume_of_snapshot(tx: Tx, tenant: str, session: UUID, volume_no: int) -> SnapshotVolume | None:
    """One volume of a live snapshot, in the caller's transaction."""
    condition: LiteralString = "AND s.session = %(session)s AND v.volume_no = %(volume_no)s"
    wanted = {"tenant": tenant, "session": session, "volume_no": volume_no}
    found = _select(tx, condition, wanted)
    return found[0] if found else None


def _select(tx: Tx, condition: LiteralString, wanted: Mapping[str, object]) -> list[SnapshotVolume]:
    return all_rows(tx, SnapshotVolume, _SNAPSHOT_VOLUMES + condition, wanted)
