"""Rows of a checkpoint or a manifest, made rows of a catalog that has forgotten them.

What a row says wins over what the catalog says, because it is of a later moment. Everything here
may be repeated.
"""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, LiteralString
from uuid import UUID

from msgspec import structs

from libs.catalogdb.domains import add_grant, continue_list
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.references import bury_condemned
from libs.catalogdb.sessions.folding import fold_known, is_past
from libs.checkpoints.rows import (
    CondemnedRow,
    DomainRow,
    GrantRow,
    GroupRow,
    HoldRow,
    NodeRow,
    PastRow,
    RejectedRow,
    Row,
    SnapshotRow,
    SourceRow,
    TenantRow,
    VolumePart,
    VolumeRow,
    VolumeRowV2,
    only_source,
)
from libs.errors import InvariantViolation

log = logging.getLogger(__name__)


def forget_holds(catalog: Catalog) -> None:
    """Before the rows of a checkpoint are applied: it names every hold that there is."""
    with catalog.transaction() as tx:
        tx.execute("DELETE FROM hold")


def apply_rows(catalog: Catalog, rows: Iterable[Row], made_at: datetime) -> None:
    """Make the catalog know what rows of a checkpoint say.

    Args:
        catalog: the catalog.
        rows: some hundred, in the checkpoint's order.
        made_at: when the checkpoint was made; a node that announced itself later is left alone.
    """
    with catalog.transaction() as tx:
        past: list[PastRow] = []
        for row in rows:
            if isinstance(row, PastRow):  # nothing refers to it; most rows are of this kind
                past.append(row)
            else:
                apply_row(tx, row, made_at)
        if past:
            fold_known(tx, past)


def apply_row(tx: Tx, row: Row, made_at: datetime | None) -> None:
    """Make the catalog know what one row says.

    Args:
        tx: the caller's transaction.
        row: of any kind but `PastRow`, which `apply_rows` takes together.
        made_at: when its checkpoint was made; None: a manifest says it, which knows no node's time.
    """
    match row:
        case DomainRow() | TenantRow() | GrantRow():
            _apply_owner(tx, row, is_checkpoint=made_at is not None)
        case NodeRow():
            _apply_node(tx, row, made_at)
        case GroupRow():
            _apply_group(tx, row)
        case VolumeRow() | VolumeRowV2() | SourceRow():
            _apply_protected(tx, row)
        case SnapshotRow():
            _apply_snapshot(tx, row)
        case HoldRow():
            _apply_hold(tx, row)
        case RejectedRow():
            _apply_rejected(tx, row)
        case CondemnedRow():
            bury_condemned(tx, row.generation)


def _apply_owner(tx: Tx, row: DomainRow | TenantRow | GrantRow, *, is_checkpoint: bool) -> None:
    match row:
        case DomainRow():
            _apply_domain(tx, row)
        case TenantRow():
            _apply_tenant(tx, row)
            if is_checkpoint:  # no manifest says it
                tx.execute(
                    "UPDATE tenant SET quota_bytes = %s WHERE name = %s",
                    [row.quota_bytes, row.name],
                )
        case GrantRow():
            _apply_grant(tx, row)


def _apply_domain(tx: Tx, row: DomainRow) -> None:
    number = tx.execute(
        """INSERT INTO domain (domain, key_id) VALUES (%s, %s)
           ON CONFLICT (domain) DO UPDATE SET key_id = excluded.key_id RETURNING domain_no""",
        [row.domain, row.key_id],
    ).fetchone()
    assert number is not None
    tx.execute("SELECT create_chunk_table(%s)", [number[0]])


def _apply_tenant(tx: Tx, row: TenantRow) -> None:
    tx.execute(
        """INSERT INTO tenant (name, domain_no) SELECT %s, domain_no FROM domain WHERE domain = %s
           ON CONFLICT (name) DO NOTHING""",
        [row.name, row.domain],
    )


def _apply_grant(tx: Tx, row: GrantRow) -> None:
    numbers = tx.execute(
        """SELECT d.domain_no, t.tenant_no FROM domain d, tenant t
           WHERE d.domain = %s AND t.name = %s""",
        [row.domain, row.tenant],
    ).fetchone()
    if numbers is None:
        raise InvariantViolation(
            f"grant of domain {row.domain} to tenant {row.tenant}: one of them is nowhere named"
        )
    domain_no, tenant_no = numbers
    add_grant(tx, domain_no, tenant_no)


