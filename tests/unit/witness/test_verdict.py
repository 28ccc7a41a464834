"""Snapshots of one instant hold; any other one is told, by what stands in it alone."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.witness.records import Layout
from deploy.witness.verdict import Verdict, judge
from deploy.witness.writer import Writer, prepare
from libs.errors import ConfigurationError
from libs.packs.layout import CHUNK_SIZE_BYTES


class Memory:
    """A disk in memory, which may tell each write."""

    def __init__(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)
        self.before_write: Callable[[int, bytes], None] = lambda _offset, _content: None

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, content: bytes) -> None:
        self.before_write(offset, content)
        self.content[offset : offset + len(content)] = content


class Trial:
    """Writers that take their steps in a random order."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.layout = Layout(trial=seed, nodes=nodes, contended=3, slots=32)
        self.disk = Memory(self.layout.size_bytes)
        prepare(self.layout, self.disk)
        self.writers = [Writer(self.layout, node, self.disk, seed + node) for node in range(nodes)]
        self._random = random.Random(seed)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._random.choice(self.writers).step()

    @property
    def acknowledged(self) -> list[int]:
        return [writer.acknowledged for writer in self.writers]

    def judge(self, content: bytes, acknowledged: list[int] | None = None) -> Verdict:
        return judge(self.layout, lambda at, length: content[at : at + length], acknowledged)


@settings(max_examples=25)
@given(nodes=st.integers(1, 8), seed=st.integers(0, 2**32), steps=st.integers(0, 150), at=st.data())
def test_every_instant_holds_also_in_the_middle_of_a_step(
    nodes: int, seed: int, steps: int, at: st.DataObject
) -> None:
    trial = Trial(nodes, seed)
    instants: list[tuple[bytes, list[int]]] = []
    keep = at.draw(st.sets(st.integers(0, 2 * steps + 1), max_size=4))
    writes = iter(range(1 << 30))

    def note(_offset: int, _content: bytes) -> None:
        if next(writes) in keep:
            instants.append((bytes(trial.disk.content), trial.acknowledged))

    trial.disk.before_write = note
    trial.go_on(steps)
    instants.append((bytes(trial.disk.content), trial.acknowledged))
    for content, acknowledged in instants:
        verdict = trial.judge(content, acknowledged)
        assert not verdict.contradictions
        assert verdict.heads == acknowledged
    assert verdict.records == sum(min(32, head) for head in acknowledged)
    assert verdict.citations == nodes * verdict.records


@settings(max_examples=25)
@given(nodes=st.integers(2, 8), seed=st.integers(0, 2**32))
def test_nodes_that_are_read_one_after_the_other_contradict_each_other(
    nodes: int, seed: int
) -> None:
    trial = Trial(nodes, seed)
    trial.go_on(20 * nodes)
    first = trial.layout.slot_at(1, 0)
    early = bytes(trial.disk.content[:first])
    trial.go_on(20 * nodes)
    verdict = trial.judge(early + bytes(trial.disk.content[first:]))
    assert verdict.contradictions


@settings(max_examples=25)
@given(nodes=st.integers(1, 8), seed=st.integers(0, 2**32), steps=st.integers(1, 60), at=st.data())
def test_one_chunk_of_an_earlier_time_is_told(
    nodes: int, seed: int, steps: int, at: st.DataObject
) -> None:
    trial = Trial(nodes, seed)
    trial.go_on(60)
    early = bytes(trial.disk.content)
    trial.go_on(steps)
    late = bytes(trial.disk.content)
    changed = [
        offset
        for offset in range(0, len(late), CHUNK_SIZE_BYTES)
        if early[offset : offset + CHUNK_SIZE_BYTES] != late[offset : offset + CHUNK_SIZE_BYTES]
    ]
    stale = at.draw(st.sampled_from(changed))
    mixed = (
        late[:stale] + early[stale : stale + CHUNK_SIZE_BYTES] + late[stale + CHUNK_SIZE_BYTES :]
    )
    assert trial.judge(mixed, trial.acknowledged).contradictions
    assert not trial.judge(late, trial.acknowledged).contradictions


@pytest.mark.parametrize("torn_at", [1, 512, 2048, 4095])
def test_a_torn_record_and_a_torn_chunk_are_told(torn_at: int) -> None:
    trial = Trial(2, 7)
    trial.go_on(100)
    content = bytearray(trial.disk.content)
    content[torn_at] ^= 1
    assert trial.judge(content).contradictions == ["contended chunk 0 is torn"]
    content = bytearray(trial.disk.content)
    content[trial.layout.slot_at(1, 5) + torn_at] ^= 1
    (said,) = trial.judge(content).contradictions
    assert said.startswith("node 1: slot 5 has a torn one")


def test_what_another_trial_left_is_no_record() -> None:
    left = Trial(2, 7)
    left.go_on(100)
    trial = Trial(2, 8)
    assert len(trial.judge(left.disk.content).contradictions) == trial.layout.contended + 64


def test_a_writer_that_died_is_followed_by_one_that_goes_on() -> None:
    trial = Trial(3, 11)
    for _ in range(200):
        trial.go_on(3)
        successor = Writer(trial.layout, 1, trial.disk, trial.acknowledged[1])
        successor.resume()
        assert successor.acknowledged == trial.acknowledged[1]
        trial.writers[1] = successor
    assert not trial.judge(trial.disk.content, trial.acknowledged).contradictions
    assert min(trial.acknowledged) > 32  # every ring has gone round


def test_the_chunks_are_overwritten_by_everyone_in_turn() -> None:
    trial = Trial(4, 3)
    trial.go_on(600)
    versions = trial.judge(trial.disk.content).versions
    assert all(version is not None and version > 8 for version in versions)


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="do not fit into a record"):
        Layout(trial=1, nodes=8, contended=300, slots=16)
    with pytest.raises(ConfigurationError, match="not whole chunks"):
        Layout(trial=1, nodes=8, contended=3, slots=17)
