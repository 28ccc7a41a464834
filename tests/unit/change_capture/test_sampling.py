"""The sample of what a tracker believes unchanged: that it is taken, and that it finds lies."""

import random
from pathlib import Path

import blake3
import pytest

from libs.packs.chunk import ChunkHasher
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.agent.sampling import (
    SAMPLE_COUNT_MAX,
    SAMPLE_COUNT_MIN,
    Sample,
    Sampler,
    chance_of_its_own,
    sample_count,
)
from services.change_capture.drivers.port import Changes
from services.change_capture.drivers.scan.tracker import _RecordComparison
from tests.support.memory_driver import MemoryDriver, MemoryVolume
from tests.unit.change_capture.capturing import ID_KEY, Agent, Model, Volume

HASHER = ChunkHasher(ID_KEY)


def test_the_count_is_a_1024th_within_its_bounds() -> None:
    assert sample_count(0) == SAMPLE_COUNT_MIN
    assert sample_count(4 << 30) == 64
    assert sample_count(1 << 50) == SAMPLE_COUNT_MAX


@pytest.mark.parametrize("seed", range(5))
def test_a_sampler_takes_its_share_of_what_did_not_change(seed: int) -> None:
    """Of 16,384 unchanged chunks that pass, a sampler of 4 GiB takes about 16."""
    sample, rng = Sample(), random.Random(seed)
    sampler = Sampler(sample, HASHER, 4 << 30, rng)
    buffer = memoryview(bytearray(16 * CHUNK_SIZE_BYTES))
    changes = Changes([3, 4], [9])
    for piece in range(1260):
        sampler.look_at(16 * piece, buffer, changes)
    taken = [one.index for one in sample.take()]
    assert 4 <= len(taken) <= 36, f"seed {seed}: {taken}"
    assert not {index % 16 for index in taken} & {3, 4, 9}


def test_of_little_data_every_chunk_is_taken_with_its_id() -> None:
    sample = Sample()
    sampler = Sampler(sample, HASHER, 3 * CHUNK_SIZE_BYTES, random.Random(1))
    content = bytearray(3 * CHUNK_SIZE_BYTES)
    content[0] = content[CHUNK_SIZE_BYTES] = 1
    sampler.look_at(7, memoryview(content), Changes([1], []))
    first, last = sample.take()
    expected = blake3.blake3(content[:CHUNK_SIZE_BYTES], key=ID_KEY).digest()
    assert (first.index, first.id) == (7, expected)
    assert (last.index, last.id) == (9, None)


class CountingChance(random.SystemRandom):
    """The system's chance, which counts what is drawn."""

    drawn_count = 0

    def random(self) -> float:
        self.drawn_count += 1
        return super().random()


def test_no_part_of_a_sample_tells_the_rest(tmp_path: Path) -> None:
    """Each chunk of it is drawn from the system, not from a seed that a few draws give away."""
    agent = Agent(tmp_path, Volume(tmp_path / "volume", random.Random(7)))
    chance = CountingChance()
    agent.rng = chance
    agent.volume.write(0, 12)  # so few that all are in the sample
    agent.capture()
    chance.drawn_count = 0
    agent.volume.write(5, 1)
    model = agent.capture()
    assert len(model.sampled) == 11
    assert chance.drawn_count >= len(model.sampled)


def test_only_a_source_that_can_be_repeated_gives_seeds() -> None:
    system = random.SystemRandom()
    assert chance_of_its_own(system) is system
    first, again = (chance_of_its_own(random.Random(3)) for _ in range(2))
    assert [first.random(), first.random()] == [again.random(), again.random()]
    seeded = random.Random(3)
    assert chance_of_its_own(seeded).random() != chance_of_its_own(seeded).random()


def capture_twice(agent: Agent, change: Volume, first: int, count: int) -> Model:
    agent.capture()
    change.write(first, count)
    return agent.capture()


def test_an_increment_publishes_a_sample_that_is_as_the_base_has_it(tmp_path: Path) -> None:
    agent = Agent(tmp_path, Volume(tmp_path / "volume", random.Random(7)))
    agent.volume.write(0, 300)
    agent.volume.write_zeros(300, 20)
    model = capture_twice(agent, agent.volume, 5, 3)
    assert SAMPLE_COUNT_MIN / 4 <= len(model.sampled) <= 4 * SAMPLE_COUNT_MIN
    assert not {5, 6, 7} & model.sampled.keys()
    assert not model.overlooked
    assert model.completed.batches == model.batch_count > len(model.batches)


def test_a_capture_that_compares_everything_publishes_none(tmp_path: Path) -> None:
    agent = Agent(tmp_path, Volume(tmp_path / "volume", random.Random(7)))
    agent.volume.write(0, 300)
    assert not agent.capture().sampled


def test_fingerprints_that_lie_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker that never sees a change overlooks the half of the volume that changed.

    16 chunks in 320 are hashed in each increment, so by five of them a lie about every second chunk
    stays hidden with a probability below 1 in 10^20.
    """
    agent = Agent(tmp_path, Volume(tmp_path / "volume", random.Random(7)))
    agent.volume.write(0, 320)
    agent.capture()
    monkeypatch.setattr(_RecordComparison, "changed", lambda *_: None)
    found = set[int]()
    for _ in range(5):
        agent.volume.write(0, 160)
        found |= agent.capture().overlooked
    assert found
    assert found <= {*range(160)}


class MemoryAgent(Agent):
    """Captures a volume in memory, whose tracker can be told to overlook chunks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Volume(folder / "unused", random.Random(7)))
        driver = MemoryDriver()
        self.memory = driver.volumes[self.volume.path] = MemoryVolume()
        self.drivers["scan"] = driver

    def write(self, first: int, count: int) -> None:
        if len(self.memory.content) < (first + count) * CHUNK_SIZE_BYTES:
            self.memory.resize((first + count) * CHUNK_SIZE_BYTES)
        content = self.volume.rng.randbytes(count * CHUNK_SIZE_BYTES)
        self.memory.write(first * CHUNK_SIZE_BYTES, content)


def test_a_tracker_that_overlooks_a_quarter_is_found_out_within_ten_increments(
    tmp_path: Path,
) -> None:
    """The promise: 1 - (1 - 1/4)^(16 · 10) of all seeds find it, all but one in 10^19."""
    agent = MemoryAgent(tmp_path)
    agent.write(0, 256)
    agent.capture()
    agent.memory.overlooks = {*range(0, 256, 4)}
    found = set[int]()
    for increment in range(10):
        agent.write(0, 256)
        agent.memory.written = {increment}
        found |= agent.capture().overlooked
    assert found, "seed 1234, in `Agent`"


def test_a_truthful_tracker_is_never_accused(tmp_path: Path) -> None:
    agent = MemoryAgent(tmp_path)
    agent.write(0, 256)
    agent.capture()
    for first in range(0, 250, 25):
        agent.write(first, 3)
        model = agent.capture()
        assert len(model.sampled) == SAMPLE_COUNT_MIN
        assert not model.overlooked
        assert not {first, first + 1, first + 2} & model.sampled.keys()
        assert model.completed.read_bytes == 3 * CHUNK_SIZE_BYTES
