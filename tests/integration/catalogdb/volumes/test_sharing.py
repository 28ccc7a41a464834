"""Volumes that several nodes write, in the catalog."""

import pytest

from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, Volume, add_volume, create_tenant
from libs.catalogdb.sessions.session import SessionView, read_session, reject_session
from libs.catalogdb.volumes.moving import move
from libs.catalogdb.volumes.regrouping import regroup
from libs.catalogdb.volumes.removing import remove
from libs.catalogdb.volumes.sharing import Place, join, leave, places_of, share
from libs.errors import BadInputError, ConflictError, NotFoundError
from tests.integration.catalogdb.volumes.groups import seal_group
from tests.support.catalog import BOOT, TENANT, CatalogSite, open_on

A, B, C = (Place(f"node-{name}", "/dev/shared") for name in "abc")


@pytest.fixture
def shared(site: CatalogSite) -> Volume:
    """A volume that two of three nodes write, and a first snapshot of it."""
    create_tenant(site.coordinator, TENANT, BOOT, BOOT)
    for place in (A, B, C):
        announce_node(site.coordinator, Node(place.node, f"http://{place.node}:1", "s:2", BOOT))
    made = share(site.coordinator, TENANT, "disk", None, [B, A])
    seal_group(site, "disk", 1)
    return made


def opened(site: CatalogSite) -> SessionView:
    """A session on the head, and rejected at once."""
    view = open_on(site, "disk")
    reject_session(site.coordinator, "coordinator", view.session, "cancelled", "test")
    return view


def test_the_first_node_leads_and_all_are_at_the_barrier(site: CatalogSite, shared: Volume) -> None:
    assert places_of(shared) == [B, A]
    view = opened(site)
    (part,) = view.parts
    assert (part.node, part.driver, view.cut_attempt) == (B.node, "filter", 1)
    assert [(one.node, one.path) for one in part.followers] == [A]
    assert view.is_trusted
    assert share(site.coordinator, TENANT, "disk", None, [B, A]) == shared


def test_nothing_tracked_is_believed_when_nodes_join_or_leave(
    site: CatalogSite, shared: Volume
) -> None:
    assert places_of(join(site.coordinator, TENANT, "disk", C)) == [B, A, C]
    assert not opened(site).is_trusted
    seal_group(site, "disk", 2)
    assert opened(site).is_trusted
    join(site.coordinator, TENANT, "disk", C)  # again
    assert opened(site).is_trusted
    assert places_of(leave(site.coordinator, TENANT, "disk", C.node)) == [B, A]
    assert not opened(site).is_trusted


def test_when_the_lead_leaves_the_first_by_name_leads(site: CatalogSite, shared: Volume) -> None:
    join(site.coordinator, TENANT, "disk", C)
    assert places_of(leave(site.coordinator, TENANT, "disk", B.node)) == [A, C]
    (part,) = opened(site).parts
    assert (part.node, [one.node for one in part.followers]) == (A.node, [C.node])
    assert places_of(leave(site.coordinator, TENANT, "disk", C.node)) == [A]
    view = opened(site)
    assert (view.parts[0].followers, view.cut_attempt) == ((), 0)
    with pytest.raises(ConflictError, match="no other node"):
        leave(site.coordinator, TENANT, "disk", A.node)


def test_an_open_session_keeps_its_nodes(site: CatalogSite, shared: Volume) -> None:
    view = open_on(site, "disk")
    with pytest.raises(ConflictError, match=f"session {view.session} is taking"):
        join(site.coordinator, TENANT, "disk", C)
    with pytest.raises(ConflictError, match=f"session {view.session} is taking"):
        leave(site.coordinator, TENANT, "disk", A.node)
    assert read_session(site.coordinator, view.session).parts[0].followers


def test_what_cannot_be_is_refused(site: CatalogSite, shared: Volume) -> None:
    coordinator = site.coordinator
    with pytest.raises(BadInputError, match="2 to 8 different"):
        share(coordinator, TENANT, "other", None, [A, A])
    with pytest.raises(ConflictError, match="already protects node-b"):
        share(coordinator, TENANT, "disk", None, [A, B])
    with pytest.raises(ConflictError, match="already protects"):
        add_volume(coordinator, TENANT, "disk", None, B.node, B.path, driver="filter")
    with pytest.raises(ConflictError, match="protects node-a:/dev/shared already"):
        share(coordinator, TENANT, "other", None, [C, A])
    with pytest.raises(ConflictError, match="cannot move"):
        move(coordinator, TENANT, "disk", C.node, C.path, None)
    with pytest.raises(NotFoundError, match="does not write it"):
        leave(coordinator, TENANT, "disk", C.node)
    with pytest.raises(NotFoundError, match="no agent has announced itself"):
        join(coordinator, TENANT, "disk", Place("nowhere", "/dev/shared"))
    add_volume(coordinator, TENANT, "plain", None, A.node, "/dev/plain")
    with pytest.raises(BadInputError, match="driver scan"):
        join(coordinator, TENANT, "plain", C)


def test_its_nodes_go_with_a_volume_that_is_regrouped_or_taken_back(
    site: CatalogSite, shared: Volume
) -> None:
    regrouped = regroup(site.coordinator, TENANT, "disk", "db", "ops", may_shorten=True)
    assert places_of(regrouped.volume) == [B, A]
    remove(site.coordinator, TENANT, "disk", "ops")
    with pytest.raises(ConflictError, match="other nodes write it"):
        add_volume(site.coordinator, TENANT, "disk", None, B.node, B.path, driver="filter")
    assert places_of(share(site.coordinator, TENANT, "disk", None, [B, C])) == [B, C]
