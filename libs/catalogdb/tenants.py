"""Tenants as whoever runs the installation sees them: a list, and quotas.

A quota is of *stored* bytes: the packs of the tenant's own domain at the primary store. It fills
disks, and the tenant can do something about it: let recovery points expire. It is asked when a
session opens. From the quota on no session opens; one that is open goes on, so a tenant may end
above its quota. Nothing is ever deleted because of a quota.

The cost is that of the domain's packs in an index of its own (`pack_stored`), for tenants with a
quota alone: some 20 ms for 200,000 packs.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import NotFoundError, OutOfSpaceError
from libs.sizes import human_bytes


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """A tenant and the room that it takes."""

    name: str
    domain: UUID
    created_at: datetime
    #: Volumes that are protected.
    volumes: int
    #: Packs of its own domain at the primary store.
    stored_bytes: int
    #: None: there is no limit.
    quota_bytes: int | None


_USAGE = """
    SELECT t.name, d.domain, t.created_at, t.quota_bytes,
           (SELECT count(*) FROM volume v
            WHERE v.tenant_no = t.tenant_no AND v.removed_at IS NULL) AS volumes,
           (SELECT coalesce(sum(p.size_bytes), 0)::bigint FROM pack p
            WHERE p.domain_no = t.domain_no AND p.state = 'l') AS stored_bytes
    FROM tenant t JOIN domain d USING (domain_no)"""


def list_tenants(catalog: Catalog) -> list[TenantUsage]:
    """All tenants by name. Reads an entry of an index for every pack."""
    with catalog.reading() as tx:
        return all_rows(tx, TenantUsage, _USAGE + " ORDER BY t.name")


def read_tenant(catalog: Catalog, name: str) -> TenantUsage:
    """One tenant.

    Raises:
        NotFoundError: there is none of this name.
    """
    with catalog.reading() as tx:
        found = one_row(tx, TenantUsage, _USAGE + " WHERE t.name = %s", [name])
    if found is None:
        raise NotFoundError(f"tenant {name}: there is none of this name")
    return found


def set_quota(catalog: Catalog, name: str, quota_bytes: int | None) -> None:
    """Limit what a tenant stores from its next session on; None: no limit.

    Raises:
        NotFoundError: there is none of this name.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        changed = tx.execute(
            "UPDATE tenant SET quota_bytes = %s WHERE name = %s", [quota_bytes, name]
        )
        if not changed.rowcount:
            raise NotFoundError(f"tenant {name}: there is none of this name")


def require_room(tx: Tx, tenant: str) -> None:
    """See to it that a tenant is below its quota, in the transaction that opens a session.

    Raises:
        OutOfSpaceError: it has reached it; says what to do.
    """
    quota = tx.execute("SELECT quota_bytes FROM tenant WHERE name = %s", [tenant]).fetchone()
    if quota is None or quota[0] is None:
        return
    usage = one_row(tx, TenantUsage, _USAGE + " WHERE t.name = %s", [tenant])
    assert usage is not None
    if usage.stored_bytes >= quota[0]:
        raise OutOfSpaceError(
            f"tenant {tenant}: stores {human_bytes(usage.stored_bytes)} and may store "
            f"{human_bytes(quota[0])}; no new "
            f"snapshots until recovery points expired (`backcast stats`, `backcast snapshot "
            f"expire`) and were collected, or the quota is raised (`backcast tenant quota`)"
        )
