"""Sessions in a list, and sessions that a person ends."""

import pytest

from libs.catalogdb.log.log import read_log
from libs.catalogdb.sessions.attempts import Stale
from libs.catalogdb.sessions.listing import cancel_session, list_sessions
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import SessionView, open_session, reject_session
from libs.errors import ConflictError, NotFoundError
from libs.events.topics import SNAPSHOTS
from libs.ids import uuid7
from tests.support.catalog import TENANT, CatalogSite, Worker, item, open_on, protect, take_snapshot


def test_sessions_are_listed_with_how_they_ended(site: CatalogSite) -> None:
    protect(site, "disk")
    protect(site, "db", "data", "log")
    protect(site, "foreign", tenant="other")
    open_on(site, "foreign", tenant="other")
    take_snapshot(site, "disk", item(1))
    failed = open_on(site, "disk")
    reject_session(site.coordinator, "coordinator", failed.session, "source", "no such file")
    still_open = open_on(site, "db")
    listed = list_sessions(site.coordinator, TENANT, None, None, 100)
    assert [(one.group, one.state, one.sequence, one.code) for one in listed] == [
        ("db", "open", None, None),
        ("disk", "rejected", None, "source"),
        ("disk", "sealed", 1, None),
    ]
    assert listed[0].volumes == ["data", "log"]
    assert listed[2].read_bytes == 1 << 20
    assert listed[1].message == "no such file"
    chosen = list_sessions(site.coordinator, TENANT, "log", "open", 100)
    assert [one.session for one in chosen] == [still_open.session]
    assert len(list_sessions(site.coordinator, TENANT, None, None, 2)) == 2
    assert list_sessions(site.coordinator, TENANT, "db", "rejected", 100) == []


def test_a_cancelled_session_is_rejected_once_and_frees_its_group(site: CatalogSite) -> None:
    protect(site, "disk")
    worker = Worker(site, open_on(site, "disk"))
    worker.finish_storing(item(1))
    session = worker.view.session
    ended = cancel_session(site.coordinator, TENANT, session, "ops", "not now")
    assert (ended.state, ended.code, ended.message) == (
        "rejected",
        "cancelled",
        "ops cancelled it: not now",
    )
    again = cancel_session(site.coordinator, TENANT, session, "other", "")
    assert again.message == ended.message
    assert isinstance(worker.seal(), Refused)
    assert isinstance(worker.look_up(item(1)), Stale)
    assert site.sql("SELECT count(*) FROM pin") == [(0,)]
    assert isinstance(open_on(site, "disk"), SessionView)
    types = [one.envelope.type for one in read_log(site.catalog, SNAPSHOTS, 0, 99)]
    assert types.count("backcast.snapshots.snapshot_rejected") == 1


def test_a_sealed_session_is_not_cancelled(site: CatalogSite) -> None:
    protect(site, "disk")
    worker, _ = take_snapshot(site, "disk", item(1))
    with pytest.raises(ConflictError, match="was sealed already"):
        cancel_session(site.coordinator, TENANT, worker.view.session, "ops", "")


@pytest.mark.parametrize("cancel_first", [True, False])
def test_of_a_cancel_and_a_seal_at_once_the_first_one_wins(
    site: CatalogSite, cancel_first: bool
) -> None:
    """Both lock the session's row; the second one finds what the first one did."""
    protect(site, "disk")
    worker = Worker(site, open_on(site, "disk"))
    worker.finish_storing(item(1))
    session = worker.view.session

    def cancel() -> str:
        try:
            return cancel_session(site.coordinator, TENANT, session, "ops", "").state
        except ConflictError:
            return "sealed"

    steps = [cancel, worker.seal] if cancel_first else [worker.seal, cancel]
    with site.holding_log(SNAPSHOTS):  # the first one has decided, and cannot commit yet
        first = site.start(steps[0])
        site.wait_until_waiting(1)
        second = site.start(steps[1])
        site.wait_until_waiting(2)
    outcomes = {str(first.result()), str(second.result())}
    if cancel_first:
        assert "rejected" in outcomes
        assert isinstance(second.result(), Refused)
    else:
        assert isinstance(first.result(), Sealed)
        assert "sealed" in outcomes


def test_a_foreign_session_is_as_if_it_were_not_there(site: CatalogSite) -> None:
    protect(site, "disk")
    protect(site, "disk", tenant="other")
    view = open_session(site.coordinator, "other", "disk", uuid7(), 60)
    assert isinstance(view, SessionView)
    for session in (view.session, uuid7()):
        with pytest.raises(NotFoundError, match="tenant acme has none of this id"):
            cancel_session(site.coordinator, TENANT, session, "ops", "")
    assert list_sessions(site.coordinator, TENANT, None, None, 9) == []
