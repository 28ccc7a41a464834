"""`python -m services.change_capture.agent`: the agent of one node."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import contextlib
import os
import sys
from collections.abc import Callable
from ssl import TLSVersion

from libs.ids import check_name, uuid7
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.loops import Loop, Round, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.runtime.threads import start_thread
from libs.version import VERSION
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.publishing import EventSender
from services.change_capture.agent.reporting import Reporter
from services.change_capture.agent.routes import add_routes
from services.change_capture.agent.settings import Settings
from services.change_capture.agent.spans.server import SpanServer
from services.change_capture.agent.vms import DISCOVER_SECONDS, VmWatch
from services.change_capture.agent.window import Window
from services.change_capture.barrier.barrier import Barriers
from services.change_capture.barrier.hold import thaw_leftovers
from services.change_capture.drivers.table import drivers
from services.change_capture.enrolment import accepted, credential_of
from services.change_capture.rpc import NodeAbout, NodeAnnouncement


def main(settings: Settings, stop: Stop) -> None:
    """Wire the agent and run it until it is asked to stop."""
    roots, tls = settings.opened_roots(), settings.server_tls(TLSVersion.TLSv1_3)
    holds_folder = settings.state_folder / "holds"
    thaw_leftovers(holds_folder)  # of a process before this one that was killed with its freezer
    credential = credential_of(settings, stop)
    if credential is None:
        return
    boot = uuid7()
    health, registry = Health(stop), new_registry()
    window = Window(settings.window_span_count_max)
    start_thread("preallocate", window.preallocate, daemon=True)
    sender = EventSender(settings.kafka, check_name("node", settings.node))
    known = drivers(settings.state_folder, roots, settings.filters_folder)
    barriers = Barriers(known, roots, holds_folder, settings.outcome_timeout_seconds)
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
    app = create_app("Backcast agent", settings, health, registry, accepted(credential))
    with (
        contextlib.closing(sender),
        contextlib.closing(SpanServer(settings.span_listen, window, captures.find, tls)) as spans,
    ):
        about = NodeAbout(
            name=settings.node,
            boot=boot,
            span_address=settings.span_advertised or spans.address,
            roots=list(settings.roots),
        )
        add_routes(app, captures, about, roots)
        with serving(app, settings) as url:
            announcement = NodeAnnouncement(
                rpc_url=settings.advertised_url or url,
                span_address=about.span_address,
                boot=boot,
                version=VERSION,
            )
            coordinator = RestClient(
                settings.coordinator_url, credential.announce_token, settings.ca_file
            )
            vms = VmWatch(roots)
            _run(settings, stop, health, captures, coordinator, announcement, vms)


def _run(  # noqa: PLR0913 -- the agent's surroundings
    settings: Settings,
    stop: Stop,
    health: Health,
    captures: AgentCaptures,
    coordinator: RestClient,
    announcement: NodeAnnouncement,
    vms: VmWatch,
) -> None:
    """Announce the agent, and report its captures, until it is asked to stop."""
    reporter = Reporter(captures, coordinator, settings.node)
    announce_seconds = settings.announce_interval_seconds
    loops = [
        Loop(
            "announce",
            _announcing(coordinator, settings, announcement, health, vms),
            announce_seconds,
            again_seconds=min(1.0, announce_seconds),
        ),
        Loop(
            "report",
            lambda _stop, _progressed: reporter.report(),
            settings.report_interval_seconds,
        ),
        Loop("discover", lambda _stop, _progressed: vms.look(), DISCOVER_SECONDS),
        Loop("let go", lambda _stop, _progressed: captures.drop_forgotten(), announce_seconds),
    ]
    threads = start_loops(loops, health, stop)
    stop.wait()
    captures.stop_all()
    for thread in threads:
        thread.join()


def _announcing(
    coordinator: RestClient,
    settings: Settings,
    announcement: NodeAnnouncement,
    health: Health,
    vms: VmWatch,
) -> Round:
    """Tells the coordinator where we are, again and again; ready once it has heard us."""
    body = announcement.model_dump(mode="json")

    def announce(_stop: Stop, _progressed: Callable[[], None]) -> None:
        disk = os.statvfs(settings.state_folder)
        room = {
            "state_free_bytes": disk.f_bavail * disk.f_frsize,
            "state_size_bytes": disk.f_blocks * disk.f_frsize,
        }
        with vms.told() as found:
            whole = {**body, **room, "vms": found}
            coordinator.post(f"/v1/nodes/{settings.node}/announcement", whole)
        health.started()

    return announce


if __name__ == "__main__":
    sys.exit(run_service("agent", Settings, main))
