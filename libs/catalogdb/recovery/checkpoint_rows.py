"""The rows of a checkpoint: what the catalog knows and packs and manifests do not say.

Each kind of row is read by one query, whole or by keys. The triggers of the schema note the kind
and key of what changed (`note_change`), with the same words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import kwargs_row

from libs.catalogdb.pool import Tx
from libs.catalogdb.rows import all_rows
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
    Paused,
    RejectedRow,
    Removed,
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
    with tx.cursor(name=f"all_{kind}", row_factory=kwargs_row(reading.made)) as cursor:
        cursor.itersize = _BATCH
        cursor.execute(f"{reading.query} ORDER BY {reading.order}")
        yield from cursor


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
        found = all_rows(tx, reading.made, query, {"keys": batch})
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
    #: Takes the columns by their names.
    made: Callable[..., Row]


def _group(domains: list[UUID], **columns: Any) -> GroupRow:
    keep_last, keep_for_seconds, at, by, reason = (
        columns.pop(name)
        for name in ("keep_last", "keep_for_seconds", "paused_at", "paused_by", "paused_reason")
    )
    kept, paused = None, None
    if keep_last is not None:
        kept = Retention(keep_last=keep_last, keep_for_seconds=keep_for_seconds)
    if at is not None:
        paused = Paused(by=by, reason=reason, at=at)
    return GroupRow(domains=tuple(domains), retention=kept, paused=paused, **columns)


def _volume(removed_at: datetime | None, removed_by: str, **columns: Any) -> VolumeRow:
    removed = Removed(by=removed_by, at=removed_at) if removed_at else None
    return VolumeRow(removed=removed, **columns)


def _snapshot(**columns: Any) -> SnapshotRow:
    # Each column of its parts is an array, or null if it has none.
    of_parts = [name for name in columns if name.startswith("part.")]
    arrays = {name.removeprefix("part."): columns.pop(name) or () for name in of_parts}
    parts = zip(*arrays.values(), strict=True)
    volumes = tuple(VolumePart(**dict(zip(arrays, part, strict=True))) for part in parts)
    return SnapshotRow(volumes=volumes, **columns)


_KINDS: dict[str, _Reading] = {
    "domain": _Reading(
        "SELECT domain, key_id FROM domain",
        "domain = ANY(%(keys)s::uuid[])",
        "domain",
        DomainRow,
    ),
    "tenant": _Reading(
        "SELECT name, domain, quota_bytes FROM tenant JOIN domain USING (domain_no)",
        "name = ANY(%(keys)s)",
        'name COLLATE "C"',
        TenantRow,
    ),
    "grant": _Reading(
        """SELECT d.domain, t.name AS tenant FROM domain_grant g JOIN domain d USING (domain_no)
           JOIN tenant t USING (tenant_no)""",
        """(d.domain, t.name) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                  FROM unnest(%(keys)s::text[]) key)""",
        'd.domain, t.name COLLATE "C"',
        GrantRow,
    ),
    "node": _Reading(
        "SELECT name, rpc_url, span_address, boot, credential, forgotten_at FROM node",
        "name = ANY(%(keys)s)",
        'name COLLATE "C"',
        NodeRow,
    ),
    "group": _Reading(
        """SELECT g.group_id AS group, t.name AS tenant, g.name, g.head_sequence, g.head_session,
                  g.head_mac,
                  r.keep_last, r.keep_for_seconds, g.copies, g.paused_at, g.paused_by,
                  g.paused_reason,
                  ARRAY(SELECT d.domain FROM domain_tag l JOIN domain d USING (domain_no)
                        WHERE l.group_no = g.group_no ORDER BY l.tag) AS domains
           FROM volume_group g JOIN tenant t USING (tenant_no)
           LEFT JOIN retention r USING (group_no)""",
        "g.group_id = ANY(%(keys)s::uuid[])",
        "g.group_id",
        _group,
    ),
    "volume3": _Reading(
        """SELECT volume_id AS volume, group_id AS group, v.name, v.moved_after, v.removed_at,
                  v.removed_by
           FROM volume v JOIN volume_group USING (group_no)""",
        "volume_id = ANY(%(keys)s::uuid[])",
        "volume_id",
        _volume,
    ),
    "source": _Reading(
        """SELECT volume_id AS volume, n.name AS node, path, driver, epoch,
                  freeze_mount AS freeze, lead
           FROM source JOIN volume USING (volume_no) JOIN node n USING (node_no)""",
        """(volume_id, n.name) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                   FROM unnest(%(keys)s::text[]) key)""",
        'volume_id, n.name COLLATE "C"',
        SourceRow,
    ),
    # Its volumes as arrays in the row: one cursor, and a snapshot is never in two batches.
    "snapshot": _Reading(
        """SELECT s.session, g.group_id AS group, s.sequence, s.state = 'l' AS live, s.base,
                  s.manifest_key, s.mac, s.consistency, s.sealed_at, s.expired_at, s.recovered,
                  s.note,
                  parts.*
           FROM snapshot s JOIN volume_group g USING (group_no),
                LATERAL (SELECT array_agg(volume_id) AS "part.volume",
                                array_agg(root) AS "part.root",
                                array_agg(root_level) AS "part.root_level",
                                array_agg(size_bytes) AS "part.size_bytes",
                                array_agg(read_bytes) AS "part.read_bytes",
                                array_agg(changed_bytes) AS "part.changed_bytes",
                                array_agg(sent_bytes) AS "part.sent_bytes",
                                array_agg(stored_bytes) AS "part.stored_bytes"
                         FROM (SELECT * FROM snapshot_volume p JOIN volume USING (volume_no)
                               WHERE p.session = s.session AND s.state = 'l'
                               ORDER BY volume_id) ordered) parts""",
        "s.session = ANY(%(keys)s::uuid[])",
        "g.group_id, s.sequence",
        _snapshot,
    ),
    "past": _Reading(
        """SELECT p.session, g.group_id AS group, p.sequence, p.mac, p.sealed_at,
                  p.ended_at AS expired_at
           FROM (SELECT * FROM past WHERE sequence IS NOT NULL) p
           JOIN volume_group g USING (group_no)""",
        "p.session = ANY(%(keys)s::uuid[])",
        "g.group_id, p.sequence",
        PastRow,
    ),
    "hold": _Reading(
        "SELECT session, owner, reason, placed_at FROM hold",
        """(session, owner) IN (SELECT left(key, 36)::uuid, substr(key, 38)
                                FROM unnest(%(keys)s::text[]) key)""",
        'session, owner COLLATE "C"',
        HoldRow,
    ),
    "rejected": _Reading(
        """SELECT s.session, g.group_id AS group, s.head_sequence,
                  coalesce(s.reject_code, '') AS code
           FROM (SELECT * FROM session WHERE state = 'r') s JOIN volume_group g USING (group_no)""",
        "s.session = ANY(%(keys)s::uuid[])",
        "s.session",
        RejectedRow,
    ),
    "condemned": _Reading(
        """SELECT generation FROM pack p
           JOIN (SELECT DISTINCT pack_no FROM tombstone) t USING (pack_no)""",
        "generation = ANY(%(keys)s::uuid[])",
        "generation",
        CondemnedRow,
    ),
}
#: Kinds that are written, in the order in which their rows come; older ones are only read.
WRITTEN_KINDS = tuple(kind for kind in KINDS if kind in _KINDS)
