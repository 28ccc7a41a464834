"""Opening, renewing and ending sessions; the positions that open ones hold back."""

from uuid import UUID, uuid4

import pytest

from libs.catalogdb.sessions.attempts import PartProgress, take_part
from libs.catalogdb.sessions.positions import start_offset, store_offsets
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import (
    GroupBusy,
    SessionView,
    open_session,
    read_session,
    reject_overdue,
    reject_session,
    session_of_capture,
)
from libs.catalogdb.sessions.watching import (
    open_parts,
    report_reads,
)
from libs.errors import InvariantViolation, NotFoundError
from libs.events.topics import BLOCK_CHANGES, SNAPSHOTS
from libs.ids import uuid7
from tests.support.catalog import (
    BOOT,
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)


def request(site: CatalogSite, group: str, session: UUID) -> SessionView | GroupBusy:
    return open_session(site.coordinator, TENANT, group, session, 60)


def overdue(site: CatalogSite, view: SessionView) -> None:
    """Let a session's deadline pass."""
    site.sql(
        "UPDATE session SET deadline = now() - interval '1 s' WHERE session = %s", view.session
    )


def test_asking_twice_makes_one_session(site: CatalogSite) -> None:
    protect(site, "vm")
    session = uuid7()
    first = request(site, "vm", session)
    again = request(site, "vm", session)
    assert isinstance(first, SessionView)
    assert isinstance(again, SessionView)
    assert again.parts == first.parts
    assert site.sql("SELECT count(*) FROM event_log") == [(1,)]


def test_two_who_ask_for_the_same_session_at_once_get_the_same(site: CatalogSite) -> None:
    protect(site, "vm")
    session = uuid7()
    with site.holding_log(SNAPSHOTS):
        asking = [site.start(request, site, "vm", session) for _ in range(2)]
        site.wait_until_waiting(2)
    first, second = (one.result() for one in asking)
    assert isinstance(first, SessionView)
    assert isinstance(second, SessionView)
    assert first.parts == second.parts


def test_one_session_id_for_two_groups_at_once_is_one_session(site: CatalogSite) -> None:
    """Whoever asked for the other group sees whose it is, and no rule is broken."""
    protect(site, "a")
    protect(site, "b")
    session = uuid7()
    with site.holding_log(SNAPSHOTS):
        of_a = site.start(request, site, "a", session)
        site.wait_until_waiting(1)
        of_b = site.start(request, site, "b", session)
        site.wait_until_waiting(2)
    for one in (of_a, of_b):
        view = one.result()
        assert isinstance(view, SessionView)
        assert view.group == "a"


