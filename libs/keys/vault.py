"""Domain keys in the bucket: wrapped on the way in, unwrapped and remembered on the way out."""

import itertools
import threading
from uuid import UUID

from libs.errors import NotFoundError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, unwrap, wrap
from libs.store.layout import KEYS_PREFIX, DomainKeyName, domain_key_object
from libs.store.port import ObjectStore


class KeyVault:
    """Gives the keys of domains. Thread-safe.

    Args:
        store: where the wrapped keys lie.
        kek: the key-encryption key; without it nothing in the bucket can be read.
    """

    def __init__(self, store: ObjectStore, kek: KeyEncryptionKey) -> None:
        self._store = store
        self._kek = kek
        self._keys: dict[tuple[UUID, UUID], DomainKeys] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Find out at start-up, not at the first snapshot, whether this is the bucket's key.

        Raises:
            WrongKeyError: the first wrapped key of the bucket needs another key-encryption key.
        """
        for wrapped in itertools.islice(self._store.list(KEYS_PREFIX), 1):
            unwrap(self._store.get(wrapped.key), self._kek)

    def put(self, keys: DomainKeys) -> None:
        """Store keys, wrapped; they are durable before anybody uses them (scenario 14)."""
        self._store.put(
            domain_key_object(DomainKeyName(keys.domain, keys.key_id)), wrap(keys, self._kek)
        )

    def get(self, domain: UUID, key_id: UUID) -> DomainKeys:
        """The keys of a domain under one key id.

        Raises:
            WrongKeyError: wrapped by another key-encryption key, or the wrapped key is missing.
            DamagedDataError: the wrapped key was altered.
        """
        with self._lock:
            known = self._keys.get((domain, key_id))
        if known:
            return known
        key = domain_key_object(DomainKeyName(domain, key_id))
        try:
            wrapped = self._store.get(key)
        except NotFoundError as err:
            raise WrongKeyError(
                f"domain {domain}: its wrapped key {key_id} is not in the bucket; restore object "
                f"{key} from a copy of the bucket"
            ) from err
        keys = unwrap(wrapped, self._kek)
        with self._lock:
            return self._keys.setdefault((domain, key_id), keys)
