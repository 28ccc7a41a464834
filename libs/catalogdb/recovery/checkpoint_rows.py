"""The rows of a checkpoint: what the catalog knows and packs and manifests do not say.

Each kind of row is read by one query, whole or by keys. The triggers of the schema note the kind
and key of what changed (`note_change`), with the same words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import TupleRow

from libs.catalogdb.pool import Tx
from libs.checkpoints.rows import (
    KINDS,
    CondemnedRow,
    DomainRow,
    GoneRow,
    GrantRow,
    GroupRow,
    HoldRow,
    NodeRow,
    PastRow,
    RejectedRow,
    Retention,
    Row,
    SnapshotRow,
    SourceRow,
    TenantRow,
    VolumePart,
    VolumeRow,
    key_of,
)

#: Rows fetched at a time from the server's cursor, and keys asked for at a time.
_BATCH = 1000


def read_rows(tx: Tx) -> Iterator[Row]:
    """All rows, in the order of `Row` and then of their names: equal catalogs give equal rows.

    Args:
        tx: REPEATABLE READ, so that all rows are of one moment.
    """
    for kind in WRITTEN_KINDS:
        yield from rows_of_kind(tx, kind)


def rows_of_kind(tx: Tx, kind: str) -> Iterator[Row]:
    """All rows of a kind, in order of their names; several kinds may be read at the same time."""
    reading = _KINDS[kind]
    with tx.cursor(name=f"all_{kind}") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(f"{reading.query} ORDER BY {reading.order}")
        yield from map(reading.made, cursor)


def read_changes(tx: Tx, kind: str, keys: Sequence[str]) -> Iterator[Row | GoneRow]:
    """The rows of a kind that have these keys; of those that there are none of, that they are gone.

    Reads what the keys name and nothing else.

    Args:
        tx: REPEATABLE READ, so that the rows are those that the keys were noted of.
        kind: their kind.
        keys: as the schema's triggers note them.
    """
    reading = _KINDS[kind]
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        query = f"{reading.query} WHERE {reading.by_keys} ORDER BY {reading.order}"
        found = [reading.made(row) for row in tx.execute(query, {"keys": batch}).fetchall()]
        yield from found
        for key in sorted(set(batch) - set(map(key_of, found))):
            yield GoneRow(kind=kind, key=key)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How rows of a kind are read."""

    #: Without conditions.
    query: LiteralString
    #: Which rows have one of the keys; each has its index.
    by_keys: LiteralString
    order: LiteralString
    made: Callable[[TupleRow], Row]


