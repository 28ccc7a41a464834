"""Look-up, pins and registration: an item has one place, and everyone who counts it holds that."""

import pytest

from libs.catalogdb.packs.index import count_by_pack, find_item
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.sessions.attempts import PackUse, Stale
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.errors import DamagedDataError, InvariantViolation
from libs.events.topics import PACKS
from libs.ids import new_generation
from tests.support.catalog import (
    CatalogSite,
    Worker,
    condemn,
    item,
    open_on,
    protect,
    take_snapshot,
)


@pytest.fixture
def pair(site: CatalogSite) -> tuple[Worker, Worker]:
    """Two sessions of one domain."""
    protect(site, "a")
    protect(site, "b")
    return Worker(site, open_on(site, "a")), Worker(site, open_on(site, "b"))


def indexed(worker: Worker, *ids: bytes) -> list[int]:
    """Packs of items, as whoever reads them resolves them."""
    domain_no = worker.view.domain_no
    return [find_item(worker.site.chunker, domain_no, id_)[0].pack_no for id_ in ids]


def test_the_second_to_register_an_item_gets_and_pins_the_winner(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    """Scenarios 5 and 22: chunks and map nodes alike, as the index does not tell them apart."""
    a, b = pair
    chunk, node, own = item(1), item(2), item(3)
    first, second = a.store(chunk, node), b.claim()
    assert b.register(second, chunk, own, node) == {0: first, 2: first}
    assert site.sql("SELECT pack_no FROM pin WHERE owner = %s ORDER BY 1", b.attempt) == [
        (first,),
        (second.pack_no,),
    ]
    reject_session(site.chunker, "chunker", a.view.session, "cancelled", "by hand")
    assert condemn(site, first) is False
    assert b.finish({first: PackUse(entered=2), second.pack_no: PackUse(entered=1)}) is True
    assert isinstance(b.seal(), Sealed)
    assert condemn(site, first) is False
    assert indexed(b, chunk, own, node) == [first, second.pack_no, first]


def test_of_two_that_register_an_item_at_once_one_is_the_winner_for_both(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    """Scenario 5: B's statement began before A's pack was live, and must not take A's place."""
    a, b = pair
    first, second = a.claim(), b.claim()
    with site.holding_log(PACKS):
        of_a = site.start(a.register, first, item(1))
        site.wait_until_waiting(1)
        of_b = site.start(b.register, second, item(1))
        site.wait_until_waiting(2)
    assert of_a.result() == {}
    assert of_b.result() == {0: first.pack_no}
    assert indexed(a, item(1)) == [first.pack_no]


def test_of_two_that_take_a_condemned_packs_item_at_once_one_is_the_winner_for_both(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    """Scenario 5, where the row is there already and changes hands."""
    a, b = pair
    _, gone = take_snapshot_of_garbage(site, item(1))
    first, second = a.claim(), b.claim()
    with site.holding_log(PACKS):
        of_a = site.start(a.register, first, item(1))
        site.wait_until_waiting(1)
        of_b = site.start(b.register, second, item(1))
        site.wait_until_waiting(2)
    assert of_a.result() == {}
    assert of_b.result() == {0: first.pack_no}
    assert indexed(a, item(1)) == [first.pack_no] != [gone]


def take_snapshot_of_garbage(site: CatalogSite, *ids: bytes) -> tuple[Worker, int]:
    """A condemned pack whose items are still in the index."""
    protect(site, "garbage")
    worker = Worker(site, open_on(site, "garbage"))
    pack_no = worker.store(*ids)
    reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")
    assert condemn(site, pack_no) is True
    return worker, pack_no


def test_a_registration_that_fails_leaves_the_item_to_the_one_that_waited(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    """Scenario 5: A's connection dies at the end of its registration, and A does not come back."""
    a, b = pair
    first, second = a.claim(), b.claim()
    with site.impatient(), site.holding_log(PACKS):
        of_a = site.start(a.register, first, item(1))
        site.wait_until_waiting(1)
        of_b = site.start(b.register, second, item(1))
        site.wait_until_waiting(2)
        site.sql(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE query LIKE 'UPDATE log_position%%' AND datname = current_database()
                 AND state = 'active' ORDER BY xact_start LIMIT 1"""
        )
        assert of_a.exception() is not None
    assert of_b.result() == {}
    assert indexed(b, item(1)) == [second.pack_no]


def test_a_pack_marked_dead_before_its_registration_stays_dead(site: CatalogSite) -> None:
    """Scenario 7: the sweep was first; the object is gone."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    site.sql("UPDATE pack SET state = 'd' WHERE pack_no = %s", pack.pack_no)
    assert worker.register(pack, item(1)) == Stale(worker.attempt)
    assert site.sql("SELECT state::text FROM pack") == [("d",)]
    assert worker.look_up(item(1)) == [0]


def test_a_registration_waits_for_the_sweep_and_then_sees_the_pack_dead(site: CatalogSite) -> None:
    """Scenario 7, at once."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    with site.holding("UPDATE pack SET state = 'd' WHERE pack_no = %s", pack.pack_no):
        registering = site.start(worker.register, pack, item(1))
        site.wait_until_waiting(1)
    assert registering.result() == Stale(worker.attempt)


def test_only_the_attempt_that_claimed_a_generation_registers_it(
    pair: tuple[Worker, Worker],
) -> None:
    """Scenario 7."""
    a, b = pair
    assert b.register(a.claim(), item(1)) == Stale(b.attempt)


def test_claiming_and_registering_twice_is_claiming_and_registering_once(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    a, b = pair
    generation = new_generation()
    pack = a.begin(generation)
    assert isinstance(pack, PackRecord)
    assert a.begin(generation) == pack
    winner = b.store(item(2))
    assert a.register(pack, item(1), item(2)) == {1: winner}
    assert a.register(pack, item(1), item(2)) == {1: winner}
    subjects = site.sql("SELECT subject FROM event_log WHERE topic = %s ORDER BY position", PACKS)
    assert subjects.count((generation.hex,)) == 1


def test_a_generation_is_never_given_twice(pair: tuple[Worker, Worker]) -> None:
    """Scenario 13."""
    a, b = pair
    generation = new_generation()
    a.begin(generation)
    with pytest.raises(InvariantViolation, match=generation.hex):
        b.begin(generation)


def test_ids_that_share_their_first_half_are_refused(pair: tuple[Worker, Worker]) -> None:
    a, _ = pair
    a.store(item(1))
    twin = item(1)[:16] + item(2)[16:]
    assert a.look_up(twin) == [0]
    with pytest.raises(InvariantViolation, match="same first half"):
        a.register(a.claim(), twin)
    assert indexed(a, item(1)) != []


def test_an_item_of_another_domain_is_never_found(site: CatalogSite) -> None:
    """Scenario 21."""
    protect(site, "vm")
    Worker(site, open_on(site, "vm")).store(item(1))
    other = protect(site, "vm", tenant="other")
    with pytest.raises(DamagedDataError, match=item(1).hex()):
        find_item(site.chunker, other.domain_no, item(1))


def test_a_look_up_pins_what_it_finds_once_and_says_what_is_unknown(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    a, b = pair
    pack_no = a.store(item(1), item(2))
    assert b.look_up(item(2), item(9), item(1), item(2)) == [pack_no, 0, pack_no, pack_no]
    assert b.look_up(item(1)) == [pack_no]
    assert b.pinned == {pack_no}
    assert site.sql("SELECT pack_no FROM pin WHERE owner = %s", b.attempt) == [(pack_no,)]
    assert b.look_up() == []


def test_items_of_a_condemned_pack_are_stored_anew(
    site: CatalogSite, pair: tuple[Worker, Worker]
) -> None:
    a, _ = pair
    take_snapshot_of_garbage(site, item(1))
    assert a.look_up(item(1)) == [0]
    fresh = a.store(item(1), item(2))
    assert indexed(a, item(1)) == [fresh]


def test_counting_knows_repetitions_and_refuses_unknown_items(site: CatalogSite) -> None:
    protect(site, "vm")
    worker, pack_no = take_snapshot(site, "vm", item(1), item(2))
    domain_no = worker.view.domain_no
    assert count_by_pack(site.chunker, [domain_no], [item(1), item(2), item(1)]) == {pack_no: 3}
    with pytest.raises(InvariantViolation, match=item(3).hex()):
        count_by_pack(site.chunker, [domain_no], [item(1), item(3)])
