"""New data keys of domains: what is written from now on is sealed under them.

The id key stays: it names chunks and map nodes, and another one would find nothing that is stored.
Packs and manifests that are there stay under the data key that sealed them, and that key stays in
the bucket: nobody deletes a wrapped key.

Order for each domain: wrapped key durable at the primary and read back → **catalog: new packs use
it (the commit)** → when all are done, a checkpoint that says so, at every store. A crash before
the commit leaves a wrapped key that nothing uses; one after it leaves a decision that the next
checkpoint tells. Doing it again gives the domain yet another data key, which harms nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.domains import TenantDomain, tenant_domains, use_data_key
from libs.catalogdb.pool import Catalog
from libs.copies.stores import Stores
from libs.errors import ConflictError, DamagedDataError, NotFoundError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewDataKey:
    """A tenant's domain has a new data key."""

    tenant: str
    domain: UUID
    before: UUID
    key_id: UUID


class DataKeys:
    """Gives domains new data keys. Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where wrapped keys lie.
        kek: wraps the new ones.
        witness: returns when every store knows what was decided before the call.
    """

    def __init__(
        self,
        catalog: Catalog,
        stores: Stores,
        kek: KeyEncryptionKey,
        witness: Callable[[], object],
    ) -> None:
        self._catalog = catalog
        self._stores = stores
        self._kek = kek
        self._witness = witness

    def rotate(self, tenant: str | None) -> list[NewDataKey]:
        """Give one tenant's domain, or those of all, a new data key.

        Raises:
            NotFoundError: there is no such tenant.
            ConflictError: the key-encryption key is being changed, and not every service may know
                the new one.
            NotReconciledError: the catalog may have gone back in time.
        """
        if self._kek.previous is not None:
            raise ConflictError(
                "data keys: the key-encryption key is being changed, and a service that does not "
                "know the new one could not open a new data key; complete that "
                "(`backcast keys rotate-kek`), and remove the settings PREVIOUS_KEK_FILE"
            )
        domains = tenant_domains(self._catalog)
        chosen = [one for one in domains if tenant in (None, one.tenant)]
        if tenant is not None and not chosen:
            raise NotFoundError(f"tenant {tenant[:80]}: there is none of this name")
        done = [self._renew(one) for one in chosen]
        self._witness()
        return done

    def _renew(self, one: TenantDomain) -> NewDataKey:
        keys = KeyVault(self._stores.objects, self._kek).get(one.domain, one.key_id)
        fresh = keys.with_new_data_key()
        KeyVault(self._stores.objects, self._kek).put(fresh)
        if KeyVault(self._stores.objects, self._kek).get(fresh.domain, fresh.key_id) != fresh:
            raise DamagedDataError(
                f"domain {one.domain}: the store does not give the wrapped key that was put; "
                f"nothing uses it"
            )
        use_data_key(self._catalog, one.domain, one.key_id, fresh.key_id)
        log.info("new data key", extra={"tenant": one.tenant, "key_id": str(fresh.key_id)})
        return NewDataKey(one.tenant, one.domain, one.key_id, fresh.key_id)
