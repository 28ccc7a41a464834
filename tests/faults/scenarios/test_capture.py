"""Scenarios 3, 8, 9, 10, 11, 18, 20 and 21: captures, agents, block maps."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.process import wait_until
from libs.blockmap.tree import span_chunks
from libs.catalogdb.protected import create_tenant
from libs.catalogdb.sessions.attempts import WrongBoot, take_part
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import read_session, reject_session
from libs.errors import MalformedEventError, NotFoundError
from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureStarted, ExtentsChanged
from libs.events.codec import encode
from libs.events.mac import event_mac
from libs.ids import uuid7
from libs.kafka.consumer import Partition, ReceivedEvent
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.window import Window
from services.change_capture.drivers.table import drivers
from services.chunker.intake import Intake, _authenticate
from services.chunker.parts.positions import Positions
from tests.faults.crash_points.inline import InlineExecutor
from tests.golden.make_events import envelope_of
from tests.integration.catalog.protected import Protected
from tests.support.catalog import (
    SECONDS_MAX,
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
)
from tests.support.chunkers import wire_chunker
from tests.support.conducting import conductor_of, node_barriers
from tests.support.roots import EVERYTHING
from tests.support.snapshots import completed_of, started_of
from tests.unit.blockmap.map_history import Clear, History, Put, Snapshot
from tests.unit.change_capture.capturing import Model, Volume, order_for

VOLUME = UUID(int=1)


def test_scenario_03_equal_maps_of_two_volumes_share_no_node_unpinned(
    protected: Protected,
) -> None:
    """`b` finds the chunks in its own pack, and the node above them only in one of `a`'s.

    Then `a` goes, and what only it pinned.
    """
    protected.take("b", 3, 2, 1)
    protected.take("a", 1, 2, 3)
    protected.take("b", 1, 2, 3)
    protected.take("a", 9, 9, 9)
    assert protected.expire("a", 1)
    protected.collect()
    protected.check()
    protected.take("b", 4, 2, 3)
    protected.check()


class Node:
    """A node with one volume, and an agent whose state can be set back."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.image = folder / "older image"
        self.volume = Volume(folder / "volume", random.Random(3))
        self.volume.write(0, 64)
        self.start()

    def start(self) -> None:
        """An agent process with what its disk holds."""
        window = Window(64)
        self.events: list[Any] = []
        model = Model(window, {}, fault=self.events.append)
        self.agent = AgentCaptures(
            uuid4(),
            "node",
            drivers(self.state, EVERYTHING),
            node_barriers(self.state),
            window,
            model,
            1,
            60.0,
        )

    def capture(self, base: UUID | None, *, sealed: bool) -> tuple[CaptureOrder, list[Any]]:
        """The order, and the events of a capture whose session then ends."""
        seen = len(self.events)
        order = order_for(self.volume.path, VOLUME, base)
        running = self.agent.begin(order)
        assert wait_until(lambda: running.state == "complete", 10)
        self.agent.settle(order.capture, sealed=sealed)
        return order, self.events[seen:]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.agent.stop_all()


