"""`python -m services.change_capture.coordinator`: sessions, from a request to its outcome."""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from libs.access.catalog_access import CatalogAccess
from libs.catalogdb.access.groups import group_of_session
from libs.catalogdb.listening import Listener
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import list_nodes
from libs.catalogdb.sessions.session import SESSION_CHANNEL
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.rest.server import serving
from libs.runtime.health import Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import open_store
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.barriers import Barriers
from services.change_capture.coordinator.conductor import Conductor
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
        agents = Agents(
            settings.agent_token.reveal(),
            settings.ca_file,
            settings.agent_tls_name,
            settings.may_speak_plainly,
        )
        orders = ThreadPoolExecutor(_ORDER_THREAD_COUNT, "order")
        sessions = ThreadPoolExecutor(_SESSION_THREAD_COUNT, "session")
        barriers = Barriers(
            catalog,
            agents,
            orders,
            settings.hold_seconds_max,
            settings.barrier_seconds_max,
            settings.session_deadline_seconds,
        )
        conductor = Conductor(
            catalog, vault, agents, barriers, sessions, orders, settings.session_deadline_seconds
        )
        access = CatalogAccess(catalog, "coordinator", settings.tokens, group_of_session)
        app = access.create_app(settings, health, registry)
        add_routes(app, catalog, vault, agents, conductor)
        health.depend_on("catalog", lambda: list_nodes(catalog))
        news = conductor.news
        listener = Listener(
            catalog, SESSION_CHANNEL, lambda text: news.tell(UUID(text)), news.tell_all
        )
        stop.call(news.bells.close)
        loops = [
            listener.loop(),
            access.loop(),
            # A round waits by itself, until a session changes.
            Loop(
                "watch",
                lambda _stop, _progressed: conductor.watch(settings.watch_interval_seconds),
                interval_seconds=0,
                again_seconds=1,
                patience_seconds=settings.session_deadline_seconds,
            ),
        ]
        with contextlib.closing(access), serving(app, settings):
            threads = start_loops(loops, health, stop)
            health.started()
            stop.wait()
        for thread in threads:
            thread.join()
        sessions.shutdown(wait=False, cancel_futures=True)
        orders.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    sys.exit(run_service("coordinator", Settings, main))
