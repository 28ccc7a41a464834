"""Figures of everything that is protected, for metrics: one read-only transaction, point look-ups.

What it costs grows with groups, volumes and nodes, not with snapshots; `read_stored` reads every
pack, so it is for now and then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from libs.catalogdb.notifications.reviewing import relay_lags
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """A group, and how its last session ended."""

    tenant: str
    group: str
    #: When its newest snapshot was sealed, in seconds since 1970; None: it never had one.
    sealed_at: float | None
    #: Whether its last session that ended was rejected.
    rejected: bool


@dataclass(frozen=True, slots=True)
class VolumeFigures:
    """A volume at its newest snapshot."""

    tenant: str
    volume: str
    size_bytes: int
    #: What that snapshot read, and what it stored for it.
    read_bytes: int
    stored_bytes: int
    #: Whether that snapshot compared everything, because nobody knew what changed.
    lost: bool


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node with an agent."""

    node: str
    #: When it last announced itself, in seconds since 1970.
    seen_at: float


@dataclass(frozen=True, slots=True)
class TallyFigures:
    """How many sessions of a tenant ended in one way, and what those read and stored."""

    tenant: str
    #: ``sealed``, or why they were rejected.
    code: str
    sessions: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class StoredFigures:
    """The live packs of a tenant's own domain."""

    tenant: str
    packs: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All of it at one moment."""

    groups: Sequence[GroupFigures]
    volumes: Sequence[VolumeFigures]
    nodes: Sequence[NodeFigures]
    tally: Sequence[TallyFigures]
    #: How many there are, of which at most the bound are above.
    group_count: int
    volume_count: int
    #: (kind, severity) → how many notifications are open.
    notifications: dict[tuple[str, str], int]
    #: Live packs of each tenant's domain of which something is damaged.
    damaged_packs: dict[str, int]
    #: Topic → age in seconds of its oldest event that Kafka lacks.
    relay_lag_seconds: dict[str, float]


def read_figures(catalog: Catalog, count_max: int) -> Figures:
    """The figures now.

    Args:
        catalog: the catalog, in the catalog service's role.
        count_max: groups at most, and volumes and nodes as well: the oldest ones.
    """
    with catalog.transaction() as tx:
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        most = {"most": count_max}
        return Figures(
            groups=all_rows(tx, GroupFigures, _GROUPS, most),
            volumes=all_rows(tx, VolumeFigures, _VOLUMES, most),
            nodes=all_rows(tx, NodeFigures, _NODES, most),
            tally=all_rows(tx, TallyFigures, _TALLY),
            group_count=_count(tx, "SELECT count(*) FROM volume_group"),
            volume_count=_count(tx, "SELECT count(*) FROM volume"),
            notifications={
                (kind, severity): count
                for kind, severity, count in tx.execute(
                    "SELECT kind, severity, count(*) FROM notification GROUP BY 1, 2"
                )
            },
            damaged_packs=dict(tx.execute(_DAMAGED).fetchall()),
            relay_lag_seconds=relay_lags(tx),
        )


def read_stored(catalog: Catalog) -> list[StoredFigures]:
    """The live packs of each tenant; reads every pack."""
    with catalog.transaction() as tx:
        tx.execute("SET TRANSACTION READ ONLY")
        tx.execute("SET LOCAL enable_seqscan = on")
        return all_rows(
            tx,
            StoredFigures,
            """SELECT t.name AS tenant, count(p.pack_no) AS packs,
                      coalesce(sum(p.size_bytes), 0)::bigint AS stored_bytes
               FROM tenant t LEFT JOIN pack p ON p.domain_no = t.domain_no AND p.state = 'l'
               GROUP BY t.name ORDER BY t.name""",
        )


def _count(tx: Tx, query: LiteralString) -> int:
    row = tx.execute(query).fetchone()
    assert row is not None
    return int(row[0])


_GROUPS = """
    SELECT t.name AS tenant, g.name AS group,
           extract(epoch FROM coalesce(s.sealed_at, p.sealed_at))::float8 AS sealed_at,
           EXISTS (SELECT FROM notification n
                   WHERE n.kind = 'session-rejected' AND n.about = g.group_id::text) AS rejected
    FROM volume_group g JOIN tenant t USING (tenant_no)
    LEFT JOIN snapshot s ON s.session = g.head_session
    LEFT JOIN past p ON p.session = g.head_session
    ORDER BY g.group_no LIMIT %(most)s"""

_VOLUMES = """
    SELECT t.name AS tenant, v.name AS volume, h.size_bytes, h.read_bytes, h.stored_bytes,
           h.tracking = 'lost' AS lost
    FROM volume v JOIN tenant t USING (tenant_no) JOIN volume_group g USING (group_no)
    JOIN snapshot_volume h ON h.session = g.head_session AND h.volume_no = v.volume_no
    ORDER BY v.volume_no LIMIT %(most)s"""

_NODES = """
    SELECT name AS node, extract(epoch FROM seen_at)::float8 AS seen_at
    FROM node ORDER BY node_no LIMIT %(most)s"""

_TALLY = """
    SELECT t.name AS tenant, code, sessions, read_bytes, changed_bytes, sent_bytes, stored_bytes
    FROM tally JOIN tenant t USING (tenant_no) ORDER BY t.name, code"""

_DAMAGED = """
    SELECT coalesce(t.name, '*'), count(DISTINCT d.pack_no)
    FROM damage d JOIN pack p USING (pack_no) LEFT JOIN tenant t USING (domain_no)
    WHERE d.healed_at IS NULL AND p.state = 'l' GROUP BY 1"""
