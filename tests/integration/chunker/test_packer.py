"""The packer with the real catalog, few buffers, and several attempts that need them."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from libs.catalogdb.packs.index import find_item
from libs.catalogdb.sessions.session import reject_session
from libs.copies.stores import Stores
from libs.errors import UnavailableError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys
from libs.packs.frame import CompressedFrame, compress
from libs.packs.layout import CHUNK_SIZE_BYTES, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.packs.pack import FrameItem
from libs.packs.trailer import ItemKind
from libs.store.memory import MemoryStore
from libs.store.port import Body
from services.chunker.ledger import Ledger
from services.chunker.packer import AttemptPacks, Packer, SharedPack, StaleAttemptError
from tests.support.catalog import TENANT, CatalogSite, Worker, open_on, protect
from tests.support.running import eventually
from tests.support.snapshots import SnapshotTaker

#: Bytes that do not compress, so that 32 frames fill a pack.
FRAME = compress(memoryview(os.urandom(FRAME_PLAIN_SIZE_BYTES_MAX)))
SMALL = compress(memoryview(os.urandom(CHUNK_SIZE_BYTES)))


class FaultyStore(MemoryStore):
    """A store whose next PUTs do what ``before`` says: wait for a slow server, or find it down."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] = lambda: None

    def put(self, key: str, body: Body) -> None:
        self.before()
        super().put(key, body)


def new_attempt(site: CatalogSite, group: str) -> AttemptPacks:
    """An attempt at the only volume of a new group."""
    protect(site, group)
    view = open_on(site, group)
    keys = DomainKeys(view.domain, view.key_id, b"i" * 32, b"d" * 32)
    attempt = Worker(site, view).attempt
    return AttemptPacks(attempt, view.session, view.tenant, view.domain_no, keys, Ledger())


def sharers(site: CatalogSite) -> tuple[AttemptPacks, AttemptPacks]:
    """Attempts at the two volumes of a group, which share a pack."""
    SnapshotTaker(site, MemoryStore(), KeyEncryptionKey.generate()).protect(TENANT, "g", "u", "v")
    view, shared = open_on(site, "g"), SharedPack()
    keys = DomainKeys(view.domain, view.key_id, b"i" * 32, b"d" * 32)
    u, v = (
        AttemptPacks(
            Worker(site, view, number).attempt,
            view.session,
            view.tenant,
            view.domain_no,
            keys,
            Ledger(),
            shared=shared,
        )
        for number in range(2)
    )
    return u, v


def items(frame: CompressedFrame = SMALL) -> list[FrameItem]:
    count = FRAME_PLAIN_SIZE_BYTES_MAX // CHUNK_SIZE_BYTES if frame is FRAME else 1
    return [
        FrameItem(ItemKind.CHUNK, os.urandom(32), at * CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES)
        for at in range(count)
    ]


def assert_true(condition: bool) -> None:
    assert condition


def assert_found(site: CatalogSite, owner: AttemptPacks, ids: list[bytes]) -> None:
    for id_ in ids:
        pack, _ = find_item(site.chunker, owner.domain_no, id_)
        assert pack.pack_no in owner.pinned


