"""Snapshots that expire: what refuses to, what goes with them, and how much work it is."""

import contextlib
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.log.log import read_log
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.protected import create_tenant
from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.catalogdb.snapshots.expiry import Expired, Refused, expire
from libs.catalogdb.snapshots.holds import list_holds, place_hold, release_hold
from libs.catalogdb.snapshots.leases import close_lease, open_lease
from libs.catalogdb.snapshots.points import read_snapshot
from libs.errors import NotFoundError
from libs.events.topics import SNAPSHOTS
from tests.support.catalog import TENANT, CatalogSite, Worker, item, open_on, protect, take_snapshot


@pytest.fixture
def points(site: CatalogSite) -> list[UUID]:
    """Three snapshots of a group, each with a pack of its own beside those before."""
    protect(site, "vm")
    return [take_snapshot(site, "vm", item(n))[0].view.session for n in range(3)]


def give_up(site: CatalogSite, session: UUID) -> Expired | Refused:
    return expire(site.catalog, TENANT, session, "ops")


def rows(site: CatalogSite) -> list[tuple[object, ...]]:
    return site.sql(
        """SELECT pack_no - (SELECT min(pack_no) FROM pack), first_sequence, last_sequence
           FROM pack_use ORDER BY 1, 2"""
    )


def candidates(site: CatalogSite) -> list[int]:
    return [pack_no for (pack_no,) in site.sql("SELECT pack_no FROM candidate ORDER BY 1")]


def mark_damaged(site: CatalogSite, session: UUID) -> None:
    site.sql(
        """INSERT INTO verification (session, level, damaged, damaged_bytes)
           VALUES (%s, 'full', true, 1)""",
        session,
    )


class TestWhatIsNeverRemoved:
    def test_the_last_good_point(self, site: CatalogSite, points: list[UUID]) -> None:
        refused = give_up(site, points[2])
        assert isinstance(refused, Refused)
        assert refused.reason == "last-good-point"

    def test_the_newest_that_is_not_damaged(self, site: CatalogSite, points: list[UUID]) -> None:
        mark_damaged(site, points[2])
        refused = give_up(site, points[1])
        assert isinstance(refused, Refused)
        assert refused.reason == "last-good-point"
        assert isinstance(give_up(site, points[2]), Expired)

    def test_the_newest_if_all_are_damaged(self, site: CatalogSite, points: list[UUID]) -> None:
        for session in points:
            mark_damaged(site, session)
        assert isinstance(give_up(site, points[2]), Refused)
        assert isinstance(give_up(site, points[1]), Expired)

    def test_what_somebody_holds(self, site: CatalogSite, points: list[UUID]) -> None:
        place_hold(site.catalog, TENANT, points[0], "legal", "case 17")
        place_hold(site.catalog, TENANT, points[0], "audit", "yearly")
        assert release_hold(site.catalog, TENANT, points[0], "audit")
        refused = give_up(site, points[0])
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.message) == ("held", "legal holds it: case 17")
        assert release_hold(site.catalog, TENANT, points[0], "legal")
        assert isinstance(give_up(site, points[0]), Expired)

    def test_the_base_of_an_open_session(self, site: CatalogSite, points: list[UUID]) -> None:
        """Scenario 2."""
        view = open_on(site, "vm")
        mark_damaged(site, points[2])
        refused = give_up(site, points[2])
        assert isinstance(refused, Refused)
        assert refused.reason == "base-of-session"
        reject_session(site.coordinator, "coordinator", view.session, "cancelled", "by hand")
        assert isinstance(give_up(site, points[2]), Expired)

    def test_what_an_open_reader_reads(self, site: CatalogSite, points: list[UUID]) -> None:
        """Scenario 29."""
        (point,) = read_snapshot(site.restore, TENANT, points[0])
        lease = uuid4()
        open_lease(site.restore, lease, point, 60, announce=False)
        refused = give_up(site, points[0])
        assert isinstance(refused, Refused)
        assert refused.reason == "being-read"
        close_lease(site.restore, lease)
        assert isinstance(give_up(site, points[0]), Expired)

    def test_another_tenants(self, site: CatalogSite, points: list[UUID]) -> None:
        create_tenant(site.coordinator, "other", uuid4(), uuid4())
        with pytest.raises(NotFoundError):
            expire(site.catalog, "other", points[0], "ops")
        with pytest.raises(NotFoundError):
            place_hold(site.catalog, "other", points[0], "ops", "mine")
        assert not release_hold(site.catalog, "other", points[0], "ops")


