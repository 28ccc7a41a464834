"""Keys are changed under a living catalog, and the bucket alone still gives everything back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import PRIMARY, Stores
from libs.errors import ConflictError, NotFoundError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.manifest import parse_manifest_header
from libs.runtime.signals import Stop
from libs.store.folder import FolderStore
from libs.store.layout import KEYS_PREFIX, MANIFESTS_PREFIX
from services.catalog.keys.data_keys import DataKeys
from services.catalog.keys.rotation import KekRotation, RotationState, keys_to_wrap
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.integration.catalog.protected import TENANT
from tests.integration.catalog.recovery.timeline import Timeline, timeline


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    """Two tenants with a snapshot each, and checkpoints under the first key."""
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.checkpoints.compare()
        made.protected.protect("disk")
        made.protected.protect("theirs", tenant="other")
        made.protected.take("disk", 1, 2)
        made.checkpoints.write()
        made.protected.take("theirs", 3, 4)
        made.checkpoints.write()
        yield made


def data_keys(line: Timeline) -> DataKeys:
    return DataKeys(line.site.catalog, Stores(line.store), line.kek, line.checkpoints.write)


def restart_with(line: Timeline, kek: KeyEncryptionKey) -> None:
    """All processes are others, which were given this key."""
    line.kek, line.shelf = kek, CheckpointShelf(line.store, kek)
    line.go_back(line.dump())
    line.reconcile()


def rebuild_with(line: Timeline, kek: KeyEncryptionKey) -> None:
    """Only the bucket and this key are left."""
    line.kek, line.shelf = kek, CheckpointShelf(line.store, kek)
    live = set(line.protected.live)
    line.lose_everything()
    line.reconcile()
    assert line.live() == live
    line.protected.check()


def manifest_keys(line: Timeline) -> list[object]:
    listed = sorted(line.store.list(MANIFESTS_PREFIX), key=lambda stat: stat.modified_at)
    return [parse_manifest_header(line.store.get(stat.key)).key_id for stat in listed]


def used(line: Timeline) -> list[object]:
    """Data keys of live packs, in their order."""
    return [row[0] for row in line.site.sql("SELECT key_id FROM pack ORDER BY pack_no")]


def test_new_packs_and_manifests_are_sealed_under_the_new_data_key(line: Timeline) -> None:
    before = used(line)
    (done,) = data_keys(line).rotate(TENANT)
    assert (done.tenant, done.before) == (TENANT, before[0])
    line.protected.take("disk", 1, 2, 5)
    assert used(line) == [*before, done.key_id]
    assert manifest_keys(line)[-1] == done.key_id
    line.protected.check()
    # What is stored is found by its ids, and not stored again.
    line.protected.take("disk", 1, 2)
    assert len(used(line)) == len(before) + 1 or used(line)[-1] == done.key_id
    rebuild_with(line, line.kek)
    assert line.site.sql("SELECT key_id FROM domain WHERE domain = %s", done.domain) == [
        (done.key_id,)
    ]


def test_snapshots_from_before_a_new_data_key_stay_intact(line: Timeline) -> None:
    data_keys(line).rotate(None)
    line.protected.take("disk", 1, 6)
    protected = line.protected
    verifier = Verifier(line.site.catalog, protected.stores, protected.vault, 60, 0, Stop())
    for (volume, _), session in protected.sessions.items():
        tenant = protected.tenant_of(volume)
        verdict = verifier.verify(tenant, session, Thoroughness("full", sample=1.0))
        assert type(verdict).__name__ == "Intact"


def test_a_new_data_key_is_known_to_the_store_when_it_is_answered(line: Timeline) -> None:
    done = data_keys(line).rotate(None)
    assert [one.tenant for one in done] == [TENANT, "other"]
    rebuild_with(line, line.kek)
    keys = {row[0] for row in line.site.sql("SELECT key_id FROM domain")}
    assert keys == {one.key_id for one in done}


def test_a_crash_before_a_new_data_key_is_used_leaves_the_old_one(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr("services.catalog.keys.data_keys.use_data_key", _killed)
        with pytest.raises(KeyboardInterrupt):
            data_keys(line).rotate(TENANT)
    assert len(list(line.store.list(KEYS_PREFIX))) == 3
    line.protected.take("disk", 7)
    assert used(line)[-1] == used(line)[0]
    rebuild_with(line, line.kek)
    assert data_keys(line).rotate(TENANT)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_nobody_gets_a_new_data_key_while_the_kek_is_changed(line: Timeline) -> None:
    both = KeyEncryptionKey(b"n" * 32, line.kek)
    keys = DataKeys(line.site.catalog, Stores(line.store), both, line.checkpoints.write)
    with pytest.raises(ConflictError, match="rotate-kek"):
        keys.rotate(TENANT)
    with pytest.raises(NotFoundError):
        data_keys(line).rotate("nosuch")


def rotation(line: Timeline) -> KekRotation:
    stores = Stores(line.store)
    return KekRotation(
        stores,
        line.kek,
        lambda: keys_to_wrap(line.site.catalog, stores),
        line.checkpoints.write,
        lambda store_no: store_no == PRIMARY,
    )


def test_after_a_change_the_bucket_and_the_new_kek_give_everything_back(line: Timeline) -> None:
    old, new = line.kek, KeyEncryptionKey(b"n" * 32)
    restart_with(line, KeyEncryptionKey(new.secret, old))
    line.protected.take("disk", 8)
    state = RotationState()
    rotation(line).rotate(state)
    assert (state.keys, state.left) == (2, 0)
    with pytest.raises(WrongKeyError):
        CheckpointShelf(line.store, old).newest_state()
    line.protected.take("disk", 9)
    line.checkpoints.write()
    rebuild_with(line, new)
    line.protected.take("disk", 10)
    line.protected.check()


@pytest.mark.parametrize("step", ["put", "write", "delete"])
def test_a_change_that_was_killed_goes_on_and_a_rebuild_needs_no_old_kek(
    line: Timeline, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old, new = line.kek, KeyEncryptionKey(b"n" * 32)
    restart_with(line, KeyEncryptionKey(new.secret, old))
    with monkeypatch.context() as dying:
        where = line.checkpoints if step == "write" else line.store
        dying.setattr(where, step, _killed)
        with pytest.raises(KeyboardInterrupt):
            rotation(line).rotate(RotationState())
    rebuild_with(line, KeyEncryptionKey(new.secret, old))
    state = RotationState()
    rotation(line).rotate(state)
    assert state.left == 0
    rebuild_with(line, new)


def test_a_chain_of_the_old_kek_ends_with_a_base_of_the_new_one(line: Timeline) -> None:
    both = KeyEncryptionKey(b"n" * 32, line.kek)
    shelf = CheckpointShelf(line.store, both)
    line.protected.take("disk", 11)
    Checkpoints(line.site.catalog, line.store, shelf, keep_count=10).write()
    newest = CheckpointShelf(line.store, both.alone).newest_state()
    assert newest is not None
    assert newest.head.chain == ()


def test_a_store_that_is_not_configured_stops_a_change(line: Timeline) -> None:
    line.site.sql("INSERT INTO store (store_no, name) VALUES (2, 'second')")
    with pytest.raises(ConflictError, match="store second"):
        rotation(line).rotate(RotationState())
    assert len(list(line.store.list(KEYS_PREFIX))) == 2
    assert KeyVault(line.store, line.kek).check() is None  # type: ignore[func-returns-value] # opens