def changed(events: list[Any]) -> int:
    return sum(len(event.ids) // 32 for event in events if isinstance(event, ExtentsChanged))


def is_complete(events: list[Any]) -> bool:
    return any(isinstance(event, CaptureStarted) and event.complete for event in events)


def test_scenario_08_what_a_rejected_capture_saw_is_seen_again(node: Node) -> None:
    """A driver with a bitmap adds that the bitmap is OR-ed back; fingerprints just stay."""
    base, _ = node.capture(None, sealed=True)
    node.volume.write(5, 2)
    _, rejected = node.capture(base.session, sealed=False)
    _, again = node.capture(base.session, sealed=True)
    assert changed(rejected) == changed(again) > 0


def test_scenario_09_an_agent_from_an_older_image_compares_everything(node: Node) -> None:
    """Its fingerprints are of another base. A driver with a bitmap adds epoch and identity."""
    first, _ = node.capture(None, sealed=True)
    shutil.copytree(node.state, node.image)
    node.volume.write(5, 2)
    second, events = node.capture(first.session, sealed=True)
    assert not is_complete(events)
    node.agent.stop_all()
    shutil.rmtree(node.state)
    node.image.rename(node.state)
    node.volume.write(9, 1)
    node.start()
    _, events = node.capture(second.session, sealed=True)
    assert is_complete(events)
    assert changed(events) == len(node.volume.chunks())


def test_scenario_10_a_capture_is_of_one_agent_process(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    Worker(site, view)
    other = take_part(site.chunker, view.parts[0].capture, uuid4(), "chunker-2", 0, 9)
    assert isinstance(other, WrongBoot)


def test_scenario_10_a_capture_with_a_missing_batch_is_rejected(protected: Protected) -> None:
    """`CaptureCompleted` came over another partition, before the batches that it counts."""
    site = protected.site
    view = open_on(site, "a")
    worker, part = Worker(site, view), view.parts[0]
    started = started_of(view, part)
    attempts = wire_chunker(site.chunker, protected.vault, protected.store).attempts
    attempts.begin(worker.attempt, view, part, started, Partition("t", 0), 0)
    found = attempts.find(part.capture)
    assert found is not None
    digest = BatchesDigest()
    digest.add(b"a batch that never came")
    attempts.complete(found, completed_of(started, digest))
    attempts.close()
    assert read_session(site.chunker, view.session).reject_code == "batches-missing"


def test_scenario_11_exactly_one_of_two_chunkers_seals_a_group(site: CatalogSite) -> None:
    """Both finish their volume before either looks whether it was the last."""
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    workers = [Worker(site, view, number) for number in range(2)]
    with site.holding("SELECT FROM session FOR UPDATE"):
        finishing = [site.start(one.finish, {}) for one in workers]
        site.wait_until_waiting(2)
    assert sorted(one.result() is True for one in finishing) == [False, True]
    sealing = [site.start(one.seal) for one in workers]
    assert {one.result() for one in sealing} == {Sealed(view.session, 1)}
    assert site.sql("SELECT count(*) FROM snapshot") == [(1,)]


class NoAgents:
    """Nothing may be ordered."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"an agent was asked to {name}")


class Sealing:
    """The attempts of a chunker that works on none; notes what it is asked to seal."""

    def __init__(self) -> None:
        self.sealed: list[UUID] = []

    def find(self, _capture: UUID) -> None:
        return None

    def reserved(self, _session: UUID, _capture: UUID) -> None:
        return None

    def seal(self, session: UUID) -> None:
        self.sealed.append(session)


def test_scenario_11_a_part_finished_while_a_successor_takes_it_is_sealed_by_that_successor(
    site: CatalogSite,
) -> None:
    """Who finished it was killed before the seal; the successor's view of the part is older."""
    protect(site, "vm")
    view, attempts = open_on(site, "vm"), Sealing()
    event, part = started_of(view, view.parts[0]), view.parts[0]
    claims = replace(envelope_of(event), subject=str(part.volume), tenant=TENANT)
    received = _received(event, encode(event), part.token, claims)
    intake = Intake(site.chunker, attempts, Positions(), "successor", CollectorRegistry())  # type: ignore[arg-type]  # all that is asked
    with site.holding("SELECT FROM part WHERE capture = %s FOR UPDATE", part.capture) as finisher:
        taking = site.start(intake._begin, received, event)
        site.wait_until_waiting(1)
        finisher.execute("UPDATE part SET state = 'f' WHERE capture = %s", [part.capture])
    taking.result(SECONDS_MAX)
    assert attempts.sealed == [view.session]


def test_scenario_18_a_command_for_a_dead_session_freezes_nothing(
    protected: Protected, node: Node
) -> None:
    """The hold across several nodes has its tests in tests/integration/{barrier,coordinator}."""
    site, session = protected.site, uuid7()
    conductor = conductor_of(site.coordinator, protected.vault, NoAgents(), InlineExecutor())  # type: ignore[arg-type]  # never asked
    with pytest.raises(AssertionError, match="an agent was asked"):
        conductor.request(TENANT, "a", session, full=False)
    assert reject_session(site.coordinator, "coordinator", session, "cancelled", "by hand")
    again = conductor.request(TENANT, "a", session, full=False)
    assert getattr(again, "state", None) == "rejected"
    with pytest.raises(NotFoundError):
        node.agent.get(uuid4())


def test_scenario_20_a_volume_that_shrinks_and_grows_shows_no_old_data() -> None:
    leaf, history = span_chunks(0), History()
    history.play(Snapshot(10 * leaf, True, (Clear(0, 10 * leaf), Put(0, 3000, 1)), True))
    history.play(Snapshot(1000, False, (), False))
    history.play(Snapshot(10 * leaf, False, (), False))


def test_scenario_21_an_event_for_another_tenants_volume_is_refused(site: CatalogSite) -> None:
    protect(site, "vm")
    part = open_on(site, "vm").parts[0]
    event = started_of(open_on_view(site), part)
    value = encode(event)
    claims = replace(envelope_of(event), subject=str(part.volume), tenant=TENANT)
    _authenticate(_received(event, value, part.token, claims), TENANT, part)
    for forged, token in (
        (replace(claims, tenant="other"), part.token),
        (replace(claims, subject=str(uuid4())), part.token),
        (claims, bytes(32)),
    ):
        with pytest.raises(MalformedEventError):
            _authenticate(_received(event, value, token, forged), TENANT, part)


def open_on_view(site: CatalogSite) -> Any:
    ((session,),) = site.sql("SELECT session FROM session")
    return read_session(site.coordinator, session)


def _received(event: Any, value: bytes, token: bytes, claims: Any) -> ReceivedEvent:
    envelope = replace(claims, mac=event_mac(token, claims, value))
    return ReceivedEvent(Partition("t", 0), 0, envelope, event, value)


def test_scenario_21_what_another_domain_stores_is_unknown(site: CatalogSite) -> None:
    protect(site, "vm")
    Worker(site, open_on(site, "vm")).store(item(1))
    foreign = create_tenant(site.coordinator, "other", uuid4(), uuid4())
    protect(site, "theirs", tenant="other")
    assert foreign.domain_no != open_on_view(site).domain_no
    view = open_on_view(site)
    view = replace(view, domains=(replace(view.domains[0], domain_no=foreign.domain_no),))
    assert Worker(site, view).look_up(item(1)) == [0]
