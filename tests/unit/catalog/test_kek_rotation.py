"""A change of the key-encryption key is killed at every step, and goes on; nothing is ever shut.

Two stores in memory; a kill comes before or after the effect of any put or delete.
"""

import itertools
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from libs.catalogdb.pool import Catalog
from libs.checkpoints.checkpoint import Head, parts_of
from libs.checkpoints.rows import DomainRow, Row, TenantRow
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import SECOND, Stores
from libs.errors import DamagedDataError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, wrap
from libs.keys.sheet import RecoverySheet, export_sheet, read_sheet
from libs.keys.vault import KeyVault
from libs.store.layout import (
    CHECKPOINTS_PREFIX,
    KEYS_PREFIX,
    CheckpointName,
    DomainKeyName,
    checkpoint_object,
    domain_key_object,
)
from libs.store.memory import MemoryStore
from libs.store.port import Body, ObjectStat
from services.catalog.copies.mirror import Mirror
from services.catalog.keys.rotation import KekRotation, RotationState

OLD = KeyEncryptionKey(b"o" * 32)
NEW = KeyEncryptionKey(b"n" * 32)
BOTH = KeyEncryptionKey(NEW.secret, OLD)
AT = datetime(2026, 11, 30, tzinfo=UTC)
#: Two domains, of which one has had two data keys.
KEYS = (
    DomainKeys(uuid.UUID(int=1), uuid.UUID(int=11), b"i" * 32, b"d" * 32),
    DomainKeys(uuid.UUID(int=1), uuid.UUID(int=12), b"i" * 32, b"e" * 32),
    DomainKeys(uuid.UUID(int=2), uuid.UUID(int=21), b"j" * 32, b"f" * 32),
)
ROWS: tuple[Row, ...] = (
    DomainRow(domain=KEYS[0].domain, key_id=KEYS[1].key_id),
    DomainRow(domain=KEYS[2].domain, key_id=KEYS[2].key_id),
    TenantRow(name="acme", domain=KEYS[0].domain),
)


class KilledError(BaseException):
    """The process is killed: nothing catches it."""


class Fate:
    """Kills at one of the effects on all stores together."""

    def __init__(self, at: int | None = None, *, before: bool = False) -> None:
        self.effects = 0
        self.deletions = 0
        self._at, self._before = at, before

    def strike(self, *, before: bool) -> None:
        """Called on both sides of an effect."""
        if self._at == self.effects and self._before == before:
            raise KilledError
        self.effects += not before


class Mortal(MemoryStore):
    """A store whose writers are killed."""

    fate = Fate()

    def put(self, key: str, body: Body) -> None:
        self.fate.strike(before=True)
        known = self._objects.get(key)
        assert known is None or known[0] == bytes(body), f"{key}: written with two contents"
        super().put(key, body)
        self.fate.strike(before=False)

    def delete(self, key: str) -> None:
        self.fate.strike(before=True)
        super().delete(key)
        self.fate.deletions += 1
        self.fate.strike(before=False)


class World:
    """Two stores as a catalog service leaves them, and the means to change their key."""

    def __init__(self) -> None:
        self.stores = [Mortal(), Mortal()]
        for keys, store in itertools.product(KEYS, self.stores):
            store.put(domain_key_object(DomainKeyName(keys.domain, keys.key_id)), _wrapped(keys))
        self.number = 0
        for _ in range(2):
            self.checkpoint(OLD)
        self.mirror(OLD).copy_checkpoint(SECOND)

    def fated(self, fate: Fate) -> Fate:
        for store in self.stores:
            store.fate = fate
        return fate

    def mirror(self, kek: KeyEncryptionKey) -> Mirror:
        return Mirror(Catalog("dbname=unused"), Stores(*self.stores), kek, keep_count=10)

    def checkpoint(self, kek: KeyEncryptionKey) -> None:
        """A base, under a number that was never used, as the catalog takes them."""
        self.number += 1
        name, shelf = CheckpointName(0, self.number), CheckpointShelf(self.stores[0], kek)
        digests = [
            shelf.put_part(CheckpointName(0, self.number, part), plain)
            for part, plain in enumerate(parts_of(ROWS))
        ]
        shelf.put_head(
            name, Head(kind="state", made_at=AT, positions={}, parts=tuple(digests), chain=())
        )

    def rotate(self, kek: KeyEncryptionKey = BOTH) -> RotationState:
        """A new process does all that is still to be done."""
        mirror = self.mirror(kek)

        def copy(store_no: int) -> None:
            if store_no == SECOND:
                mirror.copy_checkpoint(SECOND)

        rotation = KekRotation(Stores(*self.stores), kek, set, lambda: self.checkpoint(kek), copy)
        state = RotationState()
        rotation.rotate(state)
        return state

    def opens(self, kek: KeyEncryptionKey) -> None:
        """From each store alone everything can be had, as a rebuild from it would."""
        for store in self.stores:
            vault = KeyVault(store, kek)
            vault.check()
            for keys in KEYS:
                assert vault.get(keys.domain, keys.key_id) == keys
            shelf = CheckpointShelf(store, kek)
            newest = shelf.newest_state()
            assert newest is not None
            assert tuple(shelf.rows(newest)) == ROWS

    def objects(self, prefix: str) -> list[list[str]]:
        return [[stat.key for stat in store.list(prefix)] for store in self.stores]


