"""All captures of an agent process: superseding, settling, and letting go."""

import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from deploy.local.process import wait_until
from libs.errors import NotFoundError, SourceError
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.window import Window
from services.change_capture.drivers.scan.fingerprints import fingerprint_path
from services.change_capture.drivers.table import drivers
from tests.support.conducting import node_barriers
from tests.support.roots import EVERYTHING
from tests.unit.change_capture.capturing import Model, Volume, order_for

VOLUME = UUID(int=1)


class Site:
    """An agent process with one volume."""

    def __init__(self, folder: Path, outcome_timeout_seconds: float = 60.0) -> None:
        self.folder = folder
        self.volume = Volume(folder / "volume", random.Random(3))
        self.volume.write(0, 3)
        self.window = Window(4)
        model = Model(self.window, {})
        self.captures = AgentCaptures(
            uuid4(),
            "node",
            drivers(folder / "state", EVERYTHING),
            node_barriers(folder / "state"),
            self.window,
            model,
            1,
            outcome_timeout_seconds,
        )

    def begin(self, base: UUID | None = None) -> CaptureOrder:
        """Order a capture, and wait until it has read everything."""
        order = order_for(self.volume.path, VOLUME, base)
        capture = self.captures.begin(order)
        assert wait_until(lambda: capture.state == "complete", 10)
        return order

    def fingerprints(self, *orders: CaptureOrder) -> list[bool]:
        """Whether the fingerprints of these sessions are there."""
        state = self.folder / "state"
        return [fingerprint_path(state, VOLUME, order.session).exists() for order in orders]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.captures.stop_all()


def test_the_same_order_twice_is_one_capture(site: Site) -> None:
    order = site.begin()
    assert site.captures.begin(order) is site.captures.get(order.capture)


def test_a_sealed_capture_leaves_its_fingerprints_only(site: Site) -> None:
    first = site.begin()
    site.captures.settle(first.capture, sealed=True)
    second = site.begin(first.session)
    assert site.fingerprints(first, second) == [True, True]
    site.captures.settle(second.capture, sealed=True)
    assert site.fingerprints(first, second) == [False, True]
    assert site.captures.find(second.capture) is None


def test_a_rejected_capture_leaves_those_of_its_base(site: Site) -> None:
    """Scenario 8: what changed since the base must be found again."""
    first = site.begin()
    site.captures.settle(first.capture, sealed=True)
    second = site.begin(first.session)
    site.captures.settle(second.capture, sealed=False)
    assert site.fingerprints(first, second) == [True, False]


def test_an_outcome_that_comes_late_spares_the_files_of_the_next_capture(site: Site) -> None:
    first = site.begin()
    settled = site.captures._captures[first.capture]
    second = site.begin(first.session)  # supersedes the first before its outcome is known
    site.captures._captures[first.capture] = settled  # as if that had come a moment earlier
    settled.stop = lambda: None  # type: ignore[method-assign]  # it is stopped
    site.captures.settle(first.capture, sealed=True)
    assert site.fingerprints(first, second) == [True, True]
    site.captures.settle(second.capture, sealed=True)
    assert site.fingerprints(first, second) == [False, True]


def test_a_new_session_supersedes_the_volumes_capture(site: Site) -> None:
    first = site.begin()
    site.begin()
    with pytest.raises(NotFoundError, match="restarted"):
        site.captures.get(first.capture)


def test_settling_twice_or_the_unknown_is_harmless(site: Site) -> None:
    order = site.begin()
    for _ in range(2):
        site.captures.settle(order.capture, sealed=True)
    site.captures.settle(uuid4(), sealed=False)


def test_a_volume_that_cannot_be_opened_leaves_no_capture(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing there for tenant"):
        site.captures.begin(order_for(tmp_path / "nothing", VOLUME, None))
    assert not site.captures.all()


def test_captures_that_nobody_asks_for_are_let_go_even_while_they_wait(tmp_path: Path) -> None:
    """Or one whose session ended while the coordinator was down would fill the window for ever."""
    site = Site(tmp_path, outcome_timeout_seconds=0.0)
    buffers = [site.window.take_buffer(VOLUME) for _ in range(4)]
    order = order_for(site.volume.path, VOLUME, None)
    capture = site.captures.begin(order)
    assert capture.state == "reading"
    site.captures.drop_forgotten()
    assert site.captures.find(order.capture) is None
    for buffer in buffers:
        site.window.give_back(buffer)
    assert site.window.free_count == 4


def test_captures_that_are_asked_for_stay(site: Site) -> None:
    order = site.begin()
    site.captures.drop_forgotten()
    assert site.captures.find(order.capture) is not None


def test_a_capture_that_cannot_begin_leaves_the_one_before_to_be_stopped(site: Site) -> None:
    """It holds buffers of the window: forgotten, it would hold them for ever."""
    first = site.begin()
    missing = order_for(site.folder / "missing", VOLUME, None)
    with pytest.raises(SourceError):
        site.captures.begin(missing)
    site.captures.settle(first.capture, sealed=False)
    assert site.window.free_count == 4
