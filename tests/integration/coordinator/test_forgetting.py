"""What becomes of nodes that are forgotten, and of what is not their own.

Coordinator and agents are real and speak HTTP; what they know is in a real catalog.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.protected import add_volume, find_node
from libs.catalogdb.recovery.applying import apply_row, apply_rows
from libs.catalogdb.sessions.session import SessionView, open_session, read_session
from libs.checkpoints.rows import NodeRow
from libs.errors import (
    ForbiddenError,
    NotFoundError,
    NotReconciledError,
    SourceError,
    UnauthenticatedError,
)
from libs.ids import uuid7
from libs.rest.auth import Tokens, digest_of
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.change_capture.coordinator import routes
from tests.integration.coordinator.registering import SETTINGS, Site
from tests.support.catalog import TENANT, CatalogSite


@contextmanager
def unreconciled(site: CatalogSite) -> Iterator[None]:
    """The catalog has gone back, and nobody has compared it with the store yet."""
    site.sql("UPDATE incarnation SET reconciled = false")
    yield
    site.sql("UPDATE incarnation SET reconciled = true")


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_what_a_checkpoint_says_of_a_credential_counts(
    coordinator: Site, is_forgotten: bool
) -> None:
    site, agent = coordinator.site, coordinator.agent("node-a")
    with unreconciled(site):
        coordinator.announce(agent)
        with pytest.raises(NotReconciledError):
            coordinator.admin.post("/v1/nodes/node-a/forget")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    row = NodeRow(
        name="node-a",
        rpc_url="http://10.1.2.3:8080",
        span_address="10.1.2.3:8081",
        boot=uuid4(),
        credential=None if is_forgotten else uuid4(),
        forgotten_at=yesterday if is_forgotten else None,
    )
    apply_rows(site.catalog, [row], yesterday)
    with pytest.raises(UnauthenticatedError, match=r"forgotten|another credential counts"):
        coordinator.announce(agent)
    manifest = NodeRow(name="node-a", rpc_url="", span_address="", boot=UUID(int=0))
    with site.catalog.transaction() as tx:
        apply_row(tx, manifest, None)
    known = site.sql("SELECT credential, rpc_url FROM node")
    assert known == [(row.credential, "http://10.1.2.3:8080")]


def test_a_forgotten_node_is_refused_and_its_volumes_stay(coordinator: Site) -> None:
    agent, catalog = coordinator.agent("node-a"), coordinator.site.coordinator
    coordinator.announce(agent)
    add_volume(catalog, TENANT, "vm", "vm", "node-a", "/srv/acme/vm")
    forgotten = coordinator.admin.post("/v1/nodes/node-a/forget")
    assert [one["volume"] for one in forgotten["sources"]] == ["vm"]
    assert coordinator.shown("node-a")["state"] == "forgotten"
    for credential in (agent.credential.credential, uuid4()):
        with pytest.raises(UnauthenticatedError, match="it was forgotten"):
            coordinator.announce(coordinator.agent("node-a", credential))
    with pytest.raises(NotFoundError):
        find_node(catalog, "node-a")
    view = coordinator.conductor.request(TENANT, "vm", uuid7(), full=False)
    assert isinstance(view, SessionView)
    ended = read_session(catalog, view.session)
    assert (ended.state, ended.reject_code) == ("rejected", SourceError.code)
    assert "backcast node invite node-a" in str(ended.reject_message)
    made = coordinator.enrol(coordinator.invite("node-a"), "node-a", uuid4())
    coordinator.announce(coordinator.agent("node-a", made.credential))
    assert coordinator.shown("node-a")["state"] == "heard"


def test_a_node_speaks_of_its_own_captures_alone(coordinator: Site) -> None:
    owner, thief = coordinator.agent("node-a"), coordinator.agent("node-b")
    for one in (owner, thief):
        coordinator.announce(one)
    catalog = coordinator.site.coordinator
    add_volume(catalog, TENANT, "vm", "vm", "node-a", "/srv/acme/vm")
    site, view = coordinator.site, _opened(coordinator)
    capture = str(view.parts[0].capture)
    status = {
        "session": str(view.session),
        "capture": capture,
        "boot": owner.announcement["boot"],
        "state": "aborted",
        "read_bytes": 1,
        "code": "source",
        "message": "gone",
    }
    report = {"boot": owner.announcement["boot"], "captures": [status]}
    client = RestClient(coordinator.agents_url, thief.credential.announce_token)
    with pytest.raises(ForbiddenError):
        client.post("/v1/nodes/node-a/report", report)
    ended = client.post("/v1/nodes/node-b/report", report)["ended"]
    assert [(one["capture"], one["sealed"]) for one in ended] == [(capture, False)]
    assert site.sql("SELECT state FROM session") == [("o",)]
    own = RestClient(coordinator.agents_url, owner.credential.announce_token)
    own.post("/v1/nodes/node-a/report", report)
    assert site.sql("SELECT state FROM session") == [("r",)]


def test_only_administrators_of_all_tenants_invite_and_forget(coordinator: Site) -> None:
    def holder(tenant: str, role: str) -> RestClient:
        entry = {"sha256": digest_of("t"), "tenant": tenant, "role": role, "restore": False}
        app = create_app("people", SETTINGS, Health(), new_registry(), Tokens(json.dumps([entry])))
        routes.add_routes(
            app,
            coordinator.site.coordinator,
            coordinator.vault,
            coordinator.agents,
            coordinator.conductor,
            coordinator.key,
        )
        return RestClient(coordinator.stack.enter_context(serving(app, SETTINGS)), "t")

    operator, of_tenant = holder("*", "operator"), holder(TENANT, "admin")
    changes: list[Callable[[RestClient], object]] = [
        lambda client: client.post("/v1/invitations", {}),
        lambda client: client.post("/v1/nodes/node-a/forget"),
    ]
    for change in changes:
        for client in (operator, of_tenant):
            with pytest.raises(ForbiddenError):
                change(client)
    assert operator.get("/v1/nodes") == []
    with pytest.raises(ForbiddenError):
        of_tenant.get("/v1/nodes")


def _opened(coordinator: Site) -> SessionView:
    """A session whose capture nobody has begun."""
    view = open_session(coordinator.site.coordinator, TENANT, "vm", uuid7(), 60)
    assert isinstance(view, SessionView)
    return view
