"""The canonical dump: what a catalog holds, as text that is equal for equal truths.

A line has a table, a key and values. Everything is named by ids that outlive a catalog, and lines
are in one order, so the dump of a live catalog and that of one rebuilt from the store can be
compared line by line. What is left out, and why, is in docs/architecture.md.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import sql

from libs.catalogdb.packs.ids import chunk_table
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.checkpoint_rows import WRITTEN_KINDS, rows_of_kind
from libs.checkpoints.rows import PastRow, Row, SnapshotRow, key_of

_BATCH = 1000
#: In the order in which they are dumped.
TABLES = (
    "domain",
    "tenant",
    "grant",
    "node",
    "group",
    "volume",
    "source",
    "snapshot",
    "hold",
    "pack",
    "pack_use",
    "item",
)


@dataclass(frozen=True, slots=True, order=True)
class DumpLine:
    """One row of the canonical dump; ordered by table, then key."""

    table: str
    key: str
    values: str


def dump(catalog: Catalog) -> Iterator[DumpLine]:
    """The lines of a catalog as it is at one moment, table by table, ascending by key in each."""
    with catalog.transaction() as tx:
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield from _rows(tx)
        yield from _packs(tx)
        yield from _uses(tx)
        for domain_no, domain in tx.execute(
            "SELECT domain_no, domain FROM domain ORDER BY domain"
        ).fetchall():
            yield from _items(tx, domain_no, domain)


def _rows(tx: Tx) -> Iterator[DumpLine]:
    for kind in WRITTEN_KINDS:
        if kind == "snapshot":  # whether one that has expired was folded yet makes no difference
            both = [map(_line, rows_of_kind(tx, one)) for one in (kind, "past")]
            yield from heapq.merge(*both)
        elif kind not in ("past", "rejected", "condemned"):  # work under way, or without a trace
            yield from map(_line, rows_of_kind(tx, kind))


def _line(row: Row) -> DumpLine:
    values = msgspec.to_builtins(row, builtin_types=(UUID, datetime, bytes))
    table = _TABLE_OF.get(str(values["type"]), str(values["type"]))
    del values["type"]
    if isinstance(row, PastRow) or (isinstance(row, SnapshotRow) and not row.live):
        link = {"session": row.session, "group": row.group, "mac": row.mac, "live": False}
        return DumpLine("snapshot", f"{row.group}/{row.sequence:010d}", _text(link))
    if isinstance(row, SnapshotRow):
        # The time of the catalog's commit, against that of the manifest; and what only the
        # catalog knows of a snapshot that its manifest alone brought back.
        for name in ("sealed_at", "expired_at", "recovered"):
            del values[name]
        for part in values["volumes"]:
            del part["sent_bytes"], part["stored_bytes"]
        return DumpLine(table, f"{row.group}/{row.sequence:010d}", _text(values))
    return DumpLine(table, key_of(row), _text(values))


#: Rows whose word in a checkpoint is not that of their table.
_TABLE_OF = {"volume3": "volume"}


def _packs(tx: Tx) -> Iterator[DumpLine]:
    with tx.cursor(name="packs") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(
            """SELECT generation, domain, p.key_id, size_bytes, frames,
                      ARRAY(SELECT store_no FROM copy y WHERE y.pack_no = p.pack_no
                              AND y.state IN ('p', 'x') ORDER BY store_no)
               FROM pack p JOIN domain USING (domain_no) WHERE state = 'l' ORDER BY generation"""
        )
        for generation, domain, key_id, size_bytes, frames, stores in cursor:
            values = {
                "domain": domain,
                "key_id": key_id,
                "size_bytes": size_bytes,
                "frames_sha256": hashlib.sha256(frames).digest(),
                "stores": stores,
            }
            yield DumpLine("pack", generation.hex, _text(values))


def _uses(tx: Tx) -> Iterator[DumpLine]:
    """References by the live snapshots that they cover; the rest depends on the order of expiry."""
    with tx.cursor(name="uses") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(
            """SELECT v.volume_id, p.generation, u.last_sequence IS NULL, u.addresses,
                      min(s.sequence), max(s.sequence)
               FROM pack_use u JOIN volume v USING (volume_no) JOIN pack p USING (pack_no)
               JOIN snapshot s ON s.group_no = v.group_no AND s.state = 'l'
                    AND s.sequence BETWEEN u.first_sequence
                                       AND coalesce(u.last_sequence, s.sequence)
               GROUP BY v.volume_id, p.generation, u.ctid, u.last_sequence, u.addresses
               ORDER BY v.volume_id, p.generation, min(s.sequence)"""
        )
        for volume, generation, is_open, addresses, first, last in cursor:
            values = {"addresses": addresses if is_open else None, "first": first, "last": last}
            yield DumpLine("pack_use", f"{volume}/{generation.hex}/{first:010d}", _text(values))


def _items(tx: Tx, domain_no: int, domain: UUID) -> Iterator[DumpLine]:
    """Items by where they lie; of those that lie in several live packs only that they are there."""
    with tx.cursor(name="items") as cursor:
        cursor.itersize = 10 * _BATCH
        cursor.execute(
            sql.SQL(
                """SELECT id_high, id_low FROM {} c JOIN pack p USING (pack_no)
                   WHERE p.state = 'l' ORDER BY id_high"""
            ).format(chunk_table(domain_no))
        )
        for high, low in cursor:
            yield DumpLine("item", f"{domain}/{high.hex}{low.hex}", "")


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)
