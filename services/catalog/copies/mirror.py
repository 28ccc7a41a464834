"""Copies of what is no pack: wrapped keys, manifests, checkpoints.

With them the second store is enough to rebuild everything. Each object is copied as it is: keys are
written with one content only, so copying one twice changes nothing.

Order at a store: wrapped keys → packs → manifests → checkpoint. Of a checkpoint the parts come
before the head. A crash after any step leaves objects that the next round finds there.
"""

import contextlib
import hmac
import logging
from collections.abc import Callable
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.stores import (
    SealedManifest,
    manifests_to_copy,
    record_manifests_copied,
)
from libs.catalogdb.verification import read_manifest_record
from libs.checkpoints.shelf import Checkpoint, CheckpointShelf
from libs.copies.stores import PRIMARY, SECOND, Stores
from libs.errors import DamagedDataError, NotFoundError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap
from libs.keys.opening import open_manifest_object
from libs.keys.vault import KeyVault
from libs.packs.manifest import manifest_mac, parse_manifest_header
from libs.store.layout import (
    KEYS_PREFIX,
    CheckpointName,
    DomainKeyName,
    domain_key_object,
    parse_domain_key_object,
)
from libs.store.port import ObjectStore

log = logging.getLogger(__name__)

_MANIFESTS_AT_ONCE = 100


class Mirror:
    """Copies keys, manifests and checkpoints between the stores. For one thread.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: both of them.
        kek: opens all of these objects, which are verified before they are copied.
        keep_count: so many checkpoints are kept.
    """

    def __init__(
        self, catalog: Catalog, stores: Stores, kek: KeyEncryptionKey, keep_count: int
    ) -> None:
        self._catalog = catalog
        self._stores = stores
        self._kek = kek
        self._keep_count = keep_count
        self._vault = KeyVault(stores.objects, kek)
        self._shelves = {
            store_no: CheckpointShelf(store, kek) for store_no, store in stores.by_number.items()
        }

    def copy_keys(self, target: int) -> int:
        """Copy the wrapped keys that a store lacks; how many.

        One that was wrapped anew since is left alone: `services.catalog.keys.rotation` removes it.
        """
        source, there = self._sides(target)
        known = {stat.key for stat in there.list(KEYS_PREFIX)}
        listed = [stat.key for stat in source.list(KEYS_PREFIX)]
        copied = 0
        for key in listed:
            if key in known:
                continue
            wrapped = source.get(key)
            name = parse_domain_key_object(key)
            unwrap(wrapped, name, self._kek)
            anew = DomainKeyName(name.domain, name.key_id, self._kek.fingerprint.hex())
            if name != anew and domain_key_object(anew) in known.union(listed):
                continue
            there.put(key, wrapped)
            copied += 1
        return copied

    def copy_manifests(self, progressed: Callable[[], None]) -> int:
        """Copy the manifests of live snapshots that the second store lacks; how many."""
        copied, after = 0, UUID(int=0)
        while page := manifests_to_copy(self._catalog, after, _MANIFESTS_AT_ONCE):
            done = [one.session for one in page if self._copy_manifest(one, SECOND)]
            record_manifests_copied(self._catalog, done)
            copied += len(done)
            after = page[-1].session
            progressed()
        return copied

    def restore_manifests(self, progressed: Callable[[], None]) -> int:
        """Copy the manifests of live snapshots that the primary store lacks; how many."""
        copied, after, primary = 0, UUID(int=0), self._stores.by_number[PRIMARY]
        while page := manifests_to_copy(self._catalog, after, _MANIFESTS_AT_ONCE, everything=True):
            lacking = [one for one in page if primary.stat(one.key) is None]
            copied += sum(self._copy_manifest(one, PRIMARY) for one in lacking)
            after = page[-1].session
            progressed()
        return copied

    def copy_checkpoint(self, target: int) -> CheckpointName | None:
        """Copy the newest checkpoint to a store, if that has none as new; its name if it was.

        What it builds on comes before, so that every head in the store can be restored.
        """
        source = SECOND if target == PRIMARY else PRIMARY
        newest, there = self._shelves[source].newest_state(), self._shelves[target].newest_state()
        if newest is None or (there and _order(there.name) >= _order(newest.name)):
            return None
        for link in self._shelves[source].links_of(newest):
            if not self._shelves[target].has_head(link.name):
                self._copy_link(link, source, target)
        self._shelves[target].thin_out(self._keep_count, newest.name)
        return newest.name

    def _copy_link(self, link: Checkpoint, source: int, target: int) -> None:
        """Copy one checkpoint's own objects, its head last."""
        for key, data in self._shelves[source].objects_of(link):
            self._stores.by_number[target].put(key, data)

    def _sides(self, target: int) -> tuple[ObjectStore, ObjectStore]:
        """Where to read from, and the store that is written to."""
        source = SECOND if target == PRIMARY else PRIMARY
        return self._stores.by_number[source], self._stores.by_number[target]

    def _copy_manifest(self, manifest: SealedManifest, target: int) -> bool:
        source, there = self._sides(target)
        try:
            body = source.get(manifest.key)
            keys = self._vault.get(manifest.domain, parse_manifest_header(body).key_id)
            open_manifest_object(manifest.key, body, keys)
            if not hmac.compare_digest(manifest_mac(body), manifest.mac):
                raise DamagedDataError(
                    f"object {manifest.key}: is not the manifest that was sealed"
                )
        except (DamagedDataError, NotFoundError) as err:
            with contextlib.suppress(NotFoundError):  # it has expired meanwhile: nobody's loss
                read_manifest_record(self._catalog, manifest.session)
                log.warning("manifest not copied", extra={"key": manifest.key, "detail": str(err)})
            return False
        there.put(manifest.key, body)
        return True


def _order(name: CheckpointName) -> tuple[int, int]:
    return name.incarnation, name.number
