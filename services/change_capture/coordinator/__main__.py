"""`python -m services.change_capture.coordinator`: sessions, from a request to its outcome."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import contextlib
import dataclasses
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from uuid import UUID

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from libs.access.catalog_access import CatalogAccess
from libs.catalogdb.access.groups import group_of_session
from libs.catalogdb.listening import Listener
from libs.catalogdb.pool import Catalog, ask_postgres
from libs.catalogdb.sessions.session import SESSION_CHANNEL
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeKey
from libs.keys.vault import KeyVault
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import bucket_probe, open_store
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.barriers import Barriers
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.coordinator.nodes import routes as node_routes
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from services.change_capture.coordinator.nodes.registration import Registration
from services.change_capture.coordinator.nodes.tokens import NodeTokens
from services.change_capture.coordinator.routes import add_routes
from services.change_capture.coordinator.settings import Settings

#: Orders to agents that are under way at once, and sessions that wait for theirs. A thread that
#: waits costs little; what is more waits for a free one.
_ORDER_THREAD_COUNT = 64
_SESSION_THREAD_COUNT = 32


def main(settings: Settings, stop: Stop) -> None:
    """Wire the coordinator and run it until it is asked to stop."""
    health, registry = Health(stop), new_registry()
    catalog = Catalog(
        settings.postgres.dsn.reveal(), settings.postgres.pool_size_max, "coordinator"
    )
    catalog.open()
    with contextlib.closing(catalog):
        kek = KeyEncryptionKey.of(settings.kek, settings.previous_kek)
        vault = KeyVault(open_store(settings.s3), kek)
        vault.check()
        node_key = NodeKey(settings.node_key.reveal())
        networks = AgentNetworks(settings.agent_networks)
        agents = _agents(settings, node_key, networks)
        orders = ThreadPoolExecutor(_ORDER_THREAD_COUNT, "order")
        sessions = ThreadPoolExecutor(_SESSION_THREAD_COUNT, "session")
        barriers = _barriers(settings, catalog, agents, orders)
        conductor = Conductor(
            catalog, vault, agents, barriers, sessions, orders, settings.session_deadline_seconds
        )
        access = CatalogAccess(catalog, "coordinator", settings, registry, group_of_session)
        app = access.create_app(settings, health)
        add_routes(app, catalog, vault, agents, conductor, node_key)
        registration = Registration(catalog, agents, node_key, networks)
        agents_settings = _of_agents_listener(settings)
        agents_app = _agents_app(agents_settings, health, node_key, registration, conductor)
        health.depend_on("postgres", lambda: ask_postgres(catalog))
        health.depend_on("store primary", bucket_probe(settings.s3), is_needed=False)
        news = conductor.news
        listener = Listener(
            catalog, SESSION_CHANNEL, lambda text: news.tell(UUID(text)), news.tell_all
        )
        stop.call(news.bells.close)
        loops = [
            listener.loop(),
            *access.loops(),
            # A round waits by itself, until a session changes.
            Loop(
                "watch",
                lambda _stop, _progressed: conductor.watch(settings.watch_interval_seconds),
                interval_seconds=0,
                again_seconds=1,
                patience_seconds=settings.session_deadline_seconds,
            ),
        ]
        limits = _limits_of_each_listener()
        with (
            contextlib.closing(access),
            serving(app, settings, limits),
            serving(agents_app, agents_settings, limits),
        ):
            threads = start_loops(loops, health, stop)
            health.started()
            stop.wait()
        for thread in threads:
            thread.join()
        sessions.shutdown(wait=False, cancel_futures=True)
        orders.shutdown(wait=False, cancel_futures=True)


def _barriers(settings: Settings, catalog: Catalog, agents: Agents, orders: Executor) -> Barriers:
    """Cuts the volumes of sessions, in the times that are set."""
    return Barriers(
        catalog,
        agents,
        orders,
        settings.hold_seconds_max,
        settings.barrier_seconds_max,
        settings.session_deadline_seconds,
    )


def _agents(settings: Settings, node_key: NodeKey, networks: AgentNetworks) -> Agents:
    """Calls agents where they may be, by TLS as it is set."""
    return Agents(
        node_key,
        networks.admit,
        settings.ca_file,
        settings.agent_tls_name,
        settings.may_speak_plainly,
    )


def _agents_app(
    settings: Settings,
    health: Health,
    node_key: NodeKey,
    registration: Registration,
    conductor: Conductor,
) -> FastAPI:
    """What the listener for agents serves."""
    # Measured on its own: the registry of the other listener has metrics of these names already.
    registry = CollectorRegistry()
    title = "Backcast coordinator, for agents"
    app = create_app(title, settings, health, registry, NodeTokens(node_key))
    node_routes.add_routes(app, registration, conductor)
    return app


def _limits_of_each_listener() -> ServerLimits:
    """Half of the process's connections for each, so that both together fit into its memory."""
    limits = ServerLimits.of_this_process()
    return dataclasses.replace(
        limits, connection_count_max=max(1, limits.connection_count_max // 2)
    )


def _of_agents_listener(settings: Settings) -> Settings:
    """The listener for agents takes no hints, so its bodies are short."""
    return dataclasses.replace(
        settings,
        listen=settings.nodes_listen,
        request_body_size_bytes_max=ServiceSettings.request_body_size_bytes_max,
    )


if __name__ == "__main__":
    sys.exit(run_service("coordinator", Settings, main))