class TestRaces:
    """Each waits for the other, and finds what the other did."""

    def test_a_session_that_opens_meanwhile_keeps_its_base(
        self, site: CatalogSite, points: list[UUID]
    ) -> None:
        """Scenario 2."""
        mark_damaged(site, points[2])
        with site.holding_log(SNAPSHOTS):
            opening = site.start(open_on, site, "vm")
            site.wait_until_waiting(1)
            expiring = site.start(give_up, site, points[2])
            site.wait_until_waiting(2)
        assert opening.result().base == points[2]
        assert isinstance(expiring.result(), Refused)

    def test_a_session_that_opens_after_an_expiry_has_no_base(
        self, site: CatalogSite, points: list[UUID]
    ) -> None:
        """Scenario 23: nor does it take an older one."""
        mark_damaged(site, points[2])
        with site.holding_log(SNAPSHOTS):
            expiring = site.start(give_up, site, points[2])
            site.wait_until_waiting(1)
            opening = site.start(open_on, site, "vm")
            site.wait_until_waiting(2)
        assert isinstance(expiring.result(), Expired)
        assert opening.result().base is None

    def test_a_reader_that_opens_meanwhile_keeps_its_snapshot(
        self, site: CatalogSite, points: list[UUID]
    ) -> None:
        (point,) = read_snapshot(site.restore, TENANT, points[0])
        with site.holding_log("backcast.restores"):
            opening = site.start(open_lease, site.restore, uuid4(), point, 60, announce=True)
            site.wait_until_waiting(1)
            expiring = site.start(give_up, site, points[0])
            site.wait_until_waiting(2)
        opening.result()
        assert isinstance(expiring.result(), Refused)

    def test_a_reader_that_comes_second_finds_nothing(
        self, site: CatalogSite, points: list[UUID]
    ) -> None:
        (point,) = read_snapshot(site.restore, TENANT, points[0])
        with site.holding_log(SNAPSHOTS):
            expiring = site.start(give_up, site, points[0])
            site.wait_until_waiting(1)
            opening = site.start(open_lease, site.restore, uuid4(), point, 60, announce=True)
            site.wait_until_waiting(2)
        assert isinstance(expiring.result(), Expired)
        with pytest.raises(NotFoundError):
            opening.result()

    def test_a_hold_that_is_placed_meanwhile_holds(
        self, site: CatalogSite, points: list[UUID]
    ) -> None:
        with site.holding_log(SNAPSHOTS):
            holding = site.start(place_hold, site.catalog, TENANT, points[0], "legal", "case 17")
            site.wait_until_waiting(1)
            expiring = site.start(give_up, site, points[0])
            site.wait_until_waiting(2)
        holding.result()
        assert isinstance(expiring.result(), Refused)


