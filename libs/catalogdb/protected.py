"""Tenants, nodes, groups and volumes: who and what is protected."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled, require_whole
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.volumes.locking import lock_names, lock_volume
from libs.catalogdb.volumes.placing import refuse_same_path
from libs.catalogdb.volumes.returning import take_back
from libs.errors import ConflictError, NotFoundError
from libs.ids import uuid7


@dataclass(frozen=True, slots=True)
class Tenant:
    """An owner, with the domain that its data is deduplicated in."""

    tenant_no: int
    name: str
    domain_no: int
    domain: UUID
    key_id: UUID


@dataclass(frozen=True, slots=True)
class Node:
    """A host that runs an agent, as it last announced itself."""

    name: str
    rpc_url: str
    span_address: str
    boot: UUID
    #: The credential by which it announces itself; None: it has none.
    credential: UUID | None = None


#: The boot of a node that has not announced itself (with the credential that counts).
NO_BOOT = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Volume:
    """A protected block address space. ``volume_no`` is its number within the catalog."""

    volume_no: int
    volume: UUID
    name: str
    group: str
    group_id: UUID
    #: The source that is captured: its lead.
    node: str
    path: str
    #: Mount point of the file system that is frozen while writes to the source are held, or None.
    freeze: str | None
    #: By which driver it is read and its changes are known.
    driver: str
    head_sequence: int
    #: When it was removed, and by whom; None: it is protected.
    removed_at: datetime | None
    removed_by: str | None
    #: When its group was paused, by whom and why; None: it takes snapshots.
    paused_at: datetime | None
    paused_by: str | None
    paused_reason: str | None
    #: Other nodes that write it, as NODE:PATH, by name.
    followers: tuple[str, ...] = ()


#: Any number that only the creation of tenants uses.
_TENANTS_LOCK = 0x74656E61

_VOLUMES = """SELECT v.volume_no, v.volume_id AS volume, v.name, g.name AS group, g.group_id,
                     n.name AS node, o.path, o.freeze_mount AS freeze, o.driver,
                     g.head_sequence, v.removed_at, v.removed_by, g.paused_at, g.paused_by,
                     g.paused_reason,
                     ARRAY(SELECT fn.name || ':' || f.path
                           FROM source f JOIN node fn USING (node_no)
                           WHERE f.volume_no = v.volume_no AND NOT f.lead
                           ORDER BY fn.name) AS followers
              FROM volume v JOIN volume_group g USING (group_no)
              JOIN source o ON o.volume_no = v.volume_no AND o.lead JOIN node n USING (node_no)
              JOIN tenant t ON t.tenant_no = v.tenant_no"""


def find_tenant(catalog: Catalog, name: str) -> Tenant | None:
    """The tenant of this name, or None."""
    with catalog.transaction() as tx:
        return _tenant(tx, name)


def require_tenant(catalog: Catalog, name: str) -> Tenant:
    """The tenant of this name.

    Raises:
        NotFoundError: there is none: it has no volume yet, or its name is misspelt.
        NotReconciledError: there is none, and the catalog may not know yet what the store has.
    """
    with catalog.transaction() as tx:
        tenant = _tenant(tx, name)
        if tenant is None:
            require_whole(tx)
            tenant = _tenant(tx, name)
    if tenant is None:
        raise NotFoundError(
            f"tenant {name}: there is none of this name; its first volume makes it "
            f"(`backcast volume add`)"
        )
    return tenant


def require_names(catalog: Catalog, tenant: str, name: str | None) -> None:
    """See to it that what a list is asked of exists: an empty list must mean that nothing is there.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: of one of its volumes or groups; None: all are meant.

    Raises:
        NotFoundError: no such tenant, or it has no volume or group of this name.
    """
    if name is None:
        require_tenant(catalog, tenant)
    else:
        group_of(catalog, tenant, name)


def create_tenant(catalog: Catalog, name: str, domain: UUID, key_id: UUID) -> Tenant:
    """Create a tenant with a domain of its own, or return the one that exists.

    The domain's wrapped key must already be in the store: a key that exists only in the catalog
    would lose the data with the catalog (scenario 14). If another caller was first, the caller's
    key object is never used and harmless.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        tx.execute("SELECT pg_advisory_xact_lock(%s)", [_TENANTS_LOCK])
        existing = _tenant(tx, name)
        if existing:
            return existing
        row = tx.execute(
            "INSERT INTO domain (domain, key_id) VALUES (%s, %s) RETURNING domain_no",
            [domain, key_id],
        ).fetchone()
        assert row is not None
        tx.execute("SELECT create_chunk_table(%s)", [row[0]])
        tx.execute("INSERT INTO tenant (name, domain_no) VALUES (%s, %s)", [name, row[0]])
        created = _tenant(tx, name)
        assert created is not None
        return created


