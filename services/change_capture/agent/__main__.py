"""`python -m services.change_capture.agent`: the agent of one node."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from ssl import TLSVersion

from libs.ids import check_name, uuid7
from libs.rest.auth import Tokens
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.loops import Loop, Round, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.runtime.threads import start_thread
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.publishing import EventSender
from services.change_capture.agent.reporting import Reporter
from services.change_capture.agent.routes import add_routes
from services.change_capture.agent.settings import Settings
from services.change_capture.agent.spans.server import SpanServer
from services.change_capture.agent.window import Window
from services.change_capture.barrier.barrier import Barriers
from services.change_capture.barrier.hold import thaw_leftovers
from services.change_capture.drivers.table import drivers


def main(settings: Settings, stop: Stop) -> None:
    """Wire the agent and run it until it is asked to stop."""
    roots, tls = settings.opened_roots(), settings.server_tls(TLSVersion.TLSv1_3)
    boot = uuid7()
    health, registry = Health(stop), new_registry()
    window = Window(settings.window_span_count_max)
    start_thread("preallocate", window.preallocate, daemon=True)
    sender = EventSender(settings.kafka, check_name("node", settings.node))
    holds_folder = settings.state_folder / "holds"
    thaw_leftovers(holds_folder)  # of a process before this one that was killed with its freezer
    known = drivers(settings.state_folder, roots)
    barriers = Barriers(roots, holds_folder, settings.outcome_timeout_seconds)
    captures = AgentCaptures(
        boot,
        settings.node,
        known,
        barriers,
        window,
        sender,
        settings.scan_thread_count,
        settings.outcome_timeout_seconds,
    )
    app = create_app("Backcast agent", settings, health, registry, Tokens(settings.tokens.reveal()))
    add_routes(app, captures)
    with (
        contextlib.closing(sender),
        contextlib.closing(SpanServer(settings.span_listen, window, captures.find, tls)) as spans,
        serving(app, settings) as url,
    ):
        announcement = {
            "name": settings.node,
            "rpc_url": settings.advertised_url or url,
            "span_address": settings.span_advertised or spans.address,
            "boot": str(boot),
        }
        coordinator = RestClient(
            settings.coordinator_url, settings.coordinator_token.reveal(), settings.ca_file
        )
        reporter = Reporter(captures, coordinator, settings.node)
        announce_seconds = settings.announce_interval_seconds
        loops = [
            Loop(
                "announce",
                _announcing(coordinator, announcement, settings.state_folder, health),
                announce_seconds,
                again_seconds=min(1.0, announce_seconds),
            ),
            Loop(
                "report",
                lambda _stop, _progressed: reporter.report(),
                settings.report_interval_seconds,
            ),
            Loop("let go", lambda _stop, _progressed: captures.drop_forgotten(), announce_seconds),
        ]
        threads = start_loops(loops, health, stop)
        stop.wait()
        captures.stop_all()
        for thread in threads:
            thread.join()


def _announcing(
    coordinator: RestClient, announcement: dict[str, str], state_folder: Path, health: Health
) -> Round:
    """Tells the coordinator where we are, again and again; ready once it has heard us."""

    def announce(_stop: Stop, _progressed: Callable[[], None]) -> None:
        disk = os.statvfs(state_folder)
        room = {
            "state_free_bytes": disk.f_bavail * disk.f_frsize,
            "state_size_bytes": disk.f_blocks * disk.f_frsize,
        }
        coordinator.post("/v1/nodes", {**announcement, **room})
        health.started()

    return announce


if __name__ == "__main__":
    sys.exit(run_service("agent", Settings, main))
