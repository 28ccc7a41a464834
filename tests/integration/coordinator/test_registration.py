"""Who may be which node, tried as somebody with a stolen credential or a captured invitation.

Coordinator and agents are real and speak HTTP; what they know is in a real catalog.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from uuid import UUID, uuid4

import pytest
from fastapi.routing import APIRoute

from libs.catalogdb.protected import add_volume, find_node
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.errors import (
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    SourceError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.ids import uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeCredential, NodeKey
from libs.keys.vault import KeyVault
from libs.rest.auth import Tokens, digest_of
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.store.memory import MemoryStore
from services.change_capture.agent import routes as agent_routes
from services.change_capture.coordinator import routes
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.nodes import routes as node_routes
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from services.change_capture.coordinator.nodes.registration import Registration
from services.change_capture.coordinator.nodes.tokens import NodeTokens
from services.change_capture.coordinator.tenants import ensure_tenant
from services.change_capture.enrolment import accepted
from services.change_capture.rpc import NodeAbout
from tests.support.catalog import TENANT, CatalogSite
from tests.support.conducting import conductor_of

SETTINGS = ServiceSettings()
ADMIN = "an-administrators-token"
LOOPBACK = AgentNetworks(["127.0.0.0/8"])


class Agent:
    """An agent process that answers; ``announcement`` is what it says of itself."""

    def __init__(self, stack: ExitStack, credential: NodeCredential, boot: UUID) -> None:
        self.credential = credential
        spans = f"127.0.0.1:{1000 + boot.int % 50_000}"
        about = NodeAbout(
            name=credential.node, boot=boot, span_address=spans, roots=["acme=/srv/acme"]
        )
        app = create_app("agent", SETTINGS, Health(), new_registry(), accepted(credential))
        agent_routes.add_routes(app, None, about)  # type: ignore[arg-type]  # captures are not asked for
        self._running: AbstractContextManager[str] = serving(app, SETTINGS)
        self.url = stack.enter_context(self._running)
        self.announcement = {
            "rpc_url": self.url,
            "span_address": spans,
            "boot": str(boot),
            "version": "0.1.0",
        }

    def end(self) -> None:
        """It answers no more."""
        self._running.__exit__(None, None, None)


class Site:
    """A coordinator with both of its listeners."""

    def __init__(self, site: CatalogSite, threads: Executor, stack: ExitStack) -> None:
        self.site, self.stack = site, stack
        self.key = NodeKey("k" * 64)
        self.agents = Agents(self.key, LOOPBACK.admit)
        self.vault = KeyVault(MemoryStore(), KeyEncryptionKey.generate())
        self.conductor = conductor_of(site.coordinator, self.vault, self.agents, threads)
        entry = {"sha256": digest_of(ADMIN), "tenant": "*", "role": "admin", "restore": True}
        self.app = create_app(
            "people", SETTINGS, Health(), new_registry(), Tokens(json.dumps([entry]))
        )
        routes.add_routes(
            self.app, site.coordinator, self.vault, self.agents, self.conductor, self.key
        )
        self.for_agents = create_app(
            "agents", SETTINGS, Health(), new_registry(), NodeTokens(self.key)
        )
        registration = Registration(site.coordinator, self.agents, self.key, LOOPBACK)
        node_routes.add_routes(self.for_agents, registration, self.conductor)
        self.url = stack.enter_context(serving(self.app, SETTINGS))
        self.agents_url = stack.enter_context(serving(self.for_agents, SETTINGS))
        self.admin = RestClient(self.url, ADMIN)
        ensure_tenant(site.coordinator, self.vault, TENANT)

    def agent(self, node: str, credential: UUID | None = None) -> Agent:
        """A process of an agent; without an id, with a credential that nobody has claimed."""
        return Agent(self.stack, self.key.credential(node, credential or uuid4()), uuid4())

    def again(self, agent: Agent) -> Agent:
        """Another process with the same credential, elsewhere."""
        return Agent(self.stack, agent.credential, uuid4())

    def announce(self, agent: Agent, node: str | None = None, **other: str) -> None:
        """What ``agent`` announces, or somebody with its token does."""
        caller = RestClient(self.agents_url, agent.credential.announce_token)
        path = f"/v1/nodes/{node or agent.credential.node}/announcement"
        caller.post(path, agent.announcement | other)

    def invite(self, node: str | None = None, **more: object) -> str:
        made = self.admin.post("/v1/invitations", {"node": node, **more})
        return str(made["invitation"])

    def enrol(self, invitation: str, node: str, credential: UUID) -> NodeCredential:
        body = {"node": node, "credential": str(credential)}
        answer = RestClient(self.agents_url, invitation).post("/v1/enrolments", body)
        return NodeCredential.parse(answer["credential"])

    def shown(self, node: str) -> dict[str, object]:
        found: dict[str, object] = self.admin.get(f"/v1/nodes/{node}")
        return found


@pytest.fixture
def coordinator(site: CatalogSite, threads: Executor) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(site, threads, stack)


def test_an_agent_that_announces_itself_is_heard(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    coordinator.announce(agent)
    shown = coordinator.shown("node-a")
    assert (shown["state"], shown["rpc_url"], shown["version"]) == ("heard", agent.url, "0.1.0")
    assert shown["roots"] == ["acme=/srv/acme"]
    assert [one["name"] for one in coordinator.admin.get("/v1/nodes")] == ["node-a"]


def test_a_stolen_credential_announces_no_other_node(coordinator: Site) -> None:
    thief, victim = coordinator.agent("node-a"), coordinator.agent("node-b")
    coordinator.announce(victim)
    with pytest.raises(ForbiddenError, match="not good for node node-b"):
        coordinator.announce(thief, node="node-b")
    with pytest.raises(ForbiddenError, match="not good for node node-c"):
        coordinator.announce(thief, node="node-c")
    assert coordinator.shown("node-b")["rpc_url"] == victim.url


def test_a_credential_of_a_node_is_good_for_nothing_that_people_do(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    values = {"tenant": TENANT, "node": "node-a", "session": str(uuid4())}
    for token in (agent.credential.announce_token, agent.credential.order_token):
        thief = RestClient(coordinator.url, token)
        tried = 0
        for route in coordinator.app.routes:
            if isinstance(route, APIRoute) and route.path.startswith("/v1"):
                tried += 1
                path = route.path.format(**values)
                with pytest.raises(UnauthenticatedError):
                    _ = thief.get(path) if "GET" in route.methods else thief.post(path, {})
        assert tried > 6


def test_a_token_of_a_person_is_good_for_nothing_that_agents_do(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    person = RestClient(coordinator.agents_url, ADMIN)
    for path, body in (
        ("/v1/nodes/node-a/announcement", agent.announcement),
        ("/v1/nodes/node-a/report", {"boot": str(uuid4()), "captures": []}),
        ("/v1/enrolments", {"node": "node-a", "credential": str(uuid4())}),
    ):
        with pytest.raises(UnauthenticatedError):
            person.post(path, body)


def test_what_the_coordinator_shows_to_one_node_is_refused_by_another(coordinator: Site) -> None:
    a, b = coordinator.agent("node-a"), coordinator.agent("node-b")
    assert RestClient(a.url, a.credential.order_token).get("/v1/node")["name"] == "node-a"
    for token in (a.credential.order_token, a.credential.announce_token, ADMIN):
        with pytest.raises(UnauthenticatedError):
            RestClient(b.url, token).get("/v1/node")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://169.254.169.254", "http://u:p@127.0.0.1", "http://127.0.0.1/x"],
)
def test_no_agent_is_at_such_an_address(coordinator: Site, url: str) -> None:
    agent = coordinator.agent("node-a")
    with pytest.raises(BadInputError, match="rpc_url"):
        coordinator.announce(agent, rpc_url=url)
    with pytest.raises(BadInputError, match="span_address"):
        coordinator.announce(agent, span_address="169.254.169.254:80")
    with pytest.raises(NotFoundError):
        coordinator.shown("node-a")


def test_an_address_at_which_another_agent_answers_is_not_recorded(coordinator: Site) -> None:
    agent, victim = coordinator.agent("node-a"), coordinator.agent("node-b")
    coordinator.announce(agent)
    other = coordinator.again(agent)
    agent.end()
    for wrong in (
        {"rpc_url": victim.url},
        {"rpc_url": coordinator.url},
        {"span_address": victim.announcement["span_address"]},
        {"boot": str(uuid4())},
    ):
        with pytest.raises(UnavailableError):
            coordinator.announce(other, **wrong)
    assert find_node(coordinator.site.coordinator, "node-a").rpc_url == agent.url


def test_a_node_is_not_moved_while_its_boot_answers(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    thief = coordinator.again(agent)
    with pytest.raises(ConflictError, match=f"boot {agent.announcement['boot']}"):
        coordinator.announce(thief)
    with pytest.raises(ConflictError, match="still answers"):  # nor under the boot that is known
        coordinator.announce(thief, boot=agent.announcement["boot"])
    assert coordinator.shown("node-a")["rpc_url"] == agent.url
    agent.end()
    coordinator.announce(thief)
    assert coordinator.shown("node-a")["rpc_url"] == thief.url


def test_an_invitation_is_good_once_and_for_its_node(coordinator: Site) -> None:
    invitation, first = coordinator.invite("node-a"), uuid4()
    with pytest.raises(ForbiddenError, match="another node"):
        coordinator.enrol(invitation, "node-b", uuid4())
    credential = coordinator.enrol(invitation, "node-a", first)
    assert coordinator.shown("node-a")["state"] == "expected"
    assert coordinator.enrol(invitation, "node-a", first) == credential  # the answer was lost
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.announce(coordinator.agent("node-a", first))
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-a", first)


def test_an_invitation_for_new_nodes_takes_over_none_that_was(coordinator: Site) -> None:
    old = coordinator.agent("node-a")
    coordinator.announce(old)
    invitation = coordinator.invite(count=2)
    with pytest.raises(ConflictError, match="still answers"):
        coordinator.enrol(invitation, "node-a", uuid4())
    old.end()
    with pytest.raises(ConflictError, match="is or was a node's"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.admin.post("/v1/nodes/node-a/forget")
    with pytest.raises(ConflictError, match="is or was a node's"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.enrol(invitation, "node-b", uuid4())  # refusals have spent nothing
    coordinator.enrol(invitation, "node-c", uuid4())
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-d", uuid4())


def test_a_newer_invitation_for_a_name_ends_the_older_one(coordinator: Site) -> None:
    older, newer = coordinator.invite("node-a"), coordinator.invite("node-a")
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(older, "node-a", uuid4())
    coordinator.enrol(newer, "node-a", uuid4())


def test_an_invitation_ends_with_its_time(coordinator: Site) -> None:
    invitation = coordinator.invite("node-a")
    coordinator.site.sql("UPDATE invitation SET expires_at = now()")
    with pytest.raises(ForbiddenError, match="its time is over"):
        coordinator.enrol(invitation, "node-a", uuid4())


def test_a_node_that_answers_gets_no_other_credential(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    captured = coordinator.invite("node-a")
    with pytest.raises(ConflictError, match="still answers"):
        coordinator.enrol(captured, "node-a", uuid4())
    coordinator.announce(agent)
    agent.end()
    fresh = coordinator.agent("node-a", coordinator.enrol(captured, "node-a", uuid4()).credential)
    coordinator.announce(fresh)
    with pytest.raises(UnauthenticatedError, match="another credential counts"):
        coordinator.announce(coordinator.again(agent))


def test_a_credential_that_only_the_key_made_is_claimed_once(coordinator: Site) -> None:
    coordinator.announce(coordinator.agent("node-a"))
    with pytest.raises(UnauthenticatedError, match="another credential counts"):
        coordinator.announce(coordinator.agent("node-a"))


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
    ended = coordinator.conductor.wait(view.session, 5)
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
