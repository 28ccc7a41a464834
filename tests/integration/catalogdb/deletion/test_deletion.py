"""Pins and seals beside condemning and rewriting, in real transactions that wait for each other.

Condemning locks the pack in a statement of its own and checks then. `rewrite` is what the design
prescribes to a rewriter.
"""

from collections.abc import Callable
from concurrent.futures import Future

import psycopg
import pytest

from libs.catalogdb.sessions.attempts import PackUse, Stale
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.events.topics import PACKS, SNAPSHOTS
from tests.support.catalog import (
    CatalogSite,
    Worker,
    condemn,
    item,
    open_on,
    protect,
    rewrite,
    take_snapshot,
)


@pytest.fixture
def unused(site: CatalogSite) -> int:
    """A live pack with items 1 and 2 that nothing needs."""
    protect(site, "old")
    worker = Worker(site, open_on(site, "old"))
    pack_no = worker.store(item(1), item(2))
    Worker(site, worker.view)
    return pack_no


@pytest.fixture
def worker(site: CatalogSite, unused: int) -> Worker:
    protect(site, "vm")
    return Worker(site, open_on(site, "vm"))


def test_a_pin_that_comes_second_waits_and_finds_the_pack_condemned(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenario 6: the chunk is stored anew."""
    with site.holding_log(PACKS):
        condemning = site.start(condemn, site, unused)
        site.wait_until_waiting(1)
        looking = site.start(worker.look_up, item(1))
        site.wait_until_waiting(2)
    assert condemning.result() is True
    assert looking.result() == [0]
    assert worker.pinned == set()
    assert site.sql("SELECT FROM pin WHERE owner = %s", worker.attempt) == []


def test_condemning_leaves_a_pack_alone_that_is_being_pinned(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenario 6: the pin is not committed yet when the collector comes, so it cannot see it."""
    looking, condemned = _pinning_beside(site, worker, unused, lambda: condemn(site, unused))
    assert condemned is False
    assert looking.result() == [unused]
    assert condemn(site, unused) is False


def test_condemning_without_the_packs_lock_would_miss_the_pin(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenario 6, planted: the interleaving above does tell right from wrong."""

    def is_unused() -> bool:
        return site.sql("SELECT FROM pin WHERE pack_no = %s", unused) == []

    looking, condemned = _pinning_beside(site, worker, unused, is_unused)
    assert looking.result() == [unused]
    assert condemned is True


def _pinning_beside(
    site: CatalogSite, worker: Worker, pack_no: int, condemning: Callable[[], bool]
) -> tuple[Future[list[int] | Stale], bool]:
    # A rival insert of the same pin keeps the look-up between its lock and its commit.
    with site.holding("INSERT INTO pin VALUES (%s, %s)", worker.attempt, pack_no) as rival:
        looking = site.start(worker.look_up, item(1))
        site.wait_until_waiting(1)
        condemned = condemning()
        rival.rollback()
    return looking, condemned


def test_a_seal_and_condemning_at_once_keep_the_pack(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenario 26: the seal drops its pins, and the collector does not miss both."""
    worker.look_up(item(1))
    worker.finish({unused: PackUse(entered=1)})
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        assert condemn(site, unused) is False
    assert isinstance(sealing.result(), Sealed)
    assert site.sql("SELECT FROM pin") == []
    assert condemn(site, unused) is False


def test_a_seal_that_waits_for_condemning_refuses(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenario 26, the other order, with a collector that overlooked the pin."""
    worker.look_up(item(1))
    worker.finish({unused: PackUse(entered=1)})
    with site.holding("UPDATE pack SET state = 'c' WHERE pack_no = %s", unused):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
    assert isinstance(sealing.result(), Refused)


def test_a_registration_that_waits_for_condemning_becomes_the_winner(
    site: CatalogSite, worker: Worker, unused: int
) -> None:
    """Scenarios 5 and 6: the winner goes away between the look and the pin."""
    pack = worker.claim()
    with site.holding("UPDATE pack SET state = 'c' WHERE pack_no = %s", unused):
        registering = site.start(worker.register, pack, item(1), item(3))
        site.wait_until_waiting(1)
    assert registering.result() == {}
    assert worker.look_up(item(1), item(3)) == [pack.pack_no] * 2


class TestDeparturesFromARewrittenPack:
    """Scenario 24: what a session counted in P leaves R, where P's items have moved."""

    @pytest.fixture
    def pack_no(self, site: CatalogSite) -> int:
        """The pack of a group's only snapshot, with three items; nothing pins it."""
        protect(site, "vm")
        return take_snapshot(site, "vm", item(1), item(2), item(3))[1]

    @pytest.fixture
    def domain_no(self, site: CatalogSite) -> int:
        return protect(site, "vm").domain_no

    @pytest.fixture
    def leaving(self, site: CatalogSite, pack_no: int) -> Worker:
        """A finished session after which one address of the three is left."""
        worker = Worker(site, open_on(site, "vm"))
        worker.finish({pack_no: PackUse(departed=2)})
        return worker

    def open_rows(self, site: CatalogSite) -> list[tuple[object, ...]]:
        return site.sql("SELECT pack_no, addresses FROM pack_use WHERE last_sequence IS NULL")

    def test_it_was_rewritten_before_the_seal(
        self, site: CatalogSite, pack_no: int, domain_no: int, leaving: Worker
    ) -> None:
        with psycopg.connect(site.dsn) as db:
            moved = rewrite(db, domain_no, pack_no, [item(1), item(2), item(3)])
        assert isinstance(leaving.seal(), Sealed)
        assert self.open_rows(site) == [(moved, 1)]

    def test_it_was_rewritten_twice_before_the_seal(
        self, site: CatalogSite, pack_no: int, domain_no: int, leaving: Worker
    ) -> None:
        ids = [item(1), item(2), item(3)]
        with psycopg.connect(site.dsn) as db:
            moved = rewrite(db, domain_no, pack_no, ids)
            assert moved is not None
            moved = rewrite(db, domain_no, moved, ids)
        assert isinstance(leaving.seal(), Sealed)
        assert self.open_rows(site) == [(moved, 1)]

    @pytest.mark.parametrize("times", [1, 2])
    def test_it_is_being_rewritten_when_the_seal_comes(
        self, site: CatalogSite, pack_no: int, domain_no: int, leaving: Worker, times: int
    ) -> None:
        moved: int | None = pack_no
        with psycopg.connect(site.dsn) as db:
            for _ in range(times):
                assert moved is not None
                moved = rewrite(db, domain_no, moved, [item(1), item(2), item(3)])
            sealing = site.start(leaving.seal)
            site.wait_until_waiting(1)
        assert isinstance(sealing.result(), Sealed)
        assert self.open_rows(site) == [(moved, 1)]

    def test_it_is_rewritten_while_the_seal_commits(
        self, site: CatalogSite, pack_no: int, domain_no: int, leaving: Worker
    ) -> None:
        def rewrite_it() -> int | None:
            with psycopg.connect(site.dsn) as db:
                return rewrite(db, domain_no, pack_no, [item(1), item(2), item(3)])

        with site.holding_log(SNAPSHOTS):
            sealing = site.start(leaving.seal)
            site.wait_until_waiting(1)
            rewriting = site.start(rewrite_it)
            site.wait_until_waiting(2)
        assert isinstance(sealing.result(), Sealed)
        moved = rewriting.result()
        assert self.open_rows(site) == [(moved, 1)]

    def test_a_rewrite_gives_up_on_a_pinned_pack(
        self, site: CatalogSite, pack_no: int, domain_no: int, leaving: Worker
    ) -> None:
        """Scenarios 4 and 27."""
        leaving.look_up(item(2))
        with psycopg.connect(site.dsn) as db:
            assert rewrite(db, domain_no, pack_no, [item(1)]) is None