def in_threads(count: int, call: Callable[[int], None]) -> None:
    """Run it in threads at once; a deadlock fails the test."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            call(number)
        except Exception as err:  # noqa: BLE001 -- raised in the test's own thread
            failures.append(err)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert not failures


def raises(error: type[BaseException], call: Callable[[AttemptPacks], None], of: Any) -> None:
    with pytest.raises(error):
        call(of)


def test_everything_that_was_stored_is_registered_and_pinned(site: CatalogSite) -> None:
    store = MemoryStore()
    packer, owner = Packer(site.chunker, Stores(store), 2), new_attempt(site, "one")
    stored = [items(FRAME) for _ in range(40)]  # more than a pack
    for one in stored:
        packer.store(owner, FRAME, one)
    packer.finish(owner)
    assert len(owner.pinned) == 2
    assert owner.stored_bytes == sum(stat.size_bytes for stat in store.list("packs/"))
    assert_found(site, owner, [one[0].id for one in stored])


def test_an_attempt_that_needs_a_buffer_closes_the_pack_of_another(site: CatalogSite) -> None:
    packer = Packer(site.chunker, Stores(MemoryStore()), 1)
    owners = [new_attempt(site, name) for name in ("first", "second")]
    ids: dict[int, list[bytes]] = {0: [], 1: []}
    for turn in range(10):
        one = items()
        packer.store(owners[turn % 2], SMALL, one)
        ids[turn % 2].append(one[0].id)
    for number, owner in enumerate(owners):
        packer.finish(owner)
        assert len(owner.pinned) == 5
        assert_found(site, owner, ids[number])


def test_buffers_that_were_made_beforehand_are_all_there_are(site: CatalogSite) -> None:
    packer = Packer(site.chunker, Stores(MemoryStore()), 1)
    packer.preallocate()
    owners = [new_attempt(site, name) for name in ("first", "second")]
    for owner in owners:
        packer.store(owner, SMALL, items())
    assert [owner.shared.open_pack is None for owner in owners] == [True, False]
    packer.finish(owners[1])


def test_an_attempt_whose_open_pack_was_thrown_away_is_never_finished(site: CatalogSite) -> None:
    packer, owner = Packer(site.chunker, Stores(MemoryStore()), 1), new_attempt(site, "owner")
    packer.store(owner, SMALL, items())
    packer.abandon(owner)
    with pytest.raises(StaleAttemptError):
        packer.finish(owner)


def test_more_lanes_than_buffers_never_wait_for_each_other(site: CatalogSite) -> None:
    packer = Packer(site.chunker, Stores(MemoryStore()), 1)
    owners = [new_attempt(site, name) for name in ("first", "second")]

    def store(lane: int) -> None:
        for _ in range(35):
            packer.store(owners[lane % 2], FRAME, items(FRAME))

    in_threads(5, store)
    in_threads(2, lambda lane: packer.finish(owners[lane]))
    assert all(owner.unregistered == 0 for owner in owners)


def test_finish_waits_for_a_pack_that_somebody_else_uploads(site: CatalogSite) -> None:
    store, reached, go_on = FaultyStore(), threading.Event(), threading.Event()
    packer = Packer(site.chunker, Stores(store), 1)
    owner, other = new_attempt(site, "owner"), new_attempt(site, "other")
    one = items()
    packer.store(owner, SMALL, one)

    def slow() -> None:
        reached.set()
        assert go_on.wait(30)

    store.before = slow
    helper = threading.Thread(target=packer.store, args=(other, SMALL, items()))
    helper.start()
    assert reached.wait(30)
    finisher = threading.Thread(target=packer.finish, args=(owner,))
    finisher.start()
    finisher.join(timeout=0.3)
    assert finisher.is_alive()
    go_on.set()
    for thread in (finisher, helper):
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert_found(site, owner, [one[0].id])


def test_a_stale_attempt_is_no_business_of_who_closes_its_pack(site: CatalogSite) -> None:
    packer = Packer(site.chunker, Stores(MemoryStore()), 1)
    stale, other = new_attempt(site, "stale"), new_attempt(site, "other")
    packer.store(stale, SMALL, items())
    reject_session(site.coordinator, "coordinator", stale.session, "cancelled", "by hand")
    one = items()
    packer.store(other, SMALL, one)
    packer.finish(other)
    assert_found(site, other, [one[0].id])
    with pytest.raises(StaleAttemptError):
        packer.store(stale, SMALL, items())
    with pytest.raises(StaleAttemptError):
        packer.finish(stale)


def test_a_pack_that_cannot_be_stored_fails_its_owner_only(site: CatalogSite) -> None:
    store = FaultyStore()
    packer = Packer(site.chunker, Stores(store), 1)
    owner, other = new_attempt(site, "owner"), new_attempt(site, "other")
    packer.store(owner, SMALL, items())

    def down() -> None:
        raise UnavailableError("object store: down")

    store.before = down
    packer.store(other, SMALL, items())
    store.before = lambda: None
    packer.finish(other)
    with pytest.raises(UnavailableError, match="down"):
        packer.finish(owner)


def test_who_stores_goes_on_while_a_full_pack_is_uploaded(site: CatalogSite) -> None:
    store, go_on = FaultyStore(), threading.Event()
    packer, owner = Packer(site.chunker, Stores(store), 2), new_attempt(site, "owner")
    store.before = lambda: assert_true(go_on.wait(30))
    stored = [items(FRAME) for _ in range(40)]  # more than a pack
    for one in stored:
        packer.store(owner, FRAME, one)
    assert owner.unregistered == 2
    assert not list(store.list("packs/"))
    go_on.set()
    packer.finish(owner)
    assert_found(site, owner, [one[0].id for one in stored])


def test_an_upload_that_dies_is_not_taken_for_a_stored_pack_and_ends_the_process(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda broken: told.append(broken.exc_type))
    store = FaultyStore()
    packer, owner = Packer(site.chunker, Stores(store), 1), new_attempt(site, "owner")
    packer.store(owner, SMALL, items())

    def die() -> None:
        raise SystemExit

    store.before = die
    with pytest.raises(SystemExit):
        packer.finish(owner)
    packer.close()
    assert told == [SystemExit]


def test_an_abandoned_attempt_returns_its_buffer_and_stores_nothing_more(
    site: CatalogSite,
) -> None:
    store = MemoryStore()
    packer, owner = Packer(site.chunker, Stores(store), 1), new_attempt(site, "owner")
    packer.store(owner, SMALL, items())
    packer.abandon(owner)
    assert packer.free_buffer_count == 1
    with pytest.raises(StaleAttemptError):
        packer.store(owner, SMALL, items())
    assert not list(store.list("packs/"))


def test_a_frame_that_is_stored_while_another_attempt_gives_their_pack_up_is_kept(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer, (u, v) = Packer(site.chunker, Stores(MemoryStore()), 1), sharers(site)
    packer.store(u, SMALL, items())
    pack, one = u.shared.open_pack, items()
    assert pack is not None
    at_hand, closing = threading.Event(), threading.Event()
    reserve, close = pack.builder.reserve, pack.builder.close

    def late_reserve(*arguments: Any) -> Any:
        at_hand.set()
        assert closing.wait(30)
        return reserve(*arguments)

    def close_then() -> bool:
        closing.set()
        storer.join(30)
        return close()

    monkeypatch.setattr(pack.builder, "reserve", late_reserve)
    monkeypatch.setattr(pack.builder, "close", close_then)
    storer = threading.Thread(target=packer.store, args=(v, SMALL, one))
    storer.start()
    assert at_hand.wait(30)
    packer.abandon(u)
    packer.finish(v)
    assert_found(site, v, [one[0].id])


def test_a_frame_that_cannot_be_encrypted_fails_all_whose_pack_it_is_in(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer, (u, v) = Packer(site.chunker, Stores(MemoryStore()), 1), sharers(site)
    packer.store(u, SMALL, items())
    pack = u.shared.open_pack
    assert pack is not None
    filling, go_on = threading.Event(), threading.Event()
    fill = pack.builder.fill

    def fill_slowly(*arguments: Any) -> bool:
        filling.set()
        assert go_on.wait(30)
        return fill(*arguments)

    monkeypatch.setattr(pack.builder, "fill", fill_slowly)
    slow = threading.Thread(target=packer.store, args=(u, SMALL, items()))
    slow.start()
    assert filling.wait(30)
    monkeypatch.undo()
    with pytest.raises(TypeError):
        packer.store(v, SMALL._replace(body=[0] * len(SMALL.body)), items())
    assert packer.free_buffer_count == 0  # somebody still writes into it
    go_on.set()
    slow.join(30)
    in_threads(2, lambda number: raises(TypeError, packer.finish, (u, v)[number]))
    eventually("the buffer is free", lambda: packer.free_buffer_count == 1)
    assert [u.unregistered, v.unregistered] == [0, 0]
    for owner in (u, v):
        packer.abandon(owner)
    packer.close()


def test_who_waits_for_packs_of_an_attempt_that_is_over_is_told(site: CatalogSite) -> None:
    store, go_on = FaultyStore(), threading.Event()
    packer, owner = Packer(site.chunker, Stores(store), 1), new_attempt(site, "owner")
    reached = threading.Event()

    def slow() -> None:
        reached.set()
        assert go_on.wait(60)

    store.before = slow
    packer.store(owner, SMALL, items())
    finisher = threading.Thread(target=raises, args=(StaleAttemptError, packer.finish, owner))
    finisher.start()
    assert reached.wait(30)
    packer.abandon(owner)
    finisher.join(10)
    told = not finisher.is_alive()
    go_on.set()
    finisher.join(30)
    packer.close()
    assert told
