"""A coordinator and agents that speak HTTP, for who may be which node.

Coordinator and agents are real and speak HTTP; what they know is in a real catalog.
"""

import json
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from uuid import UUID, uuid4

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
from tests.support.roots import EVERYTHING

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
        agent_routes.add_routes(app, None, about, EVERYTHING)  # type: ignore[arg-type]  # no captures
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