def test_of_two_sessions_on_one_group_the_second_is_told_that_it_is_busy(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    with site.holding_log(SNAPSHOTS):
        first = site.start(request, site, "vm", UUID(int=1))
        site.wait_until_waiting(1)
        second = site.start(request, site, "vm", UUID(int=2))
        site.wait_until_waiting(2)
    assert isinstance(first.result(), SessionView)
    assert second.result() == GroupBusy(UUID(int=1))
    assert open_parts(site.coordinator)[0] == {UUID(int=1)}


def test_a_session_that_waits_for_a_seal_builds_upon_the_sealed_snapshot(
    site: CatalogSite,
) -> None:
    """Without the base it would read and count everything, though nothing is wrong."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    worker = Worker(site, open_on(site, "vm"))
    worker.finish_storing(item(2))
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        opening = site.start(open_on, site, "vm")
        site.wait_until_waiting(2)
    assert isinstance(sealing.result(), Sealed)
    view = opening.result()
    assert (view.base, view.head_sequence) == (worker.view.session, 2)


def test_a_session_that_waits_for_the_expiry_of_the_head_has_no_base(site: CatalogSite) -> None:
    """Scenario 2: the base is the head or nothing, and live when it is pinned."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    with site.holding("UPDATE snapshot SET state = 'x'"):
        opening = site.start(open_on, site, "vm")
        site.wait_until_waiting(1)
    view = opening.result()
    assert (view.base, view.head_sequence) == (None, 1)
    assert view.parts[0].base_root is None


def test_a_root_that_is_no_node_id_is_refused(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    with pytest.raises(InvariantViolation, match="CheckViolation"):
        worker.finish({}, root=item(1)[:16])


def test_a_session_has_its_bases_roots_and_secret_tokens(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    workers = [Worker(site, view, part) for part in range(2)]
    for number, worker in enumerate(workers):
        worker.finish({}, root=item(number))
    assert isinstance(workers[0].seal(), Sealed)
    base = open_on(site, "db")
    assert [part.base_root for part in base.parts] == [item(0), item(1)]
    assert [part.base_size_bytes for part in base.parts] == [1 << 30] * 2
    assert len({part.token for part in (*view.parts, *base.parts)}) == 4


def test_an_ended_session_is_returned_as_it_ended(site: CatalogSite) -> None:
    """Scenario 15: terminal ids are kept for ever, so a late request starts nothing."""
    protect(site, "vm")
    view = open_on(site, "vm")
    assert reject_session(site.coordinator, "coordinator", view.session, "cancelled", "x" * 5000)
    assert not reject_session(site.coordinator, "coordinator", view.session, "other", "y")
    again = request(site, "vm", view.session)
    assert isinstance(again, SessionView)
    assert (again.state, again.reject_code) == ("rejected", "cancelled")
    assert again.reject_message == "x" * 2000
    assert isinstance(request(site, "vm", uuid7()), SessionView)


def test_unknown_groups_and_sessions_are_not_found(site: CatalogSite) -> None:
    protect(site, "vm")
    with pytest.raises(NotFoundError, match="group db"):
        request(site, "db", uuid7())
    with pytest.raises(NotFoundError, match="tenant other"):
        open_session(site.coordinator, "other", "vm", uuid7(), 60)
    with pytest.raises(NotFoundError):
        read_session(site.coordinator, uuid4())
    assert session_of_capture(site.chunker, uuid4()) is None
    assert not reject_session(site.chunker, "chunker", uuid4(), "x", "y")


def test_a_session_past_its_deadline_is_rejected_and_holds_nothing_back(site: CatalogSite) -> None:
    """Scenario 15."""
    protect(site, "a")
    protect(site, "b")
    late, busy = Worker(site, open_on(site, "a")), open_on(site, "b")
    late.store(item(1))
    store_offsets(site.chunker, {(BLOCK_CHANGES, 0): 50})
    assert start_offset(site.chunker, BLOCK_CHANGES, 0) == 0
    overdue(site, late.view)

    assert reject_overdue(site.catalog) == [late.view.session]
    assert read_session(site.catalog, late.view.session).reject_code == "deadline"
    assert read_session(site.catalog, busy.session).state == "open"
    assert site.sql("SELECT FROM pin") == []
    assert start_offset(site.chunker, BLOCK_CHANGES, 0) == 50
    assert reject_overdue(site.catalog) == []


def test_progress_renews_the_deadline(site: CatalogSite) -> None:
    """Scenario 15: of the chunker, and of the agent although it may have found nothing to send."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    overdue(site, worker.view)
    assert worker.renew()
    assert reject_overdue(site.catalog) == []

    overdue(site, worker.view)
    report_reads(site.coordinator, {worker.capture: 4096}, 60)
    assert reject_overdue(site.catalog) == []

    overdue(site, worker.view)
    report_reads(site.coordinator, {worker.capture: 4096}, 60)
    assert reject_overdue(site.catalog) == [worker.view.session]
    assert not worker.renew()


def test_a_session_that_is_renewed_at_its_deadline_is_not_rejected(site: CatalogSite) -> None:
    """Scenario 15: the renewal has not committed when the deadlines are looked through."""
    protect(site, "vm")
    view = open_on(site, "vm")
    overdue(site, view)
    with site.holding("UPDATE session SET deadline = now() + interval '1 minute'"):
        assert site.start(reject_overdue, site.catalog).result() == []
    assert reject_overdue(site.catalog) == []
    assert read_session(site.catalog, view.session).state == "open"


def test_read_bytes_never_go_backwards(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    report_reads(site.coordinator, {worker.capture: 8192}, 60)
    worker.renew(PartProgress(read_bytes=4096))
    report_reads(site.coordinator, {worker.capture: 100}, 60)
    assert read_session(site.coordinator, worker.view.session).parts[0].read_bytes == 8192


def test_reading_starts_at_the_earliest_capture_of_an_open_session(site: CatalogSite) -> None:
    """Scenario 15: positions of block-changes are the catalog's."""
    protect(site, "a")
    protect(site, "b")
    assert start_offset(site.chunker, BLOCK_CHANGES, 3) is None
    store_offsets(site.chunker, {(BLOCK_CHANGES, 3): 100})
    store_offsets(site.chunker, {(BLOCK_CHANGES, 3): 70})
    assert start_offset(site.chunker, BLOCK_CHANGES, 3) == 100
    views = [open_on(site, "a"), open_on(site, "b")]
    for view, offset in zip(views, (40, 60), strict=True):
        take_part(site.chunker, view.parts[0].capture, BOOT, "chunker-1", 3, offset)
    assert start_offset(site.chunker, BLOCK_CHANGES, 3) == 40
    assert start_offset(site.chunker, BLOCK_CHANGES, 2) is None
    reject_session(site.chunker, "chunker", views[0].session, "cancelled", "by hand")
    assert start_offset(site.chunker, BLOCK_CHANGES, 3) == 60


def test_the_session_of_a_capture_is_found(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    found = session_of_capture(site.chunker, view.parts[0].capture)
    assert found is not None
    assert found.session == view.session


def test_tracking_since_a_base_is_not_trusted_after_a_lie_about_it(site: CatalogSite) -> None:
    protect(site, "vm")
    first, _ = take_snapshot(site, "vm", item(1))
    caught = open_on(site, "vm")
    assert (caught.base, caught.is_trusted) == (first.view.session, True)
    reject_session(site.chunker, "chunker", caught.session, "tracking-lost", "a lie")
    again = open_on(site, "vm")
    assert not again.is_trusted
    reject_session(site.chunker, "chunker", again.session, "deadline", "late")
    second, _ = take_snapshot(site, "vm", item(2))
    believed = open_on(site, "vm")
    assert (believed.base, believed.is_trusted) == (second.view.session, True)


def test_a_session_says_how_the_changes_of_its_parts_are_known(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    assert view.parts[0].tracking == "unknown"
    take_part(site.chunker, view.parts[0].capture, BOOT, "chunker-1", 0, 0, "exact")
    assert read_session(site.coordinator, view.session).parts[0].tracking == "exact"
