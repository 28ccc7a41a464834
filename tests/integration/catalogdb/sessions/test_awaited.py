"""Whom an open session waits for, by name: an agent, a chunker, or that a chunker takes it."""

from libs.catalogdb.sessions.awaited import awaited_parts, listed
from libs.catalogdb.sessions.session import read_session, reject_overdue
from tests.support.catalog import CatalogSite, Worker, item, open_on, protect


def test_what_nobody_has_taken_waits_for_a_chunker(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    parts = awaited_parts(site.coordinator, view.session)
    assert "none has taken the capture of volume vm" in listed(parts)
    silent = {view.parts[0].capture}
    assert listed(parts, silent) == "the agent of node node-1, which captures volume vm"


def test_what_was_taken_waits_for_its_chunker(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    (one,) = awaited_parts(site.coordinator, worker.view.session)
    assert one.chunker
    assert one.describe(is_agent_silent=False).startswith(f"chunker {one.chunker}, which stores")


def test_a_node_that_says_nothing_is_whom_it_waits_for(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    site.sql("UPDATE node SET seen_at = now() - interval '40 seconds'")
    parts = awaited_parts(site.coordinator, view.session)
    assert [one.volume for one in parts] == ["data", "log"]
    assert listed(parts).startswith("the agent of node node-1, which captures volume data; ")


def test_a_finished_volume_is_waited_for_no_more(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    worker.finish_storing(item(1))
    assert awaited_parts(site.coordinator, worker.view.session) == []
    assert listed([]) == "a chunker that seals it"
    worker.seal()
    assert awaited_parts(site.coordinator, worker.view.session) == []


def test_a_session_past_its_deadline_says_whom_it_waited_for(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm", deadline_seconds=-1)
    site.sql("UPDATE node SET seen_at = now() - interval '2 minutes'")
    reject_overdue(site.catalog)
    message = read_session(site.catalog, view.session).reject_message
    assert message is not None
    assert "it waited for the agent of node node-1, which captures volume vm" in message
