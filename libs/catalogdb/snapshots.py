"""Reading sealed snapshots: list them, find the one that a recovery point means."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class SnapshotVolume:
    """One volume at one recovery point: the root of its block map and what the snapshot cost."""

    tenant: str
    domain_no: int
    domain: UUID
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


_SNAPSHOTS = """
    SELECT t.name, d.domain_no, d.domain, s.session, s.sequence, s.sealed_at, s.consistency, s.base, g.name, g.group_id,
           v.volume_no, v.volume_id, v.name, n.name, v.path, sv.root, sv.root_level, sv.size_bytes, sv.read_bytes,
           sv.changed_bytes, sv.sent_bytes, sv.stored_bytes
    FROM tenant t JOIN domain d USING (domain_no) JOIN volume_group g USING (tenant_no)
    JOIN snapshot s ON s.group_no = g.group_no AND s.state = 'l'
    JOIN snapshot_volume sv USING (session) JOIN volume v USING (volume_no) JOIN node n USING (node_no)
    WHERE t.name = %(tenant)s"""


def list_snapshots(
    catalog: Catalog,
    tenant: str,
    name: str | None = None,
    limit: int = 1000,
    before: datetime | None = None,
) -> list[SnapshotVolume]:
    """Live snapshots of a tenant, or of one volume or group, newest first; a row per volume."""
    with catalog.transaction() as tx:
        rows = tx.execute(
            _SNAPSHOTS
            + """ AND (%(name)s::text IS NULL OR g.name = %(name)s OR v.name = %(name)s)
                  AND (%(before)s::timestamptz IS NULL OR s.sealed_at < %(before)s)
                  ORDER BY s.sealed_at DESC, s.session, v.name LIMIT %(limit)s""",
            {"tenant": tenant, "name": name, "limit": limit, "before": before},
        ).fetchall()
    return [SnapshotVolume(*row) for row in rows]


def read_snapshot(catalog: Catalog, tenant: str, session: UUID) -> list[SnapshotVolume]:
    """The volumes of one snapshot.

    Raises:
        NotFoundError: the tenant has no live snapshot of this id.
    """
    with catalog.transaction() as tx:
        rows = tx.execute(
            _SNAPSHOTS + " AND s.session = %(session)s ORDER BY v.name",
            {"tenant": tenant, "session": session},
        ).fetchall()
    if not rows:
        raise NotFoundError(f"snapshot {session}: tenant {tenant} has no live snapshot of this id")
    return [SnapshotVolume(*row) for row in rows]


def find_volume_at(
    catalog: Catalog, tenant: str, volume: str, sequence: int | None, at: datetime | None
) -> SnapshotVolume:
    """One volume at a recovery point.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        volume: name of a volume, or of a group with a single volume.
        sequence: number of the snapshot in its group; None for the newest.
        at: with no sequence, the newest snapshot sealed at or before this instant.

    Raises:
        NotFoundError: no such volume, or it has no such recovery point.
    """
    with catalog.transaction() as tx:
        rows = tx.execute(
            _SNAPSHOTS
            + """ AND (v.name = %(name)s OR g.name = %(name)s)
                  AND (%(sequence)s::int IS NULL OR s.sequence = %(sequence)s)
                  AND (%(at)s::timestamptz IS NULL OR s.sealed_at <= %(at)s)
                  ORDER BY s.sequence DESC, v.name = %(name)s DESC LIMIT 2""",
            {"tenant": tenant, "name": volume, "sequence": sequence, "at": at},
        ).fetchall()
    found = [SnapshotVolume(*row) for row in rows]
    if not found:
        point = sequence if sequence is not None else at.isoformat() if at else "latest"
        raise NotFoundError(
            f"{volume}@{point}: tenant {tenant} has no such recovery point; `backcast snapshot list {volume}` shows them"
        )
    first, *rest = found
    if first.name != volume and rest and rest[0].session == first.session:
        raise NotFoundError(f"{volume}: is a group of several volumes; name one of them")
    return first