def list_nodes(catalog: Catalog) -> list[Node]:
    """The nodes that have announced themselves and were not forgotten, by name."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            Node,
            """SELECT name, rpc_url, span_address, boot, credential FROM node
               WHERE rpc_url <> '' ORDER BY name""",
        )


def find_node(catalog: Catalog, name: str) -> Node:
    """The node of this name.

    Raises:
        NotFoundError: no agent has announced itself under it.
    """
    for node in list_nodes(catalog):
        if node.name == name:
            return node
    raise NotFoundError(
        f"node {name}: no agent has announced itself under this name; start one there"
    )


def add_volume(  # noqa: PLR0913 -- the columns of a row
    catalog: Catalog,
    tenant: str,
    name: str,
    group: str | None,
    node: str,
    path: str,
    freeze: str | None = None,
    *,
    driver: str = "scan",
    again: bool = False,
) -> Volume:
    """Protect a volume, in a group that is made if need be; adding it again unchanged returns it.

    One that was removed is taken back with its history.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: name of the volume.
        group: name of its group; None: the one that it was in, or one of its own name.
        node: name of the node that has its source.
        path: path of the source on that node.
        freeze: mount point of the file system to freeze while writes are held, or None.
        driver: by which driver it is read and its changes are known.
        again: although another volume of the tenant has the same path on the node.

    Raises:
        ConflictError: the name is taken by a volume or group with other properties. Volumes and
            groups share one name space per tenant, because a recovery point names either; only a
            volume that is alone in its group may share its name. Or another volume of the tenant
            has the same path, or a removed one cannot be taken back so.
        NotFoundError: no such tenant or node.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = _volume(tx, tenant, name)
        if volume and not volume.removed_at:
            known = (volume.node, volume.path, volume.freeze, volume.driver)
            is_same = known == (node, path, freeze, driver) and not volume.followers
            if is_same and group in (None, volume.group):
                return volume
            frozen = f", frozen at {volume.freeze}" if volume.freeze else ""
            raise ConflictError(
                f"volume {name}: already protects {volume.node}:{volume.path}{frozen} by driver "
                f"{volume.driver} in group {volume.group}; choose another name, or `backcast "
                f"volume move` or `regroup` it"
            )
        if not again:
            refuse_same_path(tx, tenant, node, path, but=name)
        removed = lock_volume(tx, tenant, name)
        if removed:
            entry = take_back(tx, tenant, removed, group, node, path, freeze, driver)
            append(tx, "coordinator", [entry])
            return read_volume(tx, tenant, name)
        refuse_shared_name(tx, tenant, name, group or name)
        insert_volume(tx, tenant, name, group or name, node, path, freeze, driver)
        return read_volume(tx, tenant, name)


def list_volumes(
    catalog: Catalog, tenant: str, group: str | None = None, *, removed: bool = False
) -> list[Volume]:
    """The tenant's volumes, by name; of one group if it is named. Those that were removed apart."""
    of_group = " AND (%s::text IS NULL OR g.name = %s) AND (v.removed_at IS NOT NULL) = %s"
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            _as_volume,
            _VOLUMES + " WHERE t.name = %s" + of_group + " ORDER BY v.name",
            [tenant, group, group, removed],
        )


def find_volume(catalog: Catalog, tenant: str, name: str) -> Volume:
    """The volume of this name, also if it was removed.

    Raises:
        NotFoundError: the tenant has none.
    """
    with catalog.transaction() as tx:
        volume = _volume(tx, tenant, name)
    if volume is None:
        require_tenant(catalog, tenant)
        raise NotFoundError(
            f"volume {name}: tenant {tenant} has none of this name; `backcast volume list` shows "
            f"them"
        )
    return volume