def _without(
    truth: Callable[[str, str], Iterator[ObjectStat]], hidden: str
) -> Callable[..., Iterator[ObjectStat]]:
    def listing(prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        return (one for one in truth(prefix, start_after) if one.key != hidden)

    return listing


def _wrapped(keys: DomainKeys) -> bytes:
    """Drawn once, because a key is written with one content."""
    return _WRAPPED.setdefault(keys.key_id, wrap(keys, OLD))


_WRAPPED: dict[uuid.UUID, bytes] = {}


@pytest.fixture
def world() -> World:
    return World()


def test_everything_opens_with_the_new_key_alone_and_nothing_with_the_old(world: World) -> None:
    state = world.rotate()
    assert (state.step, state.keys, state.left) == ("done", 3, 0)
    assert (state.wrapped, state.keys_deleted) == (6, 6)
    world.opens(NEW)
    for store in world.stores:
        with pytest.raises(WrongKeyError, match=NEW.fingerprint.hex()):
            KeyVault(store, OLD).check()
        with pytest.raises(WrongKeyError):
            CheckpointShelf(store, OLD).newest_state()
    assert world.objects(KEYS_PREFIX)[0] == world.objects(KEYS_PREFIX)[1]


def test_the_new_sheet_alone_recovers_from_either_store(world: World) -> None:
    old_sheet = export_sheet(RecoverySheet(OLD, "https://s3.example.org", "backups"))
    world.rotate()
    sheet = export_sheet(RecoverySheet(NEW, "https://s3.example.org", "backups"))
    world.opens(read_sheet(sheet).kek)
    with pytest.raises(WrongKeyError):
        world.opens(read_sheet(old_sheet).kek)
    assert "opens no checkpoint that is written from then on" in sheet


def kill_points() -> Iterator[tuple[int, bool]]:
    world = World()
    fate = world.fated(Fate())
    world.rotate()
    assert fate.effects > 20
    for at in range(fate.effects):
        yield at, True
        yield at + 1, False


def test_a_change_that_is_killed_at_any_step_goes_on_and_nothing_is_ever_shut() -> None:
    for at, before in kill_points():
        world = World()
        fate = world.fated(Fate(at, before=before))
        try:
            world.rotate()
            assert not before
        except KilledError:
            pass
        world.fated(Fate())
        world.opens(BOTH)
        if fate.deletions:
            world.opens(NEW)
        state = world.rotate()
        assert (state.left, state.step) == (0, "done"), f"killed at effect {at}"
        world.opens(NEW)
        assert all(len(keys) == len(KEYS) for keys in world.objects(KEYS_PREFIX))


def test_a_change_goes_on_after_the_previous_key_was_taken_away_too_early(world: World) -> None:
    """Every object has its successor, and some old ones are still there."""
    whole = World()
    fate = whole.fated(Fate())
    whole.rotate()
    world.fated(Fate(fate.effects - 3, before=True))
    with pytest.raises(KilledError):
        world.rotate()
    world.fated(Fate())
    world.opens(NEW)
    assert world.rotate(NEW).left == 0
    world.opens(NEW)


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_is_deleted_anywhere_while_one_successor_is_damaged(
    world: World, number: int
) -> None:
    name = domain_key_object(DomainKeyName(KEYS[1].domain, KEYS[1].key_id, NEW.fingerprint.hex()))
    MemoryStore.put(world.stores[number], name, b"x" * 148)
    fate = world.fated(Fate())
    with pytest.raises(DamagedDataError):
        world.rotate()
    assert fate.deletions == 0
    world.opens(OLD)


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_is_deleted_anywhere_while_the_new_checkpoint_is_damaged(
    world: World, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.stores[number]
    put = store.put

    def altered(content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1])

    def damage(key: str, body: Body) -> None:
        part = key.startswith(CHECKPOINTS_PREFIX) and "-" in key
        put(key, altered(bytes(body)) if part else body)

    monkeypatch.setattr(store, "put", damage)
    fate = world.fated(Fate())
    with pytest.raises(DamagedDataError):
        world.rotate()
    assert fate.deletions == 0
    for keys, one in itertools.product(KEYS, world.stores):
        assert KeyVault(one, OLD).get(keys.domain, keys.key_id) == keys


def test_what_a_service_without_the_new_key_adds_meanwhile_is_told_and_taken_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = DomainKeys(uuid.UUID(int=3), uuid.UUID(int=31), b"k" * 32, b"g" * 32)
    checkpoint = world.checkpoint

    def late_tenant(kek: KeyEncryptionKey) -> None:
        checkpoint(kek)
        KeyVault(world.stores[0], OLD).put(late)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(world, "checkpoint", late_tenant)
        assert world.rotate().left == 1
    assert KeyVault(world.stores[0], BOTH).get(late.domain, late.key_id) == late
    assert world.rotate().left == 0
    for store in world.stores:
        assert KeyVault(store, NEW).get(late.domain, late.key_id) == late


def test_a_tenant_that_is_new_under_the_new_key_keeps_its_object(world: World) -> None:
    fresh = DomainKeys(uuid.UUID(int=3), uuid.UUID(int=31), b"k" * 32, b"g" * 32)
    KeyVault(world.stores[0], BOTH).put(fresh)
    assert world.rotate().left == 0
    name = domain_key_object(DomainKeyName(fresh.domain, fresh.key_id))
    assert world.stores[0].get(name) == world.stores[1].get(name)
    assert KeyVault(world.stores[1], NEW).get(fresh.domain, fresh.key_id) == fresh


def test_a_listing_that_leaves_out_a_key_that_the_catalog_knows_overlooks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = domain_key_object(DomainKeyName(KEYS[2].domain, KEYS[2].key_id))
    with monkeypatch.context() as lying:
        for store in world.stores:
            lying.setattr(store, "list", _without(store.list, hidden))
        rotation = KekRotation(
            Stores(*world.stores),
            BOTH,
            lambda: {(keys.domain, keys.key_id) for keys in KEYS},
            lambda: world.checkpoint(BOTH),
            world.mirror(BOTH).copy_checkpoint,
        )
        rotation.rotate(RotationState())
    for store in world.stores:
        assert KeyVault(store, NEW).get(KEYS[2].domain, KEYS[2].key_id) == KEYS[2]


def test_the_replicator_does_not_bring_old_objects_back(world: World) -> None:
    old = domain_key_object(DomainKeyName(KEYS[0].domain, KEYS[0].key_id))
    world.rotate()
    MemoryStore.put(world.stores[0], old, _wrapped(KEYS[0]))  # not yet deleted there
    assert world.mirror(BOTH).copy_keys(SECOND) == 0
    assert world.stores[1].stat(old) is None


def test_changing_the_key_twice_leaves_one_object_for_each(world: World) -> None:
    world.rotate()
    third = KeyEncryptionKey(b"t" * 32)
    assert world.rotate(KeyEncryptionKey(third.secret, NEW)).left == 0
    world.opens(third)
    assert all(len(keys) == len(KEYS) for keys in world.objects(KEYS_PREFIX))


def test_a_key_that_nobody_here_can_open_stops_the_change(world: World) -> None:
    stranger = KeyEncryptionKey(b"s" * 32)
    keys = DomainKeys(uuid.UUID(int=4), uuid.UUID(int=41), b"l" * 32, b"h" * 32)
    KeyVault(world.stores[1], stranger).put(keys)
    fate = world.fated(Fate())
    with pytest.raises(WrongKeyError, match=stranger.fingerprint.hex()):
        world.rotate()
    assert fate.deletions == 0


def test_no_delta_is_built_on_a_checkpoint_of_the_previous_key(world: World) -> None:
    shelf = CheckpointShelf(world.stores[0], OLD)
    newest = CheckpointName(0, world.number)
    link = shelf.put_head(
        CheckpointName(0, world.number + 1),
        Head(kind="state", made_at=AT, positions={}, parts=(), chain=()),
    )
    assert shelf.continues(newest, link)
    assert not CheckpointShelf(world.stores[0], BOTH).continues(newest, link)
    assert world.stores[0].stat(checkpoint_object(newest))
