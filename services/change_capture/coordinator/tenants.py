"""Tenants and their domains: made with keys of their own when a tenant is first used."""

from uuid import uuid4

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Tenant, create_tenant, find_tenant
from libs.keys.keyring import DomainKeys
from libs.keys.vault import KeyVault


def ensure_tenant(catalog: Catalog, vault: KeyVault, name: str) -> Tenant:
    """The tenant of this name, made if there is none.

    Order: wrapped keys durable in the bucket, then the catalog. A crash in between, or another
    coordinator that was faster, leaves a wrapped key that nothing uses.
    """
    tenant = find_tenant(catalog, name)
    if tenant:
        return tenant
    keys = DomainKeys.generate(uuid4())
    vault.put(keys)
    return create_tenant(catalog, name, keys.domain, keys.key_id)
