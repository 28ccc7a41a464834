"""How much room a tenant's recovery points take, by the references that are kept of packs.

The unit is the pack, as everywhere where references are counted: a figure costs the rows of
`pack_use` of the tenant's volumes, one for each pack that a volume uses, never those of chunks. For
100 million chunks these are some 200,000 packs. A statement that takes longer than
`SECONDS_MAX` is ended.

*Unique* bytes are those of packs that one volume alone uses: what goes with its last recovery
point, when collection and rewriting are through. *Attributed* bytes divide each pack evenly among
the volumes that use it, so that they add up to what is stored; nobody knows whose chunk it is.
A pack counts as a whole, also what is dead in it and not yet rewritten.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import NotFoundError

#: No question for figures keeps Postgres busy for longer.
SECONDS_MAX = 30


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """The room that a volume's recovery points take."""

    name: str
    group: str
    removed_at: datetime | None
    #: Its live recovery points, and their sizes added up: what they would take without Backcast.
    points: int
    protected_bytes: int
    #: Its size at the newest one.
    logical_bytes: int
    unique_bytes: int
    attributed_bytes: int


@dataclass(frozen=True, slots=True)
class Freed:
    """What the expiry of a snapshot would free by itself."""

    session: UUID
    sequence: int
    #: Packs that no other snapshot needs, and their bytes.
    packs: int
    bytes: int


def volume_usage(catalog: Catalog, tenant: str) -> list[VolumeUsage]:
    """The room that each of a tenant's volumes takes, by name; removed ones with history, too.

    Exact for packs as the catalog has them now. Copies at a second store are not counted.
    """
    with catalog.transaction() as tx:
        tx.execute("SELECT set_config('statement_timeout', %s, true)", [f"{SECONDS_MAX}s"])
        return all_rows(
            tx,
            VolumeUsage,
            """WITH mine AS (
                   SELECT v.volume_no, v.name, v.removed_at, v.group_no
                   FROM volume v JOIN tenant t USING (tenant_no) WHERE t.name = %s),
               used AS (
                   SELECT DISTINCT volume_no, pack_no FROM pack_use JOIN mine USING (volume_no)),
               shared AS (
                   SELECT p.pack_no, p.size_bytes, count(DISTINCT u.volume_no) AS users
                   FROM pack_use u JOIN pack p USING (pack_no)
                   WHERE p.state = 'l' AND p.pack_no IN (SELECT pack_no FROM used)
                   GROUP BY p.pack_no),
               taken AS (
                   SELECT volume_no,
                          coalesce(sum(size_bytes) FILTER (WHERE users = 1), 0) AS unique_bytes,
                          coalesce(sum(size_bytes::numeric / users), 0) AS attributed_bytes
                   FROM used JOIN shared USING (pack_no) GROUP BY volume_no),
               history AS (
                   SELECT p.volume_no, count(*) AS points, sum(p.size_bytes) AS protected_bytes,
                          (array_agg(p.size_bytes ORDER BY s.sequence DESC))[1] AS logical_bytes
                   FROM mine m JOIN snapshot s USING (group_no)
                   JOIN snapshot_volume p ON p.session = s.session AND p.volume_no = m.volume_no
                   WHERE s.state = 'l' GROUP BY p.volume_no)
               SELECT m.name, g.name AS group, m.removed_at,
                      coalesce(h.points, 0) AS points,
                      coalesce(h.protected_bytes, 0)::bigint AS protected_bytes,
                      coalesce(h.logical_bytes, 0)::bigint AS logical_bytes,
                      coalesce(k.unique_bytes, 0)::bigint AS unique_bytes,
                      coalesce(round(k.attributed_bytes), 0)::bigint AS attributed_bytes
               FROM mine m JOIN volume_group g USING (group_no)
               LEFT JOIN history h USING (volume_no) LEFT JOIN taken k USING (volume_no)
               WHERE m.removed_at IS NULL OR h.points > 0 ORDER BY m.name""",
            [tenant],
        )


def freed_by_expiry(catalog: Catalog, tenant: str, session: UUID) -> Freed:
    """What would go if a snapshot expired now, and nothing else did.

    Exact, by the rule of expiry: the packs whose only references are rows that begin after the live
    snapshot before this one and end with this one, and which nothing leans on or pins. The cost is
    that of the rows that end there. Bytes that become dead in packs that stay are not in it.

    Raises:
        NotFoundError: the tenant has no live snapshot of this id.
    """
    with catalog.transaction() as tx:
        tx.execute("SELECT set_config('statement_timeout', %s, true)", [f"{SECONDS_MAX}s"])
        found = one_row(
            tx,
            Freed,
            """WITH this AS (
                   SELECT s.session, s.group_no, s.sequence, g.head_session = s.session AS is_head,
                          coalesce((SELECT max(o.sequence) FROM snapshot o
                                    WHERE o.group_no = s.group_no AND o.state = 'l'
                                      AND o.sequence < s.sequence), 0) AS before
                   FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t
                     USING (tenant_no)
                   WHERE t.name = %(tenant)s AND s.session = %(session)s AND s.state = 'l'),
               ending AS (
                   SELECT u.volume_no, u.pack_no, u.first_sequence
                   FROM this JOIN volume v USING (group_no) JOIN pack_use u USING (volume_no)
                   WHERE u.first_sequence > this.before
                     AND (u.last_sequence = this.sequence
                          OR this.is_head AND u.last_sequence IS NULL)),
               freed AS (
                   SELECT p.pack_no, p.size_bytes
                   FROM (SELECT DISTINCT pack_no FROM ending) e JOIN pack p USING (pack_no)
                   WHERE p.state = 'l' AND NOT leans_on_live(p.pack_no)
                     AND NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = p.pack_no)
                     AND NOT EXISTS (
                         SELECT FROM pack_use o WHERE o.pack_no = p.pack_no
                           AND (o.volume_no, o.first_sequence) NOT IN (
                               SELECT volume_no, first_sequence FROM ending
                               WHERE ending.pack_no = p.pack_no)))
               SELECT this.session, this.sequence, count(freed.pack_no) AS packs,
                      coalesce(sum(freed.size_bytes), 0)::bigint AS bytes
               FROM this LEFT JOIN freed ON true GROUP BY this.session, this.sequence""",
            {"tenant": tenant, "session": session},
        )
    if found is None:
        raise NotFoundError(f"snapshot {session}: tenant {tenant} has no live snapshot of this id")
    return found
