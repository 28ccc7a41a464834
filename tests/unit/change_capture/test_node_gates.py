"""A node's barrier takes the gates of all its volumes through each step, whoever holds them."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.errors import BadInputError, SourceError
from services.change_capture.barrier.barrier import Barriers, Member
from services.change_capture.drivers.port import FrozenView, Gate, GateOrder
from tests.support.memory_driver import MemoryDriver, MemoryGate, MemoryVolume
from tests.support.roots import EVERYTHING, TENANT

SESSION = uuid4()
VOLUMES = (UUID(int=1), UUID(int=2))
PATHS = (Path("/one"), Path("/two"))


class BrittleGate(MemoryGate):
    """Its hold ends by itself as soon as the view has begun."""

    def cut(self) -> FrozenView:
        view = super().cut()
        self.close()
        return view


class BrittleDriver(MemoryDriver):
    """Volumes whose holds never last."""

    def gate(self, order: GateOrder) -> Gate:
        super().gate(order)
        return BrittleGate(self.volumes[order.path])


class Node:
    """Two volumes in memory, the first with a driver of its own."""

    def __init__(
        self, folder: Path, first: MemoryDriver, clock: Callable[[], float] = time.time
    ) -> None:
        second = MemoryDriver()
        self.volumes = [MemoryVolume(bytearray(100)), MemoryVolume(bytearray(100))]
        for driver in (first, second):
            driver.volumes.update(zip(PATHS, self.volumes, strict=True))
        known = {"first": first, "second": second}
        self.barriers = Barriers(known, EVERYTHING, folder, 60, clock)
        self.members = [
            Member(volume, path, None, driver)
            for volume, path, driver in zip(VOLUMES, PATHS, ("first", "second"), strict=True)
        ]

    def cut(self) -> bool:
        """Take the barrier; whether its hold was unbroken."""
        self.barriers.prepare(SESSION, 1, TENANT, self.members, 60)
        self.barriers.hold(SESSION, 1)
        self.barriers.cut(SESSION, 1)
        return self.barriers.release(SESSION, 1, abandoned=False).unbroken

    @property
    def held(self) -> list[bool]:
        return [volume.waiting is not None for volume in self.volumes]


def test_every_volume_is_held_until_the_release_and_cut_in_between(tmp_path: Path) -> None:
    node = Node(tmp_path, MemoryDriver())
    prepared = node.barriers.prepare(SESSION, 1, TENANT, node.members, 60)
    assert (prepared.means, node.held) == ("fsfreeze", [False, False])
    node.barriers.hold(SESSION, 1)
    assert node.held == [True, True]
    for volume in node.volumes:
        volume.write(0, b"late")
    node.barriers.cut(SESSION, 1)
    assert node.barriers.release(SESSION, 1, abandoned=False).unbroken
    assert node.held == [False, False]
    for volume, content in zip(VOLUMES, node.volumes, strict=True):
        buffer = memoryview(bytearray(100))
        node.barriers.take_view(SESSION, 1, volume).read_into(0, buffer)
        assert bytes(buffer[:4]) == bytes(4)
        assert content.content[:4] == b"late"


def test_one_broken_gate_makes_the_whole_hold_broken_and_the_others_are_released(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path, BrittleDriver())
    assert not node.cut()
    assert node.held == [False, False]
    with pytest.raises(SourceError, match="the frozen view of its cut is gone"):
        node.barriers.take_view(SESSION, 1, VOLUMES[1])


def test_a_clock_that_jumps_breaks_no_hold_and_mends_none(tmp_path: Path) -> None:
    """Days pass on it, or it goes back, while writes are held: only the monotonic clock counts."""
    for times in ((1e9, 3e9, 5e9), (5e9, 3e9, 1.0)):
        looks = iter(times)
        node = Node(tmp_path, MemoryDriver(), clock=looks.__next__)
        assert node.cut()
        status = node.barriers.release(SESSION, 1, abandoned=False)
        assert (status.held_at, status.cut_at, status.released_at) == times
        broken = Node(tmp_path, BrittleDriver(), clock=iter(times).__next__)
        assert not broken.cut()


def test_a_newer_attempt_and_an_ended_session_let_go_of_every_gate(tmp_path: Path) -> None:
    node = Node(tmp_path, MemoryDriver())
    for attempt in (1, 2):
        node.barriers.prepare(SESSION, attempt, TENANT, node.members, 60)
        assert node.held == [False, False]
        node.barriers.hold(SESSION, attempt)
    node.barriers.cut(SESSION, 2)
    node.barriers.forget(SESSION)
    assert node.held == [False, False]


def test_what_cannot_be_opened_leaves_nothing_held(tmp_path: Path) -> None:
    node = Node(tmp_path, MemoryDriver())
    missing = [*node.members, Member(uuid4(), Path("/gone"), None, "second")]
    with pytest.raises(SourceError, match="there is none"):
        node.barriers.prepare(SESSION, 1, TENANT, missing, 60)
    with pytest.raises(BadInputError, match="this agent has first, second"):
        node.barriers.prepare(SESSION, 2, TENANT, [Member(uuid4(), PATHS[0], None, "x")], 60)
    assert node.held == [False, False]
    assert Node(tmp_path, MemoryDriver()).cut()