class TestReferences:
    @pytest.fixture
    def shared(self, site: CatalogSite) -> list[UUID]:
        """Pack 0 serves snapshots 1 and 2, pack 1 all from 2, pack 2 all from 3."""
        protect(site, "vm")
        worker, first = take_snapshot(site, "vm", item(1))
        sessions = [worker.view.session, take_snapshot(site, "vm", item(2))[0].view.session]
        leaving = Worker(site, open_on(site, "vm"))
        pack_no = leaving.store(item(3))
        leaving.finish({pack_no: PackUse(entered=1), first: PackUse(departed=1)})
        assert isinstance(leaving.seal(), Sealed)
        assert rows(site) == [(0, 1, 2), (1, 2, None), (2, 3, None)]
        return [*sessions, leaving.view.session]

    def test_oldest_first(self, site: CatalogSite, shared: list[UUID]) -> None:
        assert give_up(site, shared[0]) == Expired(shared[0], 1, rows=0, packs=0)
        assert rows(site) == [(0, 1, 2), (1, 2, None), (2, 3, None)]
        assert give_up(site, shared[1]) == Expired(shared[1], 2, rows=1, packs=1)
        assert rows(site) == [(1, 2, None), (2, 3, None)]

    def test_newest_first(self, site: CatalogSite, shared: list[UUID]) -> None:
        """Scenario 25: the row that covered 1 and 2 ends at 1 then, and goes with it."""
        assert give_up(site, shared[1]) == Expired(shared[1], 2, rows=1, packs=0)
        assert rows(site) == [(0, 1, 1), (1, 2, None), (2, 3, None)]
        assert give_up(site, shared[0]) == Expired(shared[0], 1, rows=1, packs=1)
        assert rows(site) == [(1, 2, None), (2, 3, None)]

    def test_a_head_that_expires_closes_its_rows(
        self, site: CatalogSite, shared: list[UUID]
    ) -> None:
        """Scenario 23: the next session counts anew, and its seal would close them too late."""
        mark_damaged(site, shared[2])
        assert give_up(site, shared[2]) == Expired(shared[2], 3, rows=2, packs=1)
        assert rows(site) == [(0, 1, 2), (1, 2, 2)]
        worker, _ = take_snapshot(site, "vm", item(4))
        assert worker.view.base is None
        assert rows(site) == [(0, 1, 2), (1, 2, 2), (3, 4, None)]
        give_up(site, shared[1])
        give_up(site, shared[0])
        assert rows(site) == [(3, 4, None)]

    def test_packs_that_lost_a_row_become_candidates(
        self, site: CatalogSite, shared: list[UUID]
    ) -> None:
        first = candidates(site)[0]
        site.sql("DELETE FROM candidate")
        give_up(site, shared[0])
        assert candidates(site) == []
        give_up(site, shared[1])
        assert candidates(site) == [first]

    def test_to_expire_twice_changes_nothing_more(
        self, site: CatalogSite, shared: list[UUID]
    ) -> None:
        give_up(site, shared[1])
        assert give_up(site, shared[1]) == Expired(shared[1], 2, rows=0, packs=0)
        events = read_log(site.catalog, SNAPSHOTS, first_position(site) - 1, 1000)
        expired = [event for event in events if event.envelope.type.endswith("snapshot_expired")]
        assert len(expired) == 1


@pytest.mark.parametrize("others", [500, 10_000])
def test_the_work_is_that_of_the_rows_that_end_there(
    site: CatalogSite, points: list[UUID], others: int
) -> None:
    """However many packs the group's other snapshots use: what Postgres reads, at two sizes."""
    site.sql(
        """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
           SELECT gen_random_uuid(), domain_no, key_id, attempt, 'l'
           FROM pack, generate_series(1, %s) WHERE pack_no = (SELECT min(pack_no) FROM pack)""",
        others,
    )
    site.sql(
        """INSERT INTO pack_use (volume_no, pack_no, addresses, first_sequence, last_sequence)
           SELECT volume_no, pack_no, 1, 1, CASE WHEN pack_no % 2 = 0 THEN 2 END
           FROM volume, pack WHERE pack_no > (SELECT min(pack_no) + 2 FROM pack)"""
    )
    site.sql(
        "UPDATE pack_use SET last_sequence = 1 WHERE pack_no IN (SELECT min(pack_no) FROM pack)"
    )
    site.sql("ANALYZE pack_use")
    counting = CountingCatalog(site.dsn_of("catalog"))
    with contextlib.closing(counting):
        counting.open()
        assert expire(counting, TENANT, points[0], "ops") == Expired(points[0], 1, rows=1, packs=1)
    assert 1 <= counting.rows_read <= 5


class CountingCatalog(Catalog):
    """Counts the rows of pack_use that its transactions read."""

    rows_read = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tx]:
        with super().transaction() as tx:
            before = self._count(tx)
            yield tx
            self.rows_read += self._count(tx) - before

    def _count(self, tx: Tx) -> int:
        row = tx.execute(
            """SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
               FROM pg_stat_xact_user_tables WHERE relname = 'pack_use'"""
        ).fetchone()
        assert row is not None
        return int(row[0])


def test_holds_are_listed(site: CatalogSite, points: list[UUID]) -> None:
    place_hold(site.catalog, TENANT, points[0], "legal", "case 17")
    place_hold(site.catalog, TENANT, points[0], "legal", "case 18")
    (hold,) = list_holds(site.catalog, TENANT)
    assert (hold.session, hold.owner, hold.reason) == (points[0], "legal", "case 18")


def first_position(site: CatalogSite) -> int:
    ((position,),) = site.sql("SELECT min(position) FROM event_log WHERE topic = %s", SNAPSHOTS)
    return int(position)
