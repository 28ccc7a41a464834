"""What is looked for: silent nodes, full disks of agents, and a relay that is behind."""

from libs.catalogdb.log.log import last_position, mark_published
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.notifications.listing import list_notifications
from libs.catalogdb.notifications.nodes import DiskSpace
from libs.catalogdb.notifications.reviewing import review_groups, review_nodes, review_relay
from libs.catalogdb.sessions.session import reject_session
from libs.errors import CancelledError
from libs.events.topics import SNAPSHOTS
from tests.integration.catalogdb.notifications.telling import told_of
from tests.support.catalog import NODE, CatalogSite, open_on, protect

_LONG_AGO = "UPDATE node SET seen_at = now() - interval '61 seconds'"


def test_a_silent_node_is_told_until_it_announces_itself(site: CatalogSite) -> None:
    protect(site, "vm")
    review_nodes(site.catalog, 60)
    assert list_notifications(site.catalog) == []
    site.sql(_LONG_AGO)
    for _ in range(2):
        review_nodes(site.catalog, 60)
    (one,) = list_notifications(site.catalog)
    assert (one.kind, one.node, one.severity, one.tenant) == (
        "node-silent", NODE.name, "error", "*",
    )  # fmt: skip
    for _ in range(2):
        announce_node(site.coordinator, NODE)
    assert told_of(site) == ["opened node-silent", "resolved node-silent"]


def test_a_node_that_announces_itself_while_it_is_looked_at_is_not_silent(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    site.sql(_LONG_AGO)
    with site.holding("UPDATE node SET seen_at = now()"):
        review_nodes(site.catalog, 60)
    assert list_notifications(site.catalog) == []


def test_an_announcement_that_waits_for_the_look_resolves_what_it_opened(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    site.sql(_LONG_AGO)
    with site.holding_log("backcast.notifications"):
        looking = site.start(review_nodes, site.catalog, 60)
        site.wait_until_waiting(1)
        announcing = site.start(announce_node, site.coordinator, NODE)
        site.wait_until_waiting(2)
    looking.result()
    announcing.result()
    assert list_notifications(site.catalog) == []
    assert told_of(site) == ["opened node-silent", "resolved node-silent"]


def test_a_node_without_volumes_may_be_silent(site: CatalogSite) -> None:
    announce_node(site.coordinator, NODE)
    site.sql(_LONG_AGO)
    review_nodes(site.catalog, 60)
    assert list_notifications(site.catalog) == []


def test_a_full_disk_of_an_agent_is_told_until_there_is_room(site: CatalogSite) -> None:
    def announce(free_percent: int) -> None:
        announce_node(site.coordinator, NODE, disk=DiskSpace(free_percent, 100))

    announce(5)
    assert list_notifications(site.catalog) == []
    for _ in range(2):
        announce(4)
    (one,) = list_notifications(site.catalog)
    assert (one.kind, one.about, one.node) == ("disk-full", "node/node-1", "node-1")
    announce(6)  # a little room does not make it open and close all the time
    announce_node(site.coordinator, NODE)  # it does not say
    assert list_notifications(site.catalog) == [one]
    announce(7)
    assert told_of(site) == ["opened disk-full", "resolved disk-full"]


def test_a_relay_that_is_behind_is_told_until_kafka_has_everything(site: CatalogSite) -> None:
    protect(site, "vm")
    open_on(site, "vm")
    review_relay(site.catalog, 60)
    assert list_notifications(site.catalog) == []
    site.sql("UPDATE event_log SET occurred_at = now() - interval '61 seconds'")
    for _ in range(2):
        review_relay(site.catalog, 60)
    assert [one.about for one in list_notifications(site.catalog)] == [SNAPSHOTS]
    mark_published(site.catalog, SNAPSHOTS, last_position(site.catalog, SNAPSHOTS))
    review_relay(site.catalog, 60)
    assert told_of(site) == ["opened relay-behind", "resolved relay-behind"]


def test_what_was_told_of_removed_volumes_is_over(site: CatalogSite) -> None:
    protect(site, "vm")
    reject_session(site.coordinator, "coordinator", open_on(site, "vm").session, "source", "gone")
    site.sql(_LONG_AGO)
    review_groups(site.catalog)
    review_nodes(site.catalog, 60)
    assert len(list_notifications(site.catalog)) == 2
    site.sql("UPDATE volume SET removed_at = now(), removed_by = 'ops'")
    review_groups(site.catalog)
    review_nodes(site.catalog, 60)
    assert list_notifications(site.catalog) == []


def test_a_session_that_a_person_cancelled_is_nothing_wrong(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    reject_session(site.coordinator, "coordinator", view.session, CancelledError.code, "ops did")
    assert list_notifications(site.catalog) == []
