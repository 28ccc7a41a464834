"""The seal acknowledges a snapshot only while everything that it relies on stands."""

import pytest

from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import read_session, reject_session
from libs.errors import InvariantViolation
from libs.events.topics import SNAPSHOTS
from tests.support.catalog import CatalogSite, Worker, item, open_on, protect, take_snapshot


def rows_of(site: CatalogSite, worker: Worker) -> list[tuple[object, ...]]:
    """(pack, addresses, first, last) of a volume, oldest first."""
    return site.sql(
        """SELECT pack_no, addresses, first_sequence, last_sequence FROM pack_use
           WHERE volume_no = %s ORDER BY first_sequence, pack_no""",
        worker.volume_no,
    )


def expire(site: CatalogSite, worker: Worker) -> None:
    """Let a snapshot expire, without the care for sessions that retention takes."""
    site.sql("UPDATE snapshot SET state = 'x' WHERE session = %s", worker.view.session)


@pytest.fixture
def worker(site: CatalogSite) -> Worker:
    """A session on a group that has one snapshot; its part is finished and awaits the seal."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    worker = Worker(site, open_on(site, "vm"))
    worker.finish_storing(item(2))
    return worker


def test_a_finished_session_is_sealed_and_its_pins_fall(site: CatalogSite, worker: Worker) -> None:
    session = worker.view.session
    assert worker.seal() == Sealed(session, 2)
    view = read_session(site.chunker, session)
    assert (view.state, view.sequence, view.manifest_key) == ("sealed", 2, f"m/{session}")
    assert site.sql("SELECT head_sequence, head_session, head_mac FROM volume_group") == [
        (2, session, b"mac")
    ]
    assert site.sql("SELECT FROM pin") == []
    assert site.sql("SELECT FROM part_use") == []
    assert site.sql("SELECT FROM attempt WHERE open") == []


def test_sealing_twice_is_sealing_once(site: CatalogSite, worker: Worker) -> None:
    with site.holding_log(SNAPSHOTS):
        seals = [site.start(worker.seal) for _ in range(2)]
        site.wait_until_waiting(2)
    assert [one.result() for one in seals] == [Sealed(worker.view.session, 2)] * 2
    assert worker.seal() == Sealed(worker.view.session, 2)
    assert site.sql("SELECT count(*) FROM event_log WHERE type LIKE '%%snapshot_sealed'") == [(2,)]


def test_a_base_that_expired_during_the_session_is_not_built_upon(
    site: CatalogSite, worker: Worker
) -> None:
    """Scenario 2: the subtrees that the new map shares with the base may be gone."""
    site.sql("UPDATE snapshot SET state = 'x'")
    base = worker.view.base
    assert worker.seal() == Refused(
        worker.view.session, f"the base snapshot {base} is no longer live"
    )


def test_a_seal_waits_for_an_expiry_of_its_base_and_then_refuses(
    site: CatalogSite, worker: Worker
) -> None:
    """Scenario 2, at once."""
    with site.holding("UPDATE snapshot SET state = 'x'"):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
    assert isinstance(sealing.result(), Refused)
    assert site.sql("SELECT count(*) FROM snapshot") == [(1,)]


def test_a_head_that_has_moved_refuses_the_seal(site: CatalogSite, worker: Worker) -> None:
    """Scenario 17: two manifests never continue one head."""
    site.sql("UPDATE volume_group SET head_sequence = head_sequence + 1")
    assert worker.seal() == Refused(
        worker.view.session, "the group's head has moved since the session opened"
    )


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        ("UPDATE pack SET state = 'c'", "a pack that the snapshot needs is no longer live"),
        ("UPDATE pack SET state = 'd'", "a pack that the snapshot needs is no longer live"),
        ("DELETE FROM pin", "a pin that the snapshot relies on is gone"),
        ("UPDATE part SET state = 'c' WHERE state = 'f'", "a part of the session is not finished"),
        ("UPDATE attempt SET open = false", "its attempt is not the current one"),
    ],
)
def test_each_check_refuses_on_its_own(
    site: CatalogSite, worker: Worker, meddle: str, reason: str
) -> None:
    """Scenarios 1, 5 and 26: rules that back each other up, one at a time."""
    site.sql(meddle)
    refused = worker.seal()
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert read_session(site.chunker, worker.view.session).state == "open"
    assert site.sql("SELECT count(*) FROM snapshot") == [(1,)]


def test_an_unfinished_part_refuses_the_seal(site: CatalogSite) -> None:
    """Scenario 11."""
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    data = Worker(site, view, 0)
    data.finish_storing(item(1))
    assert isinstance(data.seal(), Refused)
    log = Worker(site, view, 1)
    assert isinstance(data.seal(), Refused)
    assert log.finish({}) is True
    assert data.seal() == Sealed(view.session, 1)


def test_a_rejected_or_unknown_session_is_never_sealed(site: CatalogSite, worker: Worker) -> None:
    reject_session(site.catalog, "catalog", worker.view.session, "deadline", "too late")
    assert worker.seal() == Refused(worker.view.session, "the session was rejected")
    site.sql("DELETE FROM attempt")
    site.sql("DELETE FROM part")
    site.sql("DELETE FROM session WHERE session = %s", worker.view.session)
    assert worker.seal() == Refused(worker.view.session, "there is no such session")


def test_of_a_seal_and_a_rejection_at_once_one_wins(site: CatalogSite, worker: Worker) -> None:
    """Scenario 15: the deadline strikes while the seal waits for the log."""
    session = worker.view.session
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        rejecting = site.start(reject_session, site.catalog, "catalog", session, "x", "y")
        site.wait_until_waiting(2)
    assert isinstance(sealing.result(), Sealed)
    assert rejecting.result() is False
    assert read_session(site.chunker, session).state == "sealed"


def test_a_clock_that_went_backwards_does_not_prevent_the_seal(
    site: CatalogSite, worker: Worker
) -> None:
    """No correctness rests on clocks: the server's was an hour ahead when the session opened."""
    site.sql("UPDATE session SET opened_at = now() + interval '1 hour'")
    assert isinstance(worker.seal(), Sealed)


