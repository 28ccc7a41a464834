"""A part belongs to one attempt: what an older one still does is refused."""

from uuid import UUID

from libs.catalogdb.sessions.attempts import (
    NotTaken,
    PackUse,
    Stale,
    Taken,
    WrongBoot,
    closed_attempts,
    reject_attempt,
    take_part,
)
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import read_session, reject_session
from libs.ids import new_generation
from tests.support.catalog import (
    BOOT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)


def test_a_takeover_refuses_everything_that_the_older_attempt_still_does(
    site: CatalogSite,
) -> None:
    """Scenario 1: A stalls, B takes over, A wakes."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    view = open_on(site, "vm")
    a = Worker(site, view)
    uploading = a.claim()
    stored = a.store(item(2))
    b = Worker(site, view)

    stale = Stale(a.attempt)
    assert a.look_up(item(1)) == stale
    assert a.begin(new_generation()) == stale
    assert a.register(uploading, item(3)) == stale
    assert a.renew() is False
    assert a.finish({stored: PackUse(entered=1)}) == stale
    assert site.sql("SELECT owner FROM pin WHERE owner = %s", a.attempt) == []
    assert isinstance(b.look_up(item(1)), list)


def test_the_pins_of_the_older_attempt_do_not_seal_the_newer_ones_part(site: CatalogSite) -> None:
    """Scenario 1: B's part relies on a pin that only A had."""
    protect(site, "vm")
    view = open_on(site, "vm")
    a = Worker(site, view)
    pack_no = a.store(item(1))
    b = Worker(site, view)
    assert b.finish({pack_no: PackUse(entered=1)}) is True
    assert b.seal() == Refused(view.session, "a pin that the snapshot relies on is gone")
    assert read_session(site.chunker, view.session).state == "open"


def test_an_open_attempt_cannot_be_taken_over_in_the_middle_of_a_registration(
    site: CatalogSite,
) -> None:
    """Scenario 1: the attempt is locked until its transaction ends; then all its pins fall."""
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    pack = a.claim()
    with site.holding_log("backcast.packs"):
        registering = site.start(a.register, pack, item(1))
        site.wait_until_waiting(1)
        taking = site.start(Worker, site, a.view)
        site.wait_until_waiting(2)
    assert registering.result() == {}
    b = taking.result()
    assert site.sql("SELECT FROM pin WHERE owner = %s", a.attempt) == []
    assert b.look_up(item(1)) == [pack.pack_no]


def test_a_takeover_of_one_part_leaves_the_others_alone(site: CatalogSite) -> None:
    """Scenario 1."""
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    data, log = Worker(site, view, 0), Worker(site, view, 1)
    pack_no = log.store(item(1))
    Worker(site, view, 0)
    assert data.begin(new_generation()) == Stale(data.attempt)
    assert log.look_up(item(1)) == [pack_no]
    assert site.sql("SELECT pack_no FROM pin WHERE owner = %s", log.attempt) == [(pack_no,)]


def test_a_part_is_only_taken_from_the_agent_process_that_began_its_capture(
    site: CatalogSite,
) -> None:
    """Scenario 10: two frozen views never mix."""
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    assert take_part(site.chunker, a.capture, UUID(int=8), "chunker-2", 0, 9) == WrongBoot()
    assert a.store(item(1)) > 0


def test_attempts_are_numbered_and_an_unknown_capture_is_not_taken(site: CatalogSite) -> None:
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    again = take_part(site.chunker, a.capture, BOOT, "chunker-2", 0, 0)
    assert isinstance(again, Taken)
    assert again.number == 2
    assert take_part(site.chunker, UUID(int=9), BOOT, "chunker-2", 0, 0) == NotTaken(
        session_ended=True
    )


def test_a_finished_part_is_not_taken_again(site: CatalogSite) -> None:
    """A successor that reads the topic again must find the part ready for the seal."""
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    a.finish_storing(item(1))
    assert take_part(site.chunker, a.capture, BOOT, "chunker-2", 0, 0) == NotTaken(
        session_ended=False
    )
    assert isinstance(a.seal(), Sealed)
    assert take_part(site.chunker, a.capture, BOOT, "chunker-2", 0, 0) == NotTaken(
        session_ended=True
    )