def _apply_node(tx: Tx, row: NodeRow, made_at: datetime | None) -> None:
    values = {**structs.asdict(row), "made_at": made_at}
    # Nodes are enrolled and forgotten in a reconciled catalog alone, so the checkpoint's credential
    # is the later word even where the node has announced itself meanwhile. If that was by another
    # one, the address is not the node's either. A manifest knows none, and has no `made_at`.
    tx.execute(
        """UPDATE node SET rpc_url = %(rpc_url)s, span_address = %(span_address)s, boot = %(boot)s
           WHERE name = %(name)s AND %(made_at)s::timestamptz IS NOT NULL
             AND (seen_at < %(made_at)s OR credential IS DISTINCT FROM %(credential)s)""",
        values,
    )
    tx.execute(
        """INSERT INTO node (name, rpc_url, span_address, boot, credential, forgotten_at)
           VALUES (%(name)s, %(rpc_url)s, %(span_address)s, %(boot)s, %(credential)s,
                   %(forgotten_at)s)
           ON CONFLICT (name) DO UPDATE
           SET credential = excluded.credential, forgotten_at = excluded.forgotten_at
           WHERE %(made_at)s::timestamptz IS NOT NULL""",
        values,
    )


def _apply_group(tx: Tx, row: GroupRow) -> None:
    _displace(tx, "group", row.tenant, row.name, row.group)
    paused = row.paused
    number = tx.execute(
        """INSERT INTO volume_group (group_id, tenant_no, name, head_sequence, head_session,
                                     head_mac, copies, paused_at, paused_by, paused_reason)
           SELECT %s, tenant_no, %s, %s, %s, %s, %s, %s, %s, %s FROM tenant WHERE name = %s
           ON CONFLICT (group_id) DO UPDATE
           SET name = excluded.name, copies = excluded.copies, paused_at = excluded.paused_at,
               paused_by = excluded.paused_by, paused_reason = excluded.paused_reason
           RETURNING group_no""",
        [
            row.group,
            row.name,
            row.head_sequence,
            row.head_session,
            row.head_mac,
            row.copies,
            paused and paused.at,
            paused and paused.by,
            paused and paused.reason,
            row.tenant,
        ],
    ).fetchone()
    if number is None:
        raise InvariantViolation(f"group {row.name}: its tenant {row.tenant} is nowhere named")
    continue_list(tx, row.group, row.domains)
    move_head(tx, row)
    tx.execute("DELETE FROM retention WHERE group_no = %s", [number[0]])
    if row.retention:
        tx.execute(
            "INSERT INTO retention (group_no, keep_last, keep_for_seconds) VALUES (%s, %s, %s)",
            [number[0], row.retention.keep_last, row.retention.keep_for_seconds],
        )


def move_head(tx: Tx, row: GroupRow) -> None:
    """Heads only move forward: taking back may be repeated after a crash."""
    tx.execute(
        """UPDATE volume_group SET head_sequence = %s, head_session = %s, head_mac = %s
           WHERE group_id = %s AND head_sequence < %s""",
        [row.head_sequence, row.head_session, row.head_mac, row.group, row.head_sequence],
    )


