"""A store that gives other bytes than those that were put under a key gives nobody wrong keys."""

import uuid

import pytest

from libs.errors import WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, wrap
from libs.keys.vault import KeyVault
from libs.store.layout import DomainKeyName, domain_key_object
from libs.store.memory import MemoryStore
from tests.support.exchanging import exchange, replace

KEK = KeyEncryptionKey(bytes(range(32)))
ACME = DomainKeys(uuid.UUID(int=1), uuid.UUID(int=2), b"i" * 32, b"d" * 32)
OTHER = DomainKeys(uuid.UUID(int=3), uuid.UUID(int=4), b"j" * 32, b"e" * 32)
#: A later data key of the first domain.
LATER = DomainKeys(ACME.domain, uuid.UUID(int=5), ACME.id_key, b"l" * 32)


def name_of(keys: DomainKeys) -> str:
    return domain_key_object(DomainKeyName(keys.domain, keys.key_id))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    vault = KeyVault(store, KEK)
    for keys in (ACME, OTHER, LATER):
        vault.put(keys)
    return store


def test_every_domain_gets_its_own_keys(store: MemoryStore) -> None:
    vault = KeyVault(store, KEK)
    vault.check()
    for keys in (ACME, OTHER, LATER):
        assert vault.get(keys.domain, keys.key_id) == keys


@pytest.mark.parametrize("exchanged", [OTHER, LATER], ids=["domains", "data keys"])
def test_exchanged_key_objects_give_nobody_keys(store: MemoryStore, exchanged: DomainKeys) -> None:
    exchange(store, name_of(ACME), name_of(exchanged))
    vault = KeyVault(store, KEK)
    for keys in (ACME, exchanged):
        with pytest.raises(WrongKeyError, match="exchanged") as refused:
            vault.get(keys.domain, keys.key_id)
        assert name_of(keys) in str(refused.value)
    (untouched,) = {OTHER.key_id, LATER.key_id} - {exchanged.key_id}
    assert vault.get(OTHER.domain if untouched == OTHER.key_id else ACME.domain, untouched)


def test_start_up_finds_that_the_first_key_object_is_another(store: MemoryStore) -> None:
    exchange(store, name_of(ACME), name_of(OTHER))
    with pytest.raises(WrongKeyError, match="exchanged"):
        KeyVault(store, KEK).check()


_WRAPPED = wrap(ACME, KEK)
ALTERED = _WRAPPED[:-1] + bytes([_WRAPPED[-1] ^ 1])


@pytest.mark.parametrize("body", [b"", ALTERED, b"x" * 148])
def test_an_altered_key_object_is_no_damage_of_what_it_opens(
    store: MemoryStore, body: bytes
) -> None:
    replace(store, name_of(ACME), body)
    with pytest.raises(WrongKeyError, match=str(ACME.domain)):
        KeyVault(store, KEK).get(ACME.domain, ACME.key_id)
