"""How copies end: with their pack, each at its own time; and copies that come too late."""

import pytest

from libs.catalogdb.deletion.condemning import condemn_unused
from libs.catalogdb.deletion.tombstones import bury
from libs.catalogdb.stores import (
    begin_repair,
    forget_copies,
    locate_lacking,
    lose_store,
    record_replicated,
    review_snapshots,
)
from libs.copies.stores import PRIMARY, SECOND
from libs.errors import UnavailableError
from libs.ids import uuid7
from libs.store.layout import PACKS_PREFIX
from services.catalog.copies.maker import CopyMaker
from tests.integration.catalog.copies.pair import Pair


def generations(pair: Pair, state: str) -> list[object]:
    rows = pair.site.sql("SELECT generation FROM pack WHERE state = %s ORDER BY pack_no", state)
    return [row[0] for row in rows]


@pytest.fixture
def pair(folders: Pair) -> Pair:
    """What is in question here is decided by the catalog."""
    return folders


def expire_first(pair: Pair, *, replicated: bool = True) -> None:
    """Two snapshots without anything in common; the first one expires."""
    pair.protect("disk")
    pair.take("disk", 1)
    pair.take("disk", 2)
    if replicated:
        pair.replicate()
    assert pair.expire("disk", 1)


def test_a_pack_is_dead_when_all_of_its_copies_are_buried(pair: Pair) -> None:
    expire_first(pair)
    pair.two.is_away = True
    pair.collect()
    assert len(pair.packs("c")) == 1
    assert len(pair.keys(PRIMARY, PACKS_PREFIX)) == 1
    assert pair.site.sql("SELECT store_no FROM tombstone") == [(SECOND,)]
    pair.two.is_away = False
    assert len(pair.keys(SECOND, PACKS_PREFIX)) == 2
    pair.expire_tombstones()
    pair.collect()
    assert (pair.packs("c"), len(pair.packs("d"))) == ([], 1)
    assert len(pair.keys(SECOND, PACKS_PREFIX)) == 1
    pair.check()


def test_two_collectors_that_bury_the_last_copies_at_once_leave_the_pack_dead(pair: Pair) -> None:
    expire_first(pair)
    condemn_unused(pair.site.catalog, 0, 100)
    (generation,) = generations(pair, "c")
    with pair.site.holding("SELECT FROM pack WHERE generation = %s FOR UPDATE", generation):
        buried = [
            pair.site.start(bury, pair.site.catalog, store_no, [generation])  # type: ignore[list-item] # of rows
            for store_no in (PRIMARY, SECOND)
        ]
        pair.site.wait_until_waiting(2)
    assert [one.result() for one in buried] == [1, 1]
    assert generations(pair, "d") == [generation]
    assert pair.site.sql("SELECT FROM tombstone") == []


def test_a_copy_that_is_being_made_while_its_pack_is_condemned_revives_nothing(pair: Pair) -> None:
    expire_first(pair, replicated=False)
    (first, _) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [first])  # type: ignore[list-item] # of rows
    CopyMaker(pair.site.catalog, pair.stores, pair.vault).write(pack, SECOND)
    condemn_unused(pair.site.catalog, 0, 100)
    assert record_replicated(pair.site.catalog, SECOND, [pack.pack_no], None) == set()
    pair.collect()
    assert generations(pair, "d") == [first]
    assert pair.keys(SECOND, PACKS_PREFIX) == []
    pair.check()


def test_a_copy_that_lands_after_its_pack_is_dead_is_swept(pair: Pair) -> None:
    expire_first(pair, replicated=False)
    (first, _) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [first])  # type: ignore[list-item] # of rows
    body = pair.stores.copy(pack.generation).get()
    pair.collect()
    pair.stores.copy(pack.generation, SECOND).put(body)  # it was under way all the time
    assert record_replicated(pair.site.catalog, SECOND, [pack.pack_no], None) == set()
    assert pair.sweep(PRIMARY) == 0
    assert pair.sweep(SECOND) == 1
    assert pair.keys(SECOND, PACKS_PREFIX) == []