def refuse_removed(catalog: Catalog, tenant: str, name: str) -> None:
    """Refuse the name of a volume that is protected no more.

    Raises:
        ConflictError: it was removed.
    """
    with catalog.transaction() as tx:
        volume = _volume(tx, tenant, name)
    if volume and volume.removed_at:
        raise ConflictError(
            f"volume {name}: {volume.removed_by} removed it at {volume.removed_at:%Y-%m-%dT%H:%MZ};"
            f" `backcast volume add {name} {volume.path}` takes it back"
        )


def group_of(catalog: Catalog, tenant: str, name: str) -> str:
    """The group that a volume's or group's name means.

    Raises:
        NotFoundError: the tenant has neither.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT g.name FROM tenant t JOIN volume_group g USING (tenant_no)
               LEFT JOIN volume v ON v.group_no = g.group_no
               WHERE t.name = %s AND (g.name = %s OR v.name = %s) LIMIT 1""",
            [tenant, name, name],
        ).fetchone()
    if row is None:
        require_tenant(catalog, tenant)
        raise NotFoundError(
            f"{name}: tenant {tenant} has no volume or group of this name; "
            f"`backcast volume list` shows what there is"
        )
    return str(row[0])


def _tenant(tx: Tx, name: str) -> Tenant | None:
    return one_row(
        tx,
        Tenant,
        """SELECT tenant_no, name, domain_no, domain, key_id
           FROM tenant JOIN domain USING (domain_no) WHERE name = %s""",
        [name],
    )


def _as_volume(followers: list[str], **columns: Any) -> Volume:
    return Volume(followers=tuple(followers), **columns)


def _volume(tx: Tx, tenant: str, name: str) -> Volume | None:
    return one_row(tx, _as_volume, _VOLUMES + " WHERE t.name = %s AND v.name = %s", [tenant, name])


def read_volume(tx: Tx, tenant: str, name: str) -> Volume:
    """A volume that is there, in the caller's transaction."""
    volume = _volume(tx, tenant, name)
    assert volume is not None
    return volume


def insert_volume(  # noqa: PLR0913 -- the columns of two rows
    tx: Tx,
    tenant: str,
    name: str,
    group: str,
    node: str,
    path: str,
    freeze: str | None,
    driver: str,
) -> None:
    """Insert a volume and its source, and its group if there is none, in the caller's transaction.

    Raises:
        NotFoundError: no such node.
    """
    tx.execute(
        """INSERT INTO volume_group (group_id, tenant_no, name)
           SELECT %s, tenant_no, %s FROM tenant WHERE name = %s
           ON CONFLICT (tenant_no, name) DO NOTHING""",
        [uuid7(), group, tenant],
    )
    placed = tx.execute(
        """WITH made AS (
               INSERT INTO volume (volume_id, tenant_no, group_no, name)
               SELECT %s, t.tenant_no, g.group_no, %s
               FROM tenant t JOIN volume_group g ON g.tenant_no = t.tenant_no AND g.name = %s
               WHERE t.name = %s RETURNING volume_no)
           INSERT INTO source (volume_no, node_no, path, freeze_mount, driver)
           SELECT volume_no, node_no, %s, %s, %s FROM made, node WHERE node.name = %s""",
        [uuid7(), name, group, tenant, path, freeze, driver, node],
    )
    if not placed.rowcount:
        raise NotFoundError(f"node {node}: no agent has announced itself under this name")


def refuse_shared_name(tx: Tx, tenant: str, name: str, group: str) -> None:
    """Refuse to put a volume into a group if their names would mean others, too.

    Raises:
        ConflictError: another group has the volume's name, or another volume the group's.
    """
    clash = tx.execute(
        """SELECT g.name FROM volume_group g JOIN tenant t USING (tenant_no)
           WHERE t.name = %(tenant)s AND g.name = %(name)s
           UNION ALL
           SELECT v.name FROM volume v JOIN tenant t USING (tenant_no)
           WHERE t.name = %(tenant)s AND v.name = %(group)s""",
        {"tenant": tenant, "name": name, "group": group},
    ).fetchone()
    if clash:
        raise ConflictError(
            f"{clash[0]}: a volume and a group of others cannot share a name within a tenant"
        )