def test_a_rejected_session_refuses_its_attempts_and_drops_their_pins(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    data, log = Worker(site, view, 0), Worker(site, view, 1)
    data.finish_storing(item(1))
    log.store(item(2))
    assert reject_session(site.coordinator, "coordinator", view.session, "cancelled", "by hand")
    assert site.sql("SELECT FROM pin") == []
    assert site.sql("SELECT FROM part_use") == []
    assert log.look_up(item(1)) == Stale(log.attempt)
    assert log.finish({}) == Stale(log.attempt)
    assert data.seal() == Refused(view.session, "the session was rejected")


def test_only_the_current_attempt_rejects_its_session(site: CatalogSite) -> None:
    """Scenario 1: what an older attempt calls a failure is a matter of its successor."""
    protect(site, "vm")
    view = open_on(site, "vm")
    a, b = Worker(site, view), Worker(site, view)
    assert closed_attempts(site.chunker, [a.attempt, b.attempt]) == {a.attempt}
    assert reject_attempt(site.chunker, a.attempt, "failed", "by a") is False
    assert reject_attempt(site.chunker, b.attempt, "failed", "by b") is True
    assert reject_attempt(site.chunker, b.attempt, "failed", "by b") is False
    assert read_session(site.chunker, view.session).reject_message == "by b"
    assert closed_attempts(site.chunker, [a.attempt, b.attempt]) == {a.attempt, b.attempt}


def test_an_attempt_that_is_being_taken_over_does_not_reject_the_session(
    site: CatalogSite,
) -> None:
    """Scenario 1, at once."""
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    with site.holding("SELECT FROM session WHERE session = %s FOR UPDATE", a.view.session):
        taking = site.start(Worker, site, a.view)
        site.wait_until_waiting(1)
        rejecting = site.start(reject_attempt, site.chunker, a.attempt, "failed", "by a")
        site.wait_until_waiting(2)
    taking.result()
    assert rejecting.result() is False
    assert read_session(site.chunker, a.view.session).state == "open"


def test_of_two_parts_that_finish_together_exactly_one_seals(site: CatalogSite) -> None:
    """Scenario 11: both have written their part before either looks whether it was the last."""
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    data, log = Worker(site, view, 0), Worker(site, view, 1)
    with site.holding("SELECT FROM session WHERE session = %s FOR UPDATE", view.session):
        finishing = [site.start(data.finish, {}), site.start(log.finish, {})]
        site.wait_until_waiting(2)
    assert sorted(str(one.result()) for one in finishing) == ["False", "True"]


def test_an_older_attempt_cannot_finish_a_part_that_is_being_taken_over(site: CatalogSite) -> None:
    """Scenario 1: it waits for the part's row, and must then see that the part has a new owner."""
    protect(site, "vm")
    a = Worker(site, open_on(site, "vm"))
    with site.holding("SELECT FROM session WHERE session = %s FOR UPDATE", a.view.session):
        taking = site.start(Worker, site, a.view)
        site.wait_until_waiting(1)
        finishing = site.start(a.finish, {})
        site.wait_until_waiting(2)
    taking.result()
    assert finishing.result() == Stale(a.attempt)


def test_closing_locks_attempts_in_the_order_in_which_a_registration_does(
    site: CatalogSite,
) -> None:
    """Else the two could wait for each other."""
    protect(site, "g", "u", "v")
    view = open_on(site, "g")
    second, moved = (Worker(site, view, part).attempt for part in range(2))
    first = UUID(int=0)  # and the last one in the table, as its index has to be written anew
    site.sql("UPDATE attempt SET attempt = %s WHERE attempt = %s RETURNING 1", first, moved)
    with site.chunker.transaction() as tx:
        lock = "SELECT 1 FROM attempt WHERE attempt = %s FOR SHARE"
        tx.execute(lock, [first])
        ending = site.start(reject_session, site.coordinator, "coordinator", view.session, "x", "y")
        site.wait_until_waiting(1)
        tx.execute(lock, [second])
    ending.result()
    assert read_session(site.chunker, view.session).state == "rejected"