def test_uses_are_counted_by_differences(site: CatalogSite) -> None:
    protect(site, "vm")
    worker, first = take_snapshot(site, "vm", item(1), item(2), item(3))
    assert rows_of(site, worker) == [(first, 3, 1, None)]

    worker = Worker(site, open_on(site, "vm"))
    second = worker.store(item(4))
    worker.finish({first: PackUse(departed=1), second: PackUse(entered=1)})
    worker.seal()
    assert rows_of(site, worker) == [(first, 2, 1, None), (second, 1, 2, None)]

    worker = Worker(site, open_on(site, "vm"))
    worker.finish({first: PackUse(departed=2)})
    worker.seal()
    assert rows_of(site, worker) == [(first, 0, 1, 2), (second, 1, 2, None)]

    worker = Worker(site, open_on(site, "vm"))
    assert worker.look_up(item(1)) == [first]
    worker.finish({first: PackUse(entered=1)})
    worker.seal()
    assert rows_of(site, worker) == [(first, 0, 1, 2), (second, 1, 2, None), (first, 1, 4, None)]


def test_a_session_without_a_base_closes_all_rows_and_counts_anew(site: CatalogSite) -> None:
    """Scenario 23: the head expired, and an older snapshot is never the base instead."""
    protect(site, "vm")
    _, first = take_snapshot(site, "vm", item(1))
    second_worker, second = take_snapshot(site, "vm", item(2))
    expire(site, second_worker)
    view = open_on(site, "vm")
    assert (view.base, view.head_sequence) == (None, 2)
    worker = Worker(site, view)
    worker.look_up(item(1))
    worker.finish({first: PackUse(entered=5)})
    assert worker.seal() == Sealed(view.session, 3)
    assert rows_of(site, worker) == [(first, 1, 1, 2), (second, 1, 2, 2), (first, 5, 3, None)]


def test_a_full_session_counts_anew_although_the_head_is_live(site: CatalogSite) -> None:
    """Scenario 23."""
    protect(site, "vm")
    _, first = take_snapshot(site, "vm", item(1), item(2))
    worker = Worker(site, open_on(site, "vm", full=True))
    worker.look_up(item(1))
    worker.finish({first: PackUse(entered=1)})
    worker.seal()
    assert rows_of(site, worker) == [(first, 2, 1, 1), (first, 1, 2, None)]


def test_a_volume_that_joins_a_group_is_counted_anew_and_the_others_go_on(
    site: CatalogSite,
) -> None:
    """Scenario 23, for one part only: the base knows nothing of the new volume."""
    protect(site, "db", "data")
    data, first = take_snapshot(site, "db", item(1))
    protect(site, "db", "log")
    view = open_on(site, "db")
    assert view.base is not None
    Worker(site, view, 0).finish({first: PackUse(entered=0, departed=0)})
    log = Worker(site, view, 1)
    second = log.finish_storing(item(2))
    assert log.seal() == Sealed(view.session, 2)
    assert rows_of(site, data) == [(first, 1, 1, None)]
    assert rows_of(site, log) == [(second, 1, 2, None)]


@pytest.mark.parametrize("departed", [PackUse(departed=3), PackUse(entered=1, departed=4)])
def test_more_departures_than_there_are_addresses_break_an_invariant(
    site: CatalogSite, departed: PackUse
) -> None:
    """A wrong count would free a pack that is needed: stop, do not repair quietly."""
    protect(site, "vm")
    _, first = take_snapshot(site, "vm", item(1), item(2))
    worker = Worker(site, open_on(site, "vm"))
    worker.look_up(item(1))
    worker.finish({first: departed})
    with pytest.raises(InvariantViolation):
        worker.seal()
    assert rows_of(site, worker) == [(first, 2, 1, None)]


def test_departures_from_a_pack_that_the_volume_does_not_use_break_an_invariant(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    protect(site, "other")
    _, foreign = take_snapshot(site, "other", item(1))
    take_snapshot(site, "vm", item(2))
    worker = Worker(site, open_on(site, "vm"))
    worker.finish({foreign: PackUse(departed=1)})
    with pytest.raises(InvariantViolation, match="does not use"):
        worker.seal()
