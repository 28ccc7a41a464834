"""`python -m services.change_capture.agent`: the agent of one node."""

import contextlib
import logging
import sys
import threading

from libs.errors import BackcastError
from libs.ids import check_name, uuid7
from libs.rest.auth import Tokens
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.health import Health, Loop
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.publishing import EventSender
from services.change_capture.agent.routes import add_routes
from services.change_capture.agent.settings import Settings
from services.change_capture.agent.span_server import SpanServer
from services.change_capture.agent.window import Window
from services.change_capture.drivers.table import drivers

log = logging.getLogger("agent")


def main(settings: Settings, stop: Stop) -> None:
    """Wire the agent and run it until it is asked to stop."""
    boot = uuid7()
    health, registry = Health(), new_registry()
    window = Window(settings.window_span_count_max)
    threading.Thread(target=window.preallocate, name="preallocate", daemon=True).start()
    sender = EventSender(settings.kafka, check_name("node", settings.node))
    captures = AgentCaptures(
        boot,
        settings.node,
        drivers(settings.state_folder),
        window,
        sender,
        settings.scan_thread_count,
        settings.outcome_timeout_seconds,
    )
    app = create_app("Backcast agent", settings, health, registry, Tokens(settings.tokens.reveal()))
    add_routes(app, captures)
    with (
        contextlib.closing(sender),
        contextlib.closing(SpanServer(settings.span_listen, window, captures.find)) as spans,
        serving(app, settings) as url,
    ):
        announcement = {
            "name": settings.node,
            "rpc_url": settings.advertised_url or url,
            "span_address": settings.span_advertised or spans.address,
            "boot": str(boot),
        }
        _announce(settings, announcement, health, captures, stop)
        captures.stop_all()


def _announce(
    settings: Settings,
    announcement: dict[str, str],
    health: Health,
    captures: AgentCaptures,
    stop: Stop,
) -> None:
    """Tell the coordinator where we are, again and again; ready once it has heard us."""
    coordinator = RestClient(settings.coordinator_url, settings.coordinator_token.reveal())
    loop: Loop = health.loop("announce", 12 * settings.announce_interval_seconds)
    wait_seconds = 0.0
    while not stop.wait(wait_seconds):
        try:
            coordinator.post("/v1/nodes", announcement)
            health.started()
            loop.progressed()
            wait_seconds = settings.announce_interval_seconds
        except BackcastError as err:
            log.warning("not announced", extra={"detail": str(err)})
            wait_seconds = min(1.0, settings.announce_interval_seconds)
        captures.drop_forgotten()


if __name__ == "__main__":
    sys.exit(run_service("agent", Settings, main))
