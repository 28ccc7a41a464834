"""The key-encryption key is changed: everything that the old one opens gets a successor.

Costs one small object per data key, and one base checkpoint; no pack and no manifest is touched.

Order, over all stores together: each data key wrapped anew beside its old object → each new object
read back, opened with the new key-encryption key alone, and compared → a base checkpoint under the
new one, copied, and read back in full from each store → **old objects deleted**, wrapped keys
before checkpoints. The commit point is the last comparison: until then nothing is deleted in any
store. A crash after any step leaves objects that the next run finds: a key wrapped anew has the
same bytes each time, under a name of its own, and a deletion is repeated only after the same
comparisons. Until the first deletion both key-encryption keys together open everything; afterwards
the new one does so alone.

Anybody who still has the old one only (a coordinator that was not restarted) may add an object
under it meanwhile. The last look counts what is left, and another run takes it in.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.domains import keys_in_use
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.stores import read_stores
from libs.checkpoints.checkpoint import SEALED_UNDER_SIZE_BYTES, is_sealed_under
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import STORE_NAMES, Stores
from libs.errors import (
    BackcastError,
    ConflictError,
    DamagedDataError,
    InvariantViolation,
    NotFoundError,
)
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, rewrap, unwrap, wrapped_by
from libs.keys.vault import KeyVault
from libs.ranges import ByteRange
from libs.runtime.threads import start_thread
from libs.store.layout import (
    CHECKPOINTS_PREFIX,
    KEYS_PREFIX,
    DomainKeyName,
    domain_key_object,
    parse_domain_key_object,
)
from libs.store.port import ObjectStore

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RotationState:
    """How a change of the key-encryption key stands."""

    running: bool = True
    #: wrapping, comparing, checkpoint, deleting, looking, done.
    step: str = "wrapping"
    #: Data keys that there are; objects that were written, and deleted, by this run.
    keys: int = 0
    wrapped: int = 0
    keys_deleted: int = 0
    checkpoints_deleted: int = 0
    #: Objects that still need another key-encryption key; 0 when the change is complete.
    left: int = 0
    error: str = ""


class KekRotation:
    """Changes of the key-encryption key that were asked for, one at a time.

    Args:
        stores: all stores that have copies of keys.
        kek: the new key-encryption key, and with it the previous one.
        known_keys: `keys_to_wrap`: domain and key id of what must not be overlooked.
        write_checkpoint: returns when the newest checkpoint at the primary is under ``kek``.
        copy_checkpoint: returns when the other store of this number has it too.
    """

    def __init__(
        self,
        stores: Stores,
        kek: KeyEncryptionKey,
        known_keys: Callable[[], set[tuple[UUID, UUID]]],
        write_checkpoint: Callable[[], object],
        copy_checkpoint: Callable[[int], object],
    ) -> None:
        self.state: RotationState | None = None
        #: Of the key-encryption key that stays.
        self.fingerprint = kek.fingerprint.hex()
        self._stores = stores
        self._kek = kek
        self._known_keys = known_keys
        self._write_checkpoint = write_checkpoint
        self._copy_checkpoint = copy_checkpoint
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, or go on after a crash, in a thread of its own. If it runs, it goes on.

        Raises:
            ConflictError: a store that has copies is not configured here.
            NotReconciledError: the catalog is not yet of one mind with the store.
        """
        with self._lock:
            if self.state and self.state.running:
                return
            self._known_keys()
            state = self.state = RotationState()
        start_thread("rotate-kek", self._run, state, daemon=True)

    def rotate(self, state: RotationState) -> None:
        """Do all steps; what is left to do afterwards is in the state."""
        keys = self._wrap_anew(state)
        state.step = "comparing"
        names = self._compare(keys)
        state.step = "checkpoint"
        self._renew_checkpoint()
        state.step = "deleting"
        self._delete_old_keys(state, names)
        self._delete_old_checkpoints(state)
        state.step = "looking"
        state.left = sum(1 for _ in self._left())
        state.step = "done"

    def _run(self, state: RotationState) -> None:
        try:
            self.rotate(state)
            log.info("key-encryption key changed", extra={"state": str(state)})
        except BackcastError as err:
            log.warning("key-encryption key not changed", extra={"detail": str(err)})
            state.error = f"{err.code}: {err}"
        except Exception as err:
            log.exception("key-encryption key not changed")
            state.error = f"{InvariantViolation.code}: {type(err).__name__}; see the log"
        finally:
            state.running = False

    def _wrap_anew(self, state: RotationState) -> list[DomainKeys]:
        """Every data key gets, in every store, an object that the new key-encryption key opens."""
        vault = KeyVault(self._stores.objects, self._kek)
        known = self._known_keys()  # a listing may leave one out
        for store in self._stores.by_number.values():
            known |= {(name.domain, name.key_id) for name in _names(store)}
        keys = [
            vault.get(domain, key_id)
            for domain, key_id in sorted(known)
            if self._is_anywhere(domain, key_id)
        ]
        state.keys = len(keys)
        for one in keys:
            name, body = self._object_of(one)
            for store in self._stores.by_number.values():
                if store.stat(domain_key_object(name)) is None:
                    store.put(domain_key_object(name), body)
                    state.wrapped += 1
        return keys

    def _is_anywhere(self, domain: UUID, key_id: UUID) -> bool:
        """Whether any store has an object of this data key: one that is lost holds up no other."""
        first = domain_key_object(DomainKeyName(domain, key_id))
        stores = self._stores.by_number.values()
        found = any(store.stat(first) or next(store.list(first), None) for store in stores)
        if not found:
            log.error("wrapped key is in no store", extra={"key": first})
        return found

    def _object_of(self, keys: DomainKeys) -> tuple[DomainKeyName, bytes]:
        """The object that stays: as first stored if that is under the new key, else wrapped anew.

        The bytes are the same at each store and each time.
        """
        first = DomainKeyName(keys.domain, keys.key_id)
        try:
            body = self._stores.objects.get(domain_key_object(first))
        except NotFoundError:
            return rewrap(keys, self._kek)
        if wrapped_by(body) == self._kek.fingerprint:
            return first, body
        return rewrap(keys, self._kek)

    def _compare(self, keys: list[DomainKeys]) -> set[DomainKeyName]:
        """Open each new object at each store with the new key alone; the names of all of them.

        Raises:
            DamagedDataError: one holds other keys, or cannot be opened.
            NotFoundError: one is not there.
        """
        names = set()
        for one in keys:
            name, _ = self._object_of(one)
            names.add(name)
            for store_no, store in self._stores.by_number.items():
                key = domain_key_object(name)
                if unwrap(store.get(key), name, self._kek.alone) != one:
                    raise DamagedDataError(
                        f"object {key} at store {STORE_NAMES[store_no]}: holds other keys than the "
                        f"one that it succeeds; nothing was deleted; delete this object and run "
                        f"the command again"
                    )
        return names

    def _renew_checkpoint(self) -> None:
        """A checkpoint that the new key-encryption key opens alone, read back from each store."""
        self._write_checkpoint()
        for store_no, store in self._stores.by_number.items():
            self._copy_checkpoint(store_no)
            shelf = CheckpointShelf(store, self._kek.alone)
            newest = shelf.newest_state()
            if newest is None:
                raise DamagedDataError(
                    f"store {STORE_NAMES[store_no]}: has no checkpoint; nothing was deleted"
                )
            for _ in shelf.rows(newest):
                pass

    def _delete_old_keys(self, state: RotationState, names: set[DomainKeyName]) -> None:
        """Of data keys whose successors were compared, and of no others."""
        compared = {(name.domain, name.key_id) for name in names}
        for store in self._stores.by_number.values():
            for name in _names(store):
                if (name.domain, name.key_id) in compared and name not in names:
                    store.delete(domain_key_object(name))
                    state.keys_deleted += 1

    def _delete_old_checkpoints(self, state: RotationState) -> None:
        """All that the newest one, which was read back, does not need."""
        for store in self._stores.by_number.values():
            before = sum(1 for _ in store.list(CHECKPOINTS_PREFIX))
            CheckpointShelf(store, self._kek.alone).thin_out(1)
            state.checkpoints_deleted += before - sum(1 for _ in store.list(CHECKPOINTS_PREFIX))

    def _left(self) -> Iterator[str]:
        """Objects that still need another key-encryption key."""
        for store in self._stores.by_number.values():
            for name in _names(store):
                key = domain_key_object(name)
                if wrapped_by(store.get(key)) != self._kek.fingerprint:
                    yield key
            for stat in store.list(CHECKPOINTS_PREFIX):
                try:
                    start = store.get_range(stat.key, ByteRange(0, SEALED_UNDER_SIZE_BYTES))
                except NotFoundError:  # thinned out meanwhile
                    continue
                if not is_sealed_under(start, self._kek):
                    yield stat.key


def keys_to_wrap(catalog: Catalog, stores: Stores) -> set[tuple[UUID, UUID]]:
    """Domain and key id of all data keys that the catalog knows in use.

    Raises:
        ConflictError: a store that has copies is not configured here. It would keep objects that
            nobody can open any more.
        NotReconciledError: the catalog is not yet of one mind with the store.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
    for store in read_stores(catalog):
        if store.state == "online" and store.store_no not in stores.by_number:
            raise ConflictError(
                f"store {store.name}: has copies of keys, and this service has no settings for it; "
                f"configure it, or say that it is lost: backcast store lost {store.name}"
            )
    return keys_in_use(catalog)


def _names(store: ObjectStore) -> list[DomainKeyName]:
    return [parse_domain_key_object(stat.key) for stat in store.list(KEYS_PREFIX)]
