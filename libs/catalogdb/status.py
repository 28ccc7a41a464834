"""How a tenant's backups stand, and how the installation does: facts for one screen.

Each function is one transaction that reads rows of groups, and of what is wrong, never all
snapshots: the newest recovery point and the newest session of a group each have an index.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows, one_row


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """What is known of a group's backups."""

    group: str
    #: Names of its volumes that are protected.
    volumes: list[str]
    paused_by: str | None
    paused_reason: str | None
    #: Its newest live recovery point, and its age by the catalog's clock.
    sequence: int | None
    sealed_at: datetime | None
    age_seconds: float | None
    #: The session that is open now, and since when.
    open_session: UUID | None
    open_seconds: float | None
    #: A volume of it that no chunker has taken, since its node was told to capture, and the node.
    untaken_seconds: float | None
    untaken_volume: str | None
    untaken_node: str | None
    #: The newest session that ended, if it was rejected.
    failed_session: UUID | None
    failed_at: datetime | None
    failed_code: str | None
    failed_message: str | None
    #: Live recovery points that are known to be damaged.
    damaged: int
    #: Those that should be whole at a second store and are not, an hour after they were sealed.
    lacking_copies: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that has volumes of the tenant."""

    node: str
    volumes: int
    #: Since its agent last announced itself.
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """How a tenant's backups stand."""

    groups: list[GroupStatus]
    nodes: list[NodeStatus]
    #: What it stores, and may store; None: it has no quota.
    stored_bytes: int | None
    quota_bytes: int | None


@dataclass(frozen=True, slots=True)
class InstallationStatus:
    """What concerns all tenants alike."""

    is_reconciled: bool
    #: The time of retention stands still, because a clock jumped.
    is_clock_halted: bool


#: Of a tenant: one row per group that has protected volumes.
_GROUPS: LiteralString = """
    SELECT g.name AS group, members.volumes, g.paused_by, g.paused_reason,
           newest.sequence, newest.sealed_at,
           extract(epoch FROM now() - newest.sealed_at)::float8 AS age_seconds,
           o.session AS open_session,
           extract(epoch FROM now() - o.opened_at)::float8 AS open_seconds,
           extract(epoch FROM now() - coalesce(o.cut_at, o.opened_at))::float8
               AS untaken_seconds,
           untaken.volume AS untaken_volume, untaken.node AS untaken_node,
           failed.session AS failed_session, failed.ended_at AS failed_at,
           failed.reject_code AS failed_code, failed.reject_message AS failed_message,
           (SELECT count(*) FROM verification v JOIN snapshot s USING (session)
            WHERE s.group_no = g.group_no AND s.state = 'l' AND v.damaged) AS damaged,
           CASE WHEN g.copies < 2 THEN 0 ELSE
               (SELECT count(*) FROM snapshot s
                WHERE s.group_no = g.group_no AND s.state = 'l'
                  AND s.replicated_at IS NULL
                  AND s.sealed_at < now() - interval '1 hour') END AS lacking_copies
    FROM volume_group g JOIN tenant t USING (tenant_no)
    JOIN LATERAL (SELECT array_agg(v.name ORDER BY v.name) AS volumes FROM volume v
                  WHERE v.group_no = g.group_no AND v.removed_at IS NULL) members
        ON members.volumes IS NOT NULL
    LEFT JOIN LATERAL (SELECT s.sequence, s.sealed_at FROM snapshot s
                       WHERE s.group_no = g.group_no AND s.state = 'l'
                       ORDER BY s.sequence DESC LIMIT 1) newest ON true
    LEFT JOIN session o ON o.group_no = g.group_no AND o.state = 'o'
    LEFT JOIN LATERAL (SELECT v.name AS volume, n.name AS node
                       FROM part p JOIN volume v USING (volume_no)
                       JOIN node n USING (node_no)
                       WHERE p.session = o.session AND p.attempt IS NULL
                         AND (o.cut_attempt = 0 OR o.cut_at IS NOT NULL)
                       ORDER BY v.name LIMIT 1) untaken ON true
    LEFT JOIN LATERAL (SELECT * FROM session s
                       WHERE s.group_no = g.group_no AND s.state <> 'o'
                       ORDER BY s.opened_at DESC LIMIT 1) failed
        ON failed.state = 'r'
    WHERE t.name = %s ORDER BY g.name"""


def read_tenant_status(catalog: Catalog, tenant: str) -> TenantStatus:
    """How a tenant's backups stand now. Groups without a protected volume are left out."""
    with catalog.reading() as tx:
        groups = all_rows(
            tx,
            GroupStatus,
            _GROUPS,
            [tenant],
        )
        nodes = all_rows(
            tx,
            NodeStatus,
            """SELECT n.name AS node, count(*) AS volumes,
                      extract(epoch FROM now() - n.seen_at)::float8 AS silent_seconds
               FROM volume v JOIN tenant t USING (tenant_no) JOIN source o USING (volume_no)
               JOIN node n USING (node_no)
               WHERE t.name = %s AND v.removed_at IS NULL GROUP BY n.node_no ORDER BY n.name""",
            [tenant],
        )
        room = tx.execute(
            """SELECT t.quota_bytes,
                      CASE WHEN t.quota_bytes IS NOT NULL THEN (
                          SELECT coalesce(sum(p.size_bytes), 0)::bigint FROM pack p
                          WHERE p.domain_no = t.domain_no AND p.state = 'l') END
               FROM tenant t WHERE name = %s""",
            [tenant],
        ).fetchone()
    quota_bytes, stored_bytes = room or (None, None)
    return TenantStatus(groups, nodes, stored_bytes, quota_bytes)


def read_installation_status(catalog: Catalog) -> InstallationStatus:
    """What concerns all tenants alike; brakes and stores have functions of their own."""
    with catalog.reading() as tx:
        found = one_row(
            tx,
            InstallationStatus,
            """SELECT i.reconciled AND i.life = catalog_life() AS is_reconciled,
                      c.halted_since IS NOT NULL AS is_clock_halted
               FROM incarnation i, retention_clock c""",
        )
    assert found is not None
    return found
