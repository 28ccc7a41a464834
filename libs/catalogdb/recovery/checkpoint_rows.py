"""The rows of a checkpoint: what the catalog knows and packs and manifests do not say."""

from collections.abc import Iterator
from typing import LiteralString
from uuid import UUID

from psycopg.rows import TupleRow

from libs.catalogdb.pool import Tx
from libs.checkpoints.rows import (
    CondemnedRow,
    DomainRow,
    GrantRow,
    GroupRow,
    HoldRow,
    NodeRow,
    RejectedRow,
    Retention,
    Row,
    SnapshotRow,
    SourceRow,
    TenantRow,
    VolumePart,
    VolumeRow,
)

#: Rows fetched at a time from the server's cursor.
_BATCH = 1000


def read_rows(tx: Tx) -> Iterator[Row]:
    """All rows, in the order of `Row` and then of their names: equal catalogs give equal rows.

    Args:
        tx: REPEATABLE READ, so that all rows are of one moment.
    """
    for domain, key_id in _stream(tx, "SELECT domain, key_id FROM domain ORDER BY domain"):
        yield DomainRow(domain=domain, key_id=key_id)
    for name, domain in _stream(
        tx,
        'SELECT name, domain FROM tenant JOIN domain USING (domain_no) ORDER BY name COLLATE "C"',
    ):
        yield TenantRow(name=name, domain=domain)
    for domain, tenant in _stream(
        tx,
        """SELECT d.domain, t.name FROM domain_grant g JOIN domain d USING (domain_no)
           JOIN tenant t USING (tenant_no) ORDER BY d.domain, t.name COLLATE "C"
        """,
    ):
        yield GrantRow(domain=domain, tenant=tenant)
    for name, rpc_url, span_address, boot in _stream(
        tx, 'SELECT name, rpc_url, span_address, boot FROM node ORDER BY name COLLATE "C"'
    ):
        yield NodeRow(name=name, rpc_url=rpc_url, span_address=span_address, boot=boot)
    yield from _groups(tx)
    yield from _volumes(tx)
    yield from _snapshots(tx)
    for session, owner, reason, placed_at in _stream(
        tx,
        'SELECT session, owner, reason, placed_at FROM hold ORDER BY session, owner COLLATE "C"',
    ):
        yield HoldRow(session=session, owner=owner, reason=reason, placed_at=placed_at)
    for session, group, head_sequence, code in _stream(
        tx,
        """SELECT s.session, g.group_id, s.head_sequence, coalesce(s.reject_code, '')
           FROM session s JOIN volume_group g USING (group_no, head_sequence)
           WHERE s.state = 'r' ORDER BY s.session""",
    ):
        yield RejectedRow(session=session, group=group, head_sequence=head_sequence, code=code)
    for (generation,) in _stream(
        tx,
        """SELECT generation FROM pack p
           WHERE EXISTS (SELECT FROM tombstone t WHERE t.pack_no = p.pack_no)
           ORDER BY generation""",
    ):
        yield CondemnedRow(generation=generation)


def _groups(tx: Tx) -> Iterator[GroupRow]:
    for row in _stream(
        tx,
        """SELECT g.group_id, t.name, g.name, g.head_sequence, g.head_session, g.head_mac,
                  r.keep_last, r.keep_for_seconds, g.copies,
                  ARRAY(SELECT d.domain FROM domain_tag l JOIN domain d USING (domain_no)
                        WHERE l.group_no = g.group_no ORDER BY l.tag)
           FROM volume_group g JOIN tenant t USING (tenant_no)
           LEFT JOIN retention r USING (group_no)
           ORDER BY g.group_id""",
    ):
        group, tenant, name, sequence, session, mac, keep_last, keep_for, copies, domains = row
        yield GroupRow(
            group=group,
            tenant=tenant,
            name=name,
            head_sequence=sequence,
            head_session=session,
            head_mac=mac,
            retention=None
            if keep_last is None
            else Retention(keep_last=keep_last, keep_for_seconds=keep_for),
            domains=tuple(domains),
            copies=copies,
        )


def _volumes(tx: Tx) -> Iterator[VolumeRow | SourceRow]:
    for volume, group, name in _stream(
        tx,
        """SELECT volume_id, group_id, v.name FROM volume v JOIN volume_group USING (group_no)
           ORDER BY volume_id""",
    ):
        yield VolumeRow(volume=volume, group=group, name=name)
    for volume, node, path, driver, epoch, freeze, lead in _stream(
        tx,
        """SELECT volume_id, n.name, path, driver, epoch, freeze_mount, lead
           FROM source JOIN volume USING (volume_no) JOIN node n USING (node_no)
           ORDER BY volume_id, n.name COLLATE "C\"""",
    ):
        yield SourceRow(
            volume=volume,
            node=node,
            path=path,
            driver=driver,
            epoch=epoch,
            freeze=freeze,
            lead=lead,
        )


def _snapshots(tx: Tx) -> Iterator[SnapshotRow]:
    # Its volumes as an array in the row: one cursor, and a snapshot is never in two batches.
    for row in _stream(
        tx,
        """SELECT s.session, g.group_id, s.sequence, s.state = 'l', s.base, s.manifest_key, s.mac,
                  s.consistency, s.sealed_at, s.expired_at, s.recovered,
                  (SELECT jsonb_agg(jsonb_build_array(v.volume_id, encode(p.root, 'hex'),
                              p.root_level, p.size_bytes, p.read_bytes, p.changed_bytes,
                              p.sent_bytes, p.stored_bytes) ORDER BY v.volume_id)
                   FROM snapshot_volume p JOIN volume v USING (volume_no)
                   WHERE p.session = s.session AND s.state = 'l')
           FROM snapshot s JOIN volume_group g USING (group_no) ORDER BY g.group_id, s.sequence""",
    ):
        yield SnapshotRow(
            session=row[0],
            group=row[1],
            sequence=row[2],
            live=row[3],
            base=row[4],
            manifest_key=row[5],
            mac=row[6],
            consistency=row[7],
            sealed_at=row[8],
            expired_at=row[9],
            recovered=row[10],
            volumes=tuple(_volume_part(*part) for part in row[11] or ()),
        )


def _volume_part(volume: str, root: str | None, *numbers: int) -> VolumePart:
    level, size, read, changed, sent, stored = numbers
    return VolumePart(
        volume=UUID(volume),
        root=None if root is None else bytes.fromhex(root),
        root_level=level,
        size_bytes=size,
        read_bytes=read,
        changed_bytes=changed,
        sent_bytes=sent,
        stored_bytes=stored,
    )


def _stream(tx: Tx, query: LiteralString) -> Iterator[TupleRow]:
    with tx.cursor(name="truth") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query)
        yield from cursor