def _apply_hold(tx: Tx, row: HoldRow) -> None:
    tx.execute(
        """INSERT INTO hold (session, owner, reason, placed_at) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        [row.session, row.owner, row.reason, row.placed_at],
    )


def _apply_protected(tx: Tx, row: VolumeRow | VolumeRowV2 | SourceRow) -> None:
    match row:
        case VolumeRow():
            _apply_volume(tx, row)
        case VolumeRowV2():
            _apply_volume(tx, VolumeRow(volume=row.volume, group=row.group, name=row.name))
            _apply_source(tx, only_source(row.volume, row.node, row.path))
        case SourceRow():
            _apply_source(tx, row)


def _apply_volume(tx: Tx, row: VolumeRow) -> None:
    tenant = tx.execute(
        """SELECT t.name FROM volume_group JOIN tenant t USING (tenant_no) WHERE group_id = %s""",
        [row.group],
    ).fetchone()
    if tenant:
        _displace(tx, "volume", tenant[0], row.name, row.volume)
    removed = row.removed
    tx.execute(
        """INSERT INTO volume (volume_id, tenant_no, group_no, name, moved_after, removed_at,
                               removed_by)
           SELECT %s, tenant_no, group_no, %s, %s, %s, %s FROM volume_group WHERE group_id = %s
           ON CONFLICT (volume_id) DO UPDATE
           SET group_no = excluded.group_no, name = excluded.name,
               moved_after = excluded.moved_after, removed_at = excluded.removed_at,
               removed_by = excluded.removed_by""",
        [
            row.volume,
            row.name,
            row.moved_after,
            removed and removed.at,
            removed and removed.by,
            row.group,
        ],
    )
    # Its sources follow, and it may have moved from where the catalog believes it.
    tx.execute(
        """DELETE FROM source o USING volume v
           WHERE v.volume_no = o.volume_no AND v.volume_id = %s""",
        [row.volume],
    )


def _displace(tx: Tx, kind: Literal["group", "volume"], tenant: str, name: str, id_: UUID) -> None:
    """Give whatever else has a name its id as its name, so that a later row can have the name.

    Names are given anew by renaming. Another row of the same checkpoint then says what the one that
    is displaced is called now; if none does, its rename was lost with the catalog.
    """
    others = tx.execute(_DISPLACE[kind], [tenant, name, id_])
    if others.rowcount:
        log.warning("name given anew", extra={"kind": kind, "name_taken": name, "by": str(id_)})


#: The id ends the name, so what was a name stays one: 26 characters, a hyphen and 36 characters.
_DISPLACE: dict[str, LiteralString] = {
    "group": """UPDATE volume_group g SET name = left(g.name, 26) || '-' || group_id FROM tenant t
                WHERE t.tenant_no = g.tenant_no AND t.name = %s AND g.name = %s
                  AND group_id <> %s""",
    "volume": """UPDATE volume v SET name = left(v.name, 26) || '-' || volume_id FROM tenant t
                 WHERE t.tenant_no = v.tenant_no AND t.name = %s AND v.name = %s
                   AND volume_id <> %s""",
}


def _apply_source(tx: Tx, row: SourceRow) -> None:
    tx.execute(
        """INSERT INTO source (volume_no, node_no, path, driver, epoch, freeze_mount, lead)
           SELECT volume_no, node_no, %s, %s, %s, %s, %s FROM volume, node
           WHERE volume_id = %s AND node.name = %s
           ON CONFLICT (volume_no, node_no) DO UPDATE
           SET path = excluded.path, driver = excluded.driver, epoch = excluded.epoch,
               freeze_mount = excluded.freeze_mount, lead = excluded.lead""",
        [row.path, row.driver, row.epoch, row.freeze, row.lead, row.volume, row.node],
    )


def _apply_rejected(tx: Tx, row: RejectedRow) -> None:
    if is_past(tx, row.session):
        return
    tx.execute(
        """INSERT INTO session (session, group_no, state, head_sequence, deadline, ended_at,
                                reject_code)
           SELECT %s, group_no, 'r', %s, now(), now(), %s FROM volume_group WHERE group_id = %s
           ON CONFLICT (session) DO UPDATE
           SET state = 'r', ended_at = now(), reject_code = excluded.reject_code
           WHERE session.state = 'o'""",
        [row.session, row.head_sequence, row.code, row.group],
    )


def _apply_snapshot(tx: Tx, row: SnapshotRow) -> None:
    known = tx.execute(
        "SELECT state = 'l' FROM snapshot WHERE session = %s", [row.session]
    ).fetchone()
    if known:
        tx.execute("UPDATE snapshot SET note = %s WHERE session = %s", [row.note, row.session])
    if (known and (row.live or not known[0])) or is_past(tx, row.session):
        return  # what has expired stays so
    tx.execute(
        """INSERT INTO session (session, group_no, state, base, head_sequence, deadline, opened_at,
                                ended_at)
           SELECT %(session)s, group_no, 's', %(base)s, %(sequence)s - 1, %(at)s, %(at)s, %(at)s
           FROM volume_group WHERE group_id = %(group)s
           ON CONFLICT (session) DO UPDATE
           SET state = 's', ended_at = excluded.ended_at, reject_code = NULL, reject_message = NULL
           WHERE session.state <> 's'""",
        {
            "session": row.session,
            "base": row.base,
            "sequence": row.sequence,
            "at": row.sealed_at,
            "group": row.group,
        },
    )
    tx.execute(
        """INSERT INTO snapshot (session, group_no, sequence, state, base, manifest_key, mac,
                                 consistency, sealed_at, expired_at, recovered, note)
           SELECT %s, group_no, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s
           FROM volume_group WHERE group_id = %s
           ON CONFLICT (session) DO UPDATE
           SET state = excluded.state, expired_at = excluded.expired_at""",
        [
            row.session,
            row.sequence,
            "l" if row.live else "x",
            row.base,
            row.manifest_key,
            row.mac,
            row.consistency,
            row.sealed_at,
            row.expired_at,
            row.recovered,
            row.note,
            row.group,
        ],
    )
    if known is None:
        for part in row.volumes:
            _insert_part(tx, row.session, part)
    # Its volumes' references are no longer what `pack_use` says.
    tx.execute(
        """INSERT INTO recount SELECT volume_no FROM volume JOIN volume_group g USING (group_no)
           WHERE g.group_id = %s ON CONFLICT DO NOTHING""",
        [row.group],
    )


def _insert_part(tx: Tx, session: UUID, part: VolumePart) -> None:
    tx.execute(
        """INSERT INTO snapshot_volume (session, volume_no, root, root_level, size_bytes,
                                        read_bytes, changed_bytes, sent_bytes, stored_bytes)
           SELECT %s, volume_no, %s, %s, %s, %s, %s, %s, %s FROM volume WHERE volume_id = %s""",
        [
            session,
            part.root,
            part.root_level,
            part.size_bytes,
            part.read_bytes,
            part.changed_bytes,
            part.sent_bytes,
            part.stored_bytes,
            part.volume,
        ],
    )
