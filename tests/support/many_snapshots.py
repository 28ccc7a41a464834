"""Many snapshots at once, as rows: what years of a catalog look like, made in seconds."""

from dataclasses import dataclass

from tests.support.catalog import TENANT, CatalogSite

#: In one group: the newest ones are live.
_MAKE = """
    INSERT INTO session (session, group_no, state, head_sequence, deadline, opened_at, ended_at)
    SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, %(group)s, 's', n - 1,
           now(), now() - interval '1 year', now() - interval '1 year'
    FROM generate_series(1, %(count)s) n;
    INSERT INTO part (session, volume_no, capture, token, node_no, state, root, attempt)
    SELECT session, %(volume)s, gen_random_uuid(), sha256(session::text::bytea), %(node)s, 'f',
           sha256(session::text::bytea), session
    FROM session WHERE group_no = %(group)s;
    INSERT INTO attempt (attempt, session, volume_no, number, chunker, open)
    SELECT attempt, session, volume_no, 1, 'chunker-0', false FROM part
    WHERE volume_no = %(volume)s;
    INSERT INTO snapshot (session, group_no, sequence, state, manifest_key, mac, consistency,
                          sealed_at, expired_at, manifest_deleted)
    SELECT session, group_no, head_sequence + 1,
           CASE WHEN head_sequence < %(expired)s THEN 'x' ELSE 'l' END::"char",
           'manifests/acme/' || session, sha256(session::text::bytea), 'quiet',
           now() - interval '1 year',
           CASE WHEN head_sequence < %(expired)s THEN now() - interval '100 days' END,
           head_sequence < %(expired)s
    FROM session WHERE group_no = %(group)s;
    INSERT INTO snapshot_volume (session, volume_no, root, root_level, size_bytes, read_bytes,
                                 changed_bytes, sent_bytes, stored_bytes)
    SELECT session, %(volume)s, mac, 2, 1 << 30, 1 << 30, 65536, 65536, 40000 FROM snapshot
    WHERE group_no = %(group)s;
    INSERT INTO verification (session, level, damaged, damaged_bytes)
    SELECT session, 'structural', false, 0 FROM snapshot WHERE group_no = %(group)s;
    INSERT INTO pack (generation, state, domain_no, key_id, attempt, size_bytes, items, frames)
    SELECT gen_random_uuid(), 'c', %(domain)s, gen_random_uuid(), session, 40000, 3, '\\x00'
    FROM snapshot WHERE group_no = %(group)s AND state = 'x';
    INSERT INTO event_log (topic, position, event_id, type, version, source, subject, tenant,
                           occurred_at, value)
    SELECT 'backcast.snapshots', l.last + n, gen_random_uuid(),
           'backcast.snapshots.snapshot_sealed', 1, 'chunker', 'x', 'acme',
           now() - interval '100 days', '\\x80'
    FROM generate_series(1, %(expired)s) n, log_position l WHERE l.topic = 'backcast.snapshots';
    UPDATE log_position SET last = last + %(expired)s, published = last + %(expired)s
    WHERE topic = 'backcast.snapshots';
    UPDATE volume_group g SET head_sequence = s.sequence, head_session = s.session, head_mac = s.mac
    FROM snapshot s WHERE g.group_no = %(group)s AND s.group_no = %(group)s
      AND s.sequence = %(count)s
"""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Internal numbers of a group and its only volume."""

    group: int
    volume: int


def make_snapshots(site: CatalogSite, group: str, live: int, expired: int) -> Numbers:
    """Snapshots of a protected group without any, the last ``live`` of them live.

    Of each expired one there are all rows that taking, verifying and expiring it leaves, its event,
    and a condemned pack that is to be buried.
    """
    ((group_no, volume_no, node_no, domain_no),) = site.sql(
        """SELECT g.group_no, v.volume_no, s.node_no, t.domain_no
           FROM volume_group g JOIN volume v USING (group_no) JOIN source s USING (volume_no)
           JOIN tenant t ON t.tenant_no = g.tenant_no
           WHERE g.name = %s AND t.name = %s""",
        group,
        TENANT,
    )
    values = {
        "group": group_no,
        "volume": volume_no,
        "node": node_no,
        "domain": domain_no,
        "count": live + expired,
        "expired": expired,
    }
    for statement in _MAKE.split(";\n"):
        site.run(statement, values)
    return Numbers(group_no, volume_no)


def table_bytes(site: CatalogSite) -> dict[str, int]:
    """Bytes of each table of the catalog with its indexes and what lies beside it, packed tight."""
    names = [
        row[0] for row in site.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ]
    sizes = {}
    for name in names:
        if name != "incarnation":  # its file is part of what a life of the catalog is
            site.sql(f'VACUUM FULL "{name}"')
        ((size,),) = site.sql("SELECT pg_total_relation_size(%s::regclass)", name)
        sizes[name] = int(size)
    return sizes
