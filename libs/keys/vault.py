"""Domain keys in the bucket: wrapped on the way in, unwrapped and remembered on the way out."""

import itertools
import threading
from collections.abc import Iterator
from uuid import UUID

from libs.errors import DamagedDataError, NotFoundError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, unwrap, wrap
from libs.store.layout import (
    KEYS_PREFIX,
    DomainKeyName,
    domain_key_object,
    parse_domain_key_object,
)
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
            WrongKeyError: the first wrapped key of the bucket needs another key-encryption key, or
                was altered or exchanged.
        """
        for wrapped in itertools.islice(self._store.list(KEYS_PREFIX), 1):
            name = parse_domain_key_object(wrapped.key)
            self._read(name.domain, name.key_id)

    def put(self, keys: DomainKeys) -> None:
        """Store keys, wrapped; they are durable before anybody uses them (scenario 14)."""
        self._store.put(
            domain_key_object(DomainKeyName(keys.domain, keys.key_id)), wrap(keys, self._kek)
        )

    def get(self, domain: UUID, key_id: UUID) -> DomainKeys:
        """The keys of a domain under one key id.

        Raises:
            WrongKeyError: wrapped by another key-encryption key, or the wrapped key is missing, was
                altered, or is that of another domain. It is one error, because what cannot be
                opened for want of its key is not damaged.
        """
        with self._lock:
            known = self._keys.get((domain, key_id))
        if known:
            return known
        keys = self._read(domain, key_id)
        with self._lock:
            return self._keys.setdefault((domain, key_id), keys)

    def _read(self, domain: UUID, key_id: UUID) -> DomainKeys:
        """From the first of its objects that a key-encryption key at hand opens."""
        refused: WrongKeyError | None = None
        for name in self._names(domain, key_id):
            try:
                return unwrap(self._store.get(domain_key_object(name)), name, self._kek)
            except NotFoundError:
                continue
            except WrongKeyError as err:  # another object may be wrapped by the key at hand
                refused = refused or err
            except DamagedDataError as err:
                raise WrongKeyError(f"domain {domain}: {err}") from err
        raise refused or self._missing(domain, key_id)

    def _names(self, domain: UUID, key_id: UUID) -> Iterator[DomainKeyName]:
        """Where it may be: as first stored, or wrapped anew."""
        yield DomainKeyName(domain, key_id)
        kek: KeyEncryptionKey | None = self._kek
        while kek is not None:
            yield DomainKeyName(domain, key_id, kek.fingerprint.hex())
            kek = kek.previous

    def _missing(self, domain: UUID, key_id: UUID) -> WrongKeyError:
        key = domain_key_object(DomainKeyName(domain, key_id))
        others = [parse_domain_key_object(stat.key).wrapped_by for stat in self._store.list(key)]
        if others:
            return WrongKeyError(
                f"domain {domain}: its key {key_id} is wrapped by the key-encryption key "
                f"{' and '.join(filter(None, others))}, got {self._kek.fingerprint.hex()}; give "
                f"the right key file"
            )
        return WrongKeyError(
            f"domain {domain}: its wrapped key {key_id} is not in the bucket; "
            f"restore object {key} from a copy of the bucket"
        )
