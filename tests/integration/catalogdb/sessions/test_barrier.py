"""A session's barrier in the catalog: one attempt after another, and the one cut that counts."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, add_volume
from libs.catalogdb.sessions.barrier import (
    BarrierEvidence,
    barrier_evidence,
    claim_cut,
    record_cut,
)
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.catalogdb.sessions.session import (
    SessionView,
    open_session,
    read_session,
    reject_session,
)
from libs.catalogdb.sessions.watching import (
    captures_heard,
    open_parts,
)
from libs.ids import NodeIdentity, uuid7
from tests.support.catalog import (
    NODE,
    TENANT,
    CatalogSite,
    Worker,
    cut,
    item,
    open_on,
    protect,
)

AT = datetime(2026, 11, 30, 8, 0, 0, 250, tzinfo=UTC)
ON_NODE = NodeIdentity(NODE.name, NODE.credential)
SECOND = Node("node-2", "http://node-2:1", "node-2:2", uuid4())


def opened(site: CatalogSite, group: str = "vm") -> SessionView:
    """A session of a group whose barrier nobody has reached."""
    view = open_session(site.coordinator, TENANT, group, uuid7(), 60)
    assert isinstance(view, SessionView)
    return view


def evidence(*nodes: str, unbroken: bool = True) -> list[BarrierEvidence]:
    return [BarrierEvidence(node, "fsfreeze", AT, AT, AT, unbroken) for node in nodes]


def leave(site: CatalogSite) -> None:
    """Whoever works at a barrier has had its time."""
    site.sql("UPDATE session SET cut_until = now() - interval '1 s'")


def test_a_volume_alone_needs_no_barrier(site: CatalogSite) -> None:
    protect(site, "vm")
    view = opened(site)
    assert (view.cut_attempt, view.cut) == (0, False)
    assert claim_cut(site.coordinator, view.session, 30) is None
    worker = Worker(site, view)
    worker.finish_storing(item(1))
    assert isinstance(worker.seal(), Sealed)


def test_volumes_of_a_group_and_a_volume_that_is_frozen_need_one(site: CatalogSite) -> None:
    protect(site, "vm", "a", "b")
    assert opened(site).cut_attempt == 1
    add_volume(site.coordinator, TENANT, "c", "c", NODE.name, "/dev/c", "/mnt/c")
    view = opened(site, "c")
    assert view.cut_attempt == 1
    assert view.parts[0].freeze == "/mnt/c"


def test_a_snapshot_whose_volumes_were_not_cut_is_not_acknowledged(site: CatalogSite) -> None:
    """Scenario 18."""
    protect(site, "vm", "a", "b")
    view = opened(site)
    workers = [Worker(site, view, number) for number in range(2)]
    for number, worker in enumerate(workers):
        worker.finish_storing(item(number))
    refused = workers[0].seal()
    assert isinstance(refused, Refused)
    assert "barrier" in refused.reason
    cut(site, view)
    assert isinstance(workers[0].seal(), Sealed)


def test_a_recorded_cut_is_an_event_and_stays_with_its_snapshot(site: CatalogSite) -> None:
    protect(site, "vm", "a", "b")
    view = opened(site)
    for _ in range(2):  # its answer was lost
        assert record_cut(site.coordinator, view.session, 1, evidence(NODE.name), 60)
    assert read_session(site.coordinator, view.session).cut
    assert barrier_evidence(site.restore, view.session) == evidence(NODE.name)
    types = [row[0] for row in site.sql("SELECT type FROM event_log ORDER BY position")]
    assert types.count("backcast.snapshots.barrier_reached") == 1


def test_a_hold_that_was_broken_is_no_cut(site: CatalogSite) -> None:
    """Scenario 18: in the catalog once more, whatever a coordinator believes."""
    protect(site, "vm", "a", "b")
    view = opened(site)
    broken = [*evidence(NODE.name), *evidence(NODE.name, unbroken=False)]
    assert not record_cut(site.coordinator, view.session, 1, broken, 60)
    assert not record_cut(site.coordinator, view.session, 1, [], 60)
    assert not read_session(site.coordinator, view.session).cut


def test_a_newer_attempt_begins_only_when_the_time_of_the_one_before_is_over(
    site: CatalogSite,
) -> None:
    protect(site, "vm", "a", "b")
    view = opened(site)
    assert claim_cut(site.coordinator, view.session, 30) is None
    assert not any(part.barrier_left for part in open_parts(site.coordinator)[1])
    leave(site)
    assert all(part.barrier_left for part in open_parts(site.coordinator)[1])
    assert claim_cut(site.coordinator, view.session, 30) == 2
    assert claim_cut(site.coordinator, view.session, 30) is None


def test_the_cut_of_an_older_attempt_does_not_count(site: CatalogSite) -> None:
    """Scenario 18: its coordinator was slow, and another one has begun anew."""
    protect(site, "vm", "a", "b")
    view = opened(site)
    leave(site)
    assert claim_cut(site.coordinator, view.session, 30) == 2
    assert not record_cut(site.coordinator, view.session, 1, evidence(NODE.name), 60)
    assert record_cut(site.coordinator, view.session, 2, evidence(NODE.name), 60)


def test_a_recorded_cut_is_not_taken_over(site: CatalogSite) -> None:
    protect(site, "vm", "a", "b")
    view = opened(site)
    assert record_cut(site.coordinator, view.session, 1, evidence(NODE.name), 60)
    leave(site)
    assert claim_cut(site.coordinator, view.session, 30) is None


def test_a_rejected_session_is_cut_by_nobody(site: CatalogSite) -> None:
    protect(site, "vm", "a", "b")
    view = opened(site)
    reject_session(site.coordinator, "coordinator", view.session, "deadline", "late")
    leave(site)
    assert claim_cut(site.coordinator, view.session, 30) is None
    assert not record_cut(site.coordinator, view.session, 1, evidence(NODE.name), 60)
    spoken = [(ON_NODE, one) for one in (*(part.capture for part in view.parts), uuid4())]
    heard = captures_heard(site.coordinator, spoken)
    assert [one.sealed for one in heard.outcomes.values()] == [False] * 3


def test_a_volume_that_several_nodes_write_needs_a_barrier_of_them(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    announce_node(site.coordinator, SECOND)
    site.sql(
        """INSERT INTO source (volume_no, node_no, path, lead)
           SELECT volume_no, n.node_no, '/dev/vm', false FROM volume, node n
           WHERE n.name = 'node-2'"""
    )
    view = opened(site)
    assert view.cut_attempt == 1
    assert [one.node for one in view.parts[0].followers] == ["node-2"]


def test_outcomes_are_told_of_captures_whose_session_has_ended(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    capture, session = worker.capture, worker.view.session
    assert captures_heard(site.coordinator, [(ON_NODE, capture)]).sessions == {capture: session}
    worker.finish_storing(item(1))
    worker.seal()
    heard = captures_heard(site.coordinator, [(ON_NODE, capture)])
    assert heard.sessions == {}
    assert heard.outcomes[capture].sealed


@pytest.mark.parametrize(
    "stranger",
    [NodeIdentity("node-2", None), NodeIdentity(NODE.name, UUID(int=5))],
    ids=["another node", "another credential"],
)
def test_a_node_hears_and_says_nothing_of_captures_that_are_not_its_own(
    site: CatalogSite, stranger: NodeIdentity
) -> None:
    protect(site, "vm")
    announce_node(site.coordinator, SECOND)
    worker = Worker(site, open_on(site, "vm"))
    heard = captures_heard(site.coordinator, [(stranger, worker.capture)])
    assert heard.sessions == {}
    assert not heard.outcomes[worker.capture].sealed
