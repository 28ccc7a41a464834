"""Taking back what a catalog has forgotten: rows of checkpoints, manifests, packs.

Every function is one transaction that may be repeated; together they bring a catalog that fell
back, or an empty one, to what the store proves (services/catalog/recovery/reconciler has the
order). What a row says wins over what the catalog says, because it is of a later moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.domains import continue_list
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.applying import apply_row, move_head
from libs.catalogdb.rows import all_rows
from libs.catalogdb.sessions.folding import are_past
from libs.checkpoints.rows import (
    DomainRow,
    GroupRow,
    NodeRow,
    SnapshotRow,
    SourceRow,
    TenantRow,
    VolumeRow,
)
from libs.events.snapshots import SnapshotRecovered


@dataclass(frozen=True, slots=True)
class GroupHead:
    """Where a group's history ends, as far as the catalog knows."""

    tenant: str
    group: UUID
    sequence: int
    session: UUID | None
    mac: bytes | None


def group_heads(catalog: Catalog) -> list[GroupHead]:
    """All groups with their heads."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            GroupHead,
            """SELECT t.name AS tenant, group_id AS group, head_sequence AS sequence,
                      head_session AS session, head_mac AS mac
               FROM volume_group JOIN tenant t USING (tenant_no) ORDER BY group_id""",
        )


def live_manifests(catalog: Catalog, group: UUID) -> list[str]:
    """Keys of the manifests of a group's live snapshots."""
    with catalog.transaction() as tx:
        rows = tx.execute(
            """SELECT manifest_key FROM snapshot JOIN volume_group USING (group_no)
               WHERE group_id = %s AND state = 'l' ORDER BY sequence""",
            [group],
        ).fetchall()
    return [row[0] for row in rows]


def undecided_sessions(catalog: Catalog, sessions: Sequence[UUID]) -> list[UUID]:
    """Of these sessions, those that the catalog has neither rejected nor folded."""
    with catalog.transaction() as tx:
        rejected = {
            row[0]
            for row in tx.execute(
                "SELECT session FROM session WHERE session = ANY(%s) AND state = 'r'",
                [list(sessions)],
            )
        }
        rejected |= are_past(tx, sessions)
    return [session for session in sessions if session not in rejected]


def unknown_sessions(catalog: Catalog, sessions: Sequence[UUID]) -> list[UUID]:
    """Of these sessions, those that the catalog never heard of."""
    with catalog.transaction() as tx:
        known = {
            row[0]
            for row in tx.execute(
                "SELECT session FROM session WHERE session = ANY(%s)", [list(sessions)]
            )
        }
        known |= are_past(tx, sessions)
    return [session for session in sessions if session not in known]


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot whose manifest continues its group's head; ``group`` has it as the head."""

    #: The tenant's own domain, then others that its block maps name, as far as the store has keys.
    domains: tuple[DomainRow, ...]
    tenant: TenantRow
    group: GroupRow
    nodes: tuple[NodeRow, ...]
    volumes: tuple[VolumeRow, ...]
    sources: tuple[SourceRow, ...]
    snapshot: SnapshotRow


def recover_snapshot(catalog: Catalog, found: Found) -> None:
    """Make a snapshot that only its manifest tells of a recovery point, and its group's head.

    Raises:
        DamagedDataError: its domain tags do not mean what they mean in other snapshots of the
            group, or its chunks are in a domain without keys. Nothing was done.
    """
    snapshot, group = found.snapshot, found.group
    with catalog.transaction() as tx:
        for domain in found.domains:
            if not tx.execute("SELECT 1 FROM domain WHERE domain = %s", [domain.domain]).fetchone():
                apply_row(tx, domain, None)
        apply_row(tx, found.tenant, None)
        if not tx.execute(
            "SELECT 1 FROM volume_group WHERE group_id = %s", [group.group]
        ).fetchone():
            apply_row(tx, group, None)
        continue_list(tx, group.group, group.domains)
        for node in found.nodes:
            apply_row(tx, node, None)
        known = {
            row[0]
            for row in tx.execute(
                "SELECT volume_id FROM volume WHERE volume_id = ANY(%s)",
                [[volume.volume for volume in found.volumes]],
            )
        }
        for volume in found.volumes:
            if volume.volume not in known:
                apply_row(tx, volume, None)
        for source in found.sources:
            if source.volume not in known:
                apply_row(tx, source, None)
        apply_row(tx, snapshot, None)
        move_head(tx, group)
        event = SnapshotRecovered(
            session=snapshot.session,
            group=snapshot.group,
            sequence=snapshot.sequence,
            manifest_key=snapshot.manifest_key,
            proved=not snapshot.recovered,
        )
        append(tx, "catalog", [Entry(event, found.tenant.name, str(group.group), snapshot.session)])


def expire_known(catalog: Catalog, sessions: Sequence[UUID]) -> None:
    """Snapshots of which the log says that they have expired."""
    with catalog.transaction() as tx:
        tx.execute(
            """WITH expired AS (
                   UPDATE snapshot SET state = 'x', expired_at = now()
                   WHERE session = ANY(%s) AND state = 'l' RETURNING session)
               INSERT INTO recount
               SELECT DISTINCT volume_no FROM expired JOIN snapshot_volume USING (session)
               ON CONFLICT DO NOTHING""",
            [list(sessions)],
        )
