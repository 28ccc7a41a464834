"""Why a pack is there: its state, who pins it, and which snapshots count on it. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from libs.catalogdb.packs.ids import chunk_table, halves
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows

#: Pins and volumes that are named; a pack that a golden image needs has thousands.
_NAMED_MAX = 100


@dataclass(frozen=True, slots=True)
class Pin:
    """Who keeps a pack for now: an attempt of a session, or a lease on a snapshot."""

    owner: UUID
    session: UUID | None
    is_reader: bool
    deadline: datetime | None


@dataclass(frozen=True, slots=True)
class Use:
    """Snapshots of a volume that count on a pack, from the first to the last one."""

    tenant: str
    volume_no: int
    volume: str
    addresses: int
    first_sequence: int
    #: None: the head, and those that follow as long as they keep it.
    last_sequence: int | None


@dataclass(frozen=True, slots=True)
class PackExplanation:
    """What the catalog knows of a pack; of pins and uses some hundred at most."""

    pack_no: int
    generation: UUID
    #: "uploading", "live", "condemned" or "dead".
    state: str
    #: Of a dead pack 0, as are its items.
    size_bytes: int
    items: int
    moved_to: UUID | None
    pins: list[Pin]
    uses: list[Use]


def packs_of_item(catalog: Catalog, id_: bytes) -> dict[int, int]:
    """Which packs hold a chunk or map node: domain number → pack number, where a domain has it."""
    high, low = halves([id_])
    with catalog.transaction() as tx:
        domains = tx.execute("SELECT domain_no FROM domain ORDER BY domain_no").fetchall()
        return {
            domain_no: row[0]
            for (domain_no,) in domains
            for row in tx.execute(
                sql.SQL(
                    "SELECT pack_no FROM {} WHERE id_high = ANY(%s::uuid[]) "
                    "AND id_low = ANY(%s::uuid[])"
                ).format(chunk_table(domain_no)),
                [high, low],
            )
        }


def pack_of_generation(catalog: Catalog, generation: UUID) -> list[int]:
    """Number of the pack of this name, or nothing."""
    with catalog.transaction() as tx:
        rows = tx.execute("SELECT pack_no FROM pack WHERE generation = %s", [generation])
        return [row[0] for row in rows]


def explain_packs(catalog: Catalog, packs: Sequence[int]) -> list[PackExplanation]:
    """What keeps each of these packs."""
    with catalog.transaction() as tx:

        def explained(pack_no: int, **columns: Any) -> PackExplanation:
            pins, uses = _pins(tx, pack_no), _uses(tx, pack_no)
            return PackExplanation(pack_no=pack_no, pins=pins, uses=uses, **columns)

        return all_rows(
            tx,
            explained,
            """SELECT p.pack_no, p.generation,
                      CASE p.state WHEN 'u' THEN 'uploading' WHEN 'l' THEN 'live'
                                   WHEN 'c' THEN 'condemned' ELSE 'dead' END AS state,
                      coalesce(p.size_bytes, 0) AS size_bytes, coalesce(p.items, 0) AS items,
                      m.generation AS moved_to
               FROM pack p LEFT JOIN pack m ON m.pack_no = p.moved_to
               WHERE p.pack_no = ANY(%s) ORDER BY p.pack_no""",
            [list(packs)],
        )


def _pins(tx: Tx, pack_no: int) -> list[Pin]:
    return all_rows(
        tx,
        Pin,
        """SELECT owner, coalesce(a.session, l.session) AS session,
                  l.lease IS NOT NULL AS is_reader, coalesce(s.deadline, l.deadline) AS deadline
           FROM pin LEFT JOIN attempt a ON a.attempt = owner
           LEFT JOIN session s ON s.session = a.session LEFT JOIN lease l ON l.lease = owner
           WHERE pack_no = %s ORDER BY owner LIMIT %s""",
        [pack_no, _NAMED_MAX],
    )


def _uses(tx: Tx, pack_no: int) -> list[Use]:
    return all_rows(
        tx,
        Use,
        """SELECT t.name AS tenant, u.volume_no, v.name AS volume, u.addresses, u.first_sequence,
                  u.last_sequence
           FROM pack_use u JOIN volume v USING (volume_no) JOIN tenant t USING (tenant_no)
           WHERE u.pack_no = %s ORDER BY u.volume_no, u.first_sequence LIMIT %s""",
        [pack_no, _NAMED_MAX],
    )