def test_a_pack_that_is_collected_while_its_copy_is_made_is_gone_and_no_error(pair: Pair) -> None:
    """Whoever copies slept between the PUT and the look at what it wrote."""
    expire_first(pair, replicated=False)
    (first, _) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [first])  # type: ignore[list-item] # of rows
    maker = CopyMaker(pair.site.catalog, pair.stores, pair.vault)
    pair.two.after_pack = lambda _key: pair.collect()
    assert maker.write(pack, SECOND) is None
    assert generations(pair, "d") == [first]
    assert pair.keys(SECOND, PACKS_PREFIX) == []
    assert not maker.make(pack, SECOND), "there is nothing to copy from either"
    assert pair.states(SECOND) == ["m"]  # of the other pack


def test_a_round_goes_on_when_a_pack_is_collected_meanwhile(pair: Pair) -> None:
    expire_first(pair, replicated=False)
    pair.two.after_pack = lambda _key: pair.collect()
    done = pair.replicate()
    assert (done.packs, done.failures) == (1, 0)
    assert pair.copies("disk", 2) == 2
    pair.sweep(SECOND)  # what landed after the collector had been there
    assert len(pair.keys(SECOND, PACKS_PREFIX)) == 1
    pair.check()


def test_a_store_that_loses_the_copy_of_a_live_pack_is_told_of(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    (live,) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [live])  # type: ignore[list-item] # of rows
    pair.two.after_pack = pair.two.delete
    with pytest.raises(UnavailableError, match="gives other bytes"):
        CopyMaker(pair.site.catalog, pair.stores, pair.vault).make(pack, SECOND)
    assert pair.states(SECOND) == ["m"]


def test_a_lost_store_holds_no_dead_pack_back(pair: Pair) -> None:
    expire_first(pair)
    pair.two.is_away = True
    pair.collect()
    lose_store(pair.site.catalog, SECOND)
    while forget_copies(pair.site.catalog, SECOND, 100):
        pass
    assert (pair.packs("c"), len(pair.packs("d"))) == ([], 1)
    assert pair.states(SECOND) == []
    assert pair.copies("disk", 2) == 1
    pair.check()


def test_nothing_is_recorded_at_a_store_that_was_given_up(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    (live,) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [live])  # type: ignore[list-item] # of rows
    CopyMaker(pair.site.catalog, pair.stores, pair.vault).write(pack, SECOND)
    lose_store(pair.site.catalog, SECOND)
    assert record_replicated(pair.site.catalog, SECOND, [pack.pack_no], None) == set()
    pair.take("disk", 2)
    assert pair.states(SECOND) == ["m"]  # of the first pack, until it is forgotten
    begin_repair(pair.site.catalog, SECOND, uuid7())
    assert pair.replicate().failures == 0
    assert pair.copies("disk", 2) == 2


def test_a_snapshot_is_not_called_whole_while_a_copy_is_to_be_made(pair: Pair) -> None:
    pair.protect("disk")
    pair.take("disk", 1)
    pair.replicate()
    pair.take("disk", 2)
    pair.site.sql("UPDATE snapshot SET manifest_copied = true")
    assert review_snapshots(pair.site.catalog) == (0, 0)
    assert (pair.copies("disk", 1), pair.copies("disk", 2)) == (2, 1)


def test_only_copies_that_were_made_are_read(pair: Pair) -> None:
    """A pack is at no store that merely should have it, nor at one where it was buried."""
    pair.protect("disk")
    pair.take("disk", 1)
    (live,) = generations(pair, "l")
    (pack,) = locate_lacking(pair.site.catalog, SECOND, [live])  # type: ignore[list-item] # of rows
    assert pack.copies == [PRIMARY]
    pair.one.is_away = True
    with pytest.raises(UnavailableError):
        pair.check()
    assert pair.site.sql("SELECT FROM damage") == []


def test_a_rewrite_says_of_no_snapshot_that_it_is_whole_before_its_new_pack_is_copied(
    pair: Pair,
) -> None:
    pair.protect("disk")
    pair.take("disk", *range(1, 40))
    pair.take("disk", 1, *range(101, 139))
    pair.replicate()
    pair.expire("disk", 1)
    pair.collect()
    assert pair.copies("disk", 2) == 2
    assert pair.rewriter().run().rewritten == 1
    assert pair.copies("disk", 2) == 1
    pair.collect()
    assert pair.replicate().whole == 1
    assert pair.copies("disk", 2) == 2
    pair.check()
