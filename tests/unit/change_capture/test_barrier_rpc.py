"""The barrier and the report over real HTTP, as coordinator and agent call each other."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.local.process import wait_until
from libs.catalogdb.sessions.session import PartView
from libs.errors import ConflictError, NotFoundError, SourceError, UnavailableError
from libs.keys.nodes import NodeKey
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.reporting import Reporter
from services.change_capture.agent.routes import add_routes
from services.change_capture.agent.window import Window
from services.change_capture.coordinator.agents import AgentAddress, Agents
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from services.change_capture.drivers.table import drivers
from services.change_capture.enrolment import accepted
from services.change_capture.rpc import EndedCapture, NodeAbout, NodeReport, ReportAnswer
from tests.support.conducting import node_barriers
from tests.support.roots import EVERYTHING, TENANT
from tests.unit.change_capture.capturing import Model, Volume, order_for

SESSION, VOLUME = UUID(int=1), UUID(int=2)
SETTINGS = ServiceSettings()


class Site:
    """An agent with one volume, and what a coordinator reaches it by."""

    def __init__(self, folder: Path) -> None:
        self.volume = Volume(folder / "volume", random.Random(3))
        self.volume.write(0, 3)
        window = Window(4)
        self.captures = AgentCaptures(
            uuid4(),
            "node-1",
            drivers(folder / "state", EVERYTHING),
            node_barriers(folder / "state"),
            window,
            Model(window, {}),
            1,
            60.0,
        )
        key = NodeKey("k" * 64)
        self.credential = key.credential("node-1", uuid4())
        self.app = create_app(
            "Agent", SETTINGS, Health(), new_registry(), accepted(self.credential)
        )
        self.agents = Agents(key, AgentNetworks(["127.0.0.0/8"]).admit)
        self.url = ""
        #: What the coordinator answers to a report, and the reports that it got.
        self.ended: list[EndedCapture] = []
        self.reports: list[NodeReport] = []

    def source(self, freeze: str | None = None) -> dict[str, Any]:
        path = str(self.volume.path)
        return {"volume": str(VOLUME), "path": path, "freeze": freeze, "driver": "scan"}

    def part(self) -> PartView:
        return PartView(
            volume_no=1,
            volume=VOLUME,
            volume_name="vm",
            path=str(self.volume.path),
            freeze=None,
            driver="scan",
            capture=uuid4(),
            token=b"t" * 32,
            node="node-1",
            credential=self.credential.credential,
            rpc_url=self.url,
            span_address="",
            boot=None,
            finished=False,
            attempt_number=0,
            base_root=None,
            base_level=0,
            base_size_bytes=0,
            root=None,
            root_level=0,
            size_bytes=0,
            read_bytes=0,
            changed_bytes=0,
            sent_bytes=0,
            stored_bytes=0,
            consistency="fuzzy",
            tracking="",
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    about = NodeAbout(name="node-1", boot=made.captures.boot, span_address="", roots=[])
    add_routes(made.app, made.captures, about, EVERYTHING)

    @made.app.post("/v1/nodes/node-1/report")
    def report(report: NodeReport) -> ReportAnswer:
        made.reports.append(report)
        return ReportAnswer(ended=made.ended)

    with serving(made.app, SETTINGS) as url:
        made.url = url
        yield made
    made.captures.stop_all()


def test_a_node_goes_through_its_barrier_and_captures_what_it_cut(site: Site) -> None:
    agents, address = site.agents, AgentAddress.of(site.part())
    assert agents.prepare(address, SESSION, 1, TENANT, [site.source()], 10).means == "none"
    held = agents.hold(address, SESSION, 1).held_at
    cut = agents.cut(address, SESSION, 1).cut_at
    released = agents.release(address, SESSION, 1, abandoned=False)
    assert released.unbroken
    assert held is not None
    assert cut is not None
    assert released.released_at is not None
    assert held <= cut <= released.released_at
    order = replace(order_for(site.volume.path, VOLUME, None), session=SESSION, cut_attempt=1)
    capture = site.captures.begin(order)
    assert wait_until(lambda: capture.state == "complete", 10)
    with pytest.raises(SourceError, match="is gone"):  # its view has been taken
        site.captures.begin(replace(order, capture=uuid4()))


def test_refusals_reach_the_coordinator_as_what_they_are(site: Site) -> None:
    agents, address = site.agents, AgentAddress.of(site.part())
    with pytest.raises(NotFoundError, match="restarted"):
        agents.hold(address, SESSION, 1)
    agents.prepare(address, SESSION, 2, TENANT, [site.source()], 10)
    with pytest.raises(ConflictError, match="attempt 2 has begun"):
        agents.hold(address, SESSION, 1)
    with pytest.raises(SourceError, match="/nowhere"):
        agents.prepare(address, UUID(int=9), 1, TENANT, [site.source("/nowhere")], 10)


@pytest.mark.parametrize("moment", [-1.0, 253_402_300_800.0, 1e300])
def test_a_moment_that_no_date_has_is_no_answer(site: Site, tmp_path: Path, moment: float) -> None:
    """The coordinator makes dates of what nodes say, and goes on without a node that says this."""
    site.captures.barriers = node_barriers(tmp_path, clock=lambda: moment)
    agents, address = site.agents, AgentAddress.of(site.part())
    agents.prepare(address, SESSION, 1, TENANT, [site.source()], 10)
    with pytest.raises(UnavailableError, match="no BarrierStatus"):
        agents.hold(address, SESSION, 1)
    site.captures.barriers.close()


def test_a_report_tells_all_captures_and_settles_those_that_ended(site: Site) -> None:
    reporter = Reporter(site.captures, RestClient(site.url, site.credential.order_token), "node-1")
    reporter.report()
    assert site.reports == []  # there is nothing to tell
    order = order_for(site.volume.path, VOLUME, None)
    capture = site.captures.begin(order)
    assert wait_until(lambda: capture.state == "complete", 10)
    reporter.report()
    (status,) = site.reports[-1].captures
    assert (status.session, status.capture) == (order.session, order.capture)
    assert (status.state, status.boot) == ("complete", site.captures.boot)
    site.ended = [EndedCapture(capture=order.capture, sealed=True, distrusted=False)]
    reporter.report()
    assert site.captures.find(order.capture) is None
