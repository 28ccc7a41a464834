"""Which group of a tenant a request is about, by what its parameters name."""

from typing import LiteralString
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import group_of
from libs.errors import NotFoundError

#: By the name of the parameter. Each role of the catalog may ask what its service has routes for.
_SNAPSHOT: LiteralString = """
    SELECT g.name FROM snapshot JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
    WHERE session = %s AND t.name = %s"""
_RESTORE: LiteralString = """
    SELECT g.name FROM lease JOIN snapshot USING (session) JOIN volume_group g USING (group_no)
    JOIN tenant t USING (tenant_no) WHERE lease = %s AND t.name = %s"""
_SESSION: LiteralString = """
    SELECT g.name FROM session JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
    WHERE session = %s AND t.name = %s"""


def group_of_parameter(catalog: Catalog, tenant: str, parameter: str, value: str) -> str:
    """The group that a request of the restore or the catalog service is about.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        parameter: ``name`` of a volume or group, ``session`` of a snapshot, or a ``restore``.
        value: of the parameter.

    Raises:
        NotFoundError: the tenant has nothing of this name or id.
    """
    if parameter == "name":
        return group_of(catalog, tenant, value)
    return _by_id(catalog, _RESTORE if parameter == "restore" else _SNAPSHOT, tenant, value)


def group_of_session(catalog: Catalog, tenant: str, parameter: str, value: str) -> str:
    """The same of a request of the coordinator, to which a ``session`` may be open."""
    if parameter == "name":
        return group_of(catalog, tenant, value)
    return _by_id(catalog, _SESSION, tenant, value)


def _by_id(catalog: Catalog, query: LiteralString, tenant: str, value: str) -> str:
    try:
        id_ = UUID(value)
    except ValueError:
        raise NotFoundError(f"{value[:80]}: there is none of this id") from None
    with catalog.reading() as tx:
        row = tx.execute(query, [id_, tenant]).fetchone()
    if row is None:
        raise NotFoundError(f"{id_}: there is none of this id")
    return str(row[0])