def _group(row: TupleRow) -> GroupRow:
    group, tenant, name, sequence, session, mac, keep_last, keep_for, copies, domains = row
    return GroupRow(
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


def _snapshot(row: TupleRow) -> SnapshotRow:
    return SnapshotRow(
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


def _named(make: Callable[..., Row], *fields: str) -> Callable[[TupleRow], Row]:
    """For rows whose columns are their fields."""

    def made(row: TupleRow) -> Row:
        values: dict[str, Any] = dict(zip(fields, row, strict=True))
        return make(**values)

    return made


_KINDS: dict[str, _Reading] = {
    "domain": _Reading(
        "SELECT domain, key_id FROM domain",
        "domain = ANY(%(keys)s::uuid[])",
        "domain",
        _named(DomainRow, "domain", "key_id"),
    ),
    "tenant": _Reading(
        "SELECT name, domain FROM tenant JOIN domain USING (domain_no)",
        "name = ANY(%(keys)s)",
        'name COLLATE "C"',
        _named(TenantRow, "name", "domain"),
    ),
    "grant": _Reading(
        """SELECT d.domain, t.name FROM domain_grant g JOIN domain d USING (domain_no)
           JOIN tenant t USING (tenant_no)""",
        """(d.domain, t.name) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                  FROM unnest(%(keys)s::text[]) key)""",
        'd.domain, t.name COLLATE "C"',
        _named(GrantRow, "domain", "tenant"),
    ),
    "node": _Reading(
        "SELECT name, rpc_url, span_address, boot FROM node",
        "name = ANY(%(keys)s)",
        'name COLLATE "C"',
        _named(NodeRow, "name", "rpc_url", "span_address", "boot"),
    ),
    "group": _Reading(
        """SELECT g.group_id, t.name, g.name, g.head_sequence, g.head_session, g.head_mac,
                  r.keep_last, r.keep_for_seconds, g.copies,
                  ARRAY(SELECT d.domain FROM domain_tag l JOIN domain d USING (domain_no)
                        WHERE l.group_no = g.group_no ORDER BY l.tag)
           FROM volume_group g JOIN tenant t USING (tenant_no)
           LEFT JOIN retention r USING (group_no)""",
        "g.group_id = ANY(%(keys)s::uuid[])",
        "g.group_id",
        _group,
    ),
    "volume3": _Reading(
        "SELECT volume_id, group_id, v.name FROM volume v JOIN volume_group USING (group_no)",
        "volume_id = ANY(%(keys)s::uuid[])",
        "volume_id",
        _named(VolumeRow, "volume", "group", "name"),
    ),
    "source": _Reading(
        """SELECT volume_id, n.name, path, driver, epoch, freeze_mount, lead
           FROM source JOIN volume USING (volume_no) JOIN node n USING (node_no)""",
        """(volume_id, n.name) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                   FROM unnest(%(keys)s::text[]) key)""",
        'volume_id, n.name COLLATE "C"',
        _named(SourceRow, "volume", "node", "path", "driver", "epoch", "freeze", "lead"),
    ),
    # Its volumes as an array in the row: one cursor, and a snapshot is never in two batches.
    "snapshot": _Reading(
        """SELECT s.session, g.group_id, s.sequence, s.state = 'l', s.base, s.manifest_key, s.mac,
                  s.consistency, s.sealed_at, s.expired_at, s.recovered,
                  (SELECT jsonb_agg(jsonb_build_array(v.volume_id, encode(p.root, 'hex'),
                              p.root_level, p.size_bytes, p.read_bytes, p.changed_bytes,
                              p.sent_bytes, p.stored_bytes) ORDER BY v.volume_id)
                   FROM snapshot_volume p JOIN volume v USING (volume_no)
                   WHERE p.session = s.session AND s.state = 'l')
           FROM snapshot s JOIN volume_group g USING (group_no)""",
        "s.session = ANY(%(keys)s::uuid[])",
        "g.group_id, s.sequence",
        _snapshot,
    ),
    "past": _Reading(
        """SELECT p.session, g.group_id, p.sequence, p.mac, p.sealed_at, p.ended_at
           FROM (SELECT * FROM past WHERE sequence IS NOT NULL) p
           JOIN volume_group g USING (group_no)""",
        "p.session = ANY(%(keys)s::uuid[])",
        "g.group_id, p.sequence",
        _named(PastRow, "session", "group", "sequence", "mac", "sealed_at", "expired_at"),
    ),
    "hold": _Reading(
        "SELECT session, owner, reason, placed_at FROM hold",
        """(session, owner) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                FROM unnest(%(keys)s::text[]) key)""",
        'session, owner COLLATE "C"',
        _named(HoldRow, "session", "owner", "reason", "placed_at"),
    ),
    "rejected": _Reading(
        """SELECT s.session, g.group_id, s.head_sequence, coalesce(s.reject_code, '')
           FROM (SELECT * FROM session WHERE state = 'r') s JOIN volume_group g USING (group_no)""",
        "s.session = ANY(%(keys)s::uuid[])",
        "s.session",
        _named(RejectedRow, "session", "group", "head_sequence", "code"),
    ),
    "condemned": _Reading(
        """SELECT generation FROM pack p
           JOIN (SELECT DISTINCT pack_no FROM tombstone) t USING (pack_no)""",
        "generation = ANY(%(keys)s::uuid[])",
        "generation",
        _named(CondemnedRow, "generation"),
    ),
}
#: Kinds that are written, in the order in which their rows come; older ones are only read.
WRITTEN_KINDS = tuple(kind for kind in KINDS if kind in _KINDS)
