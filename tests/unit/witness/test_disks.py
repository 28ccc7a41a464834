"""Several disks are one, and a writer whose disk failed leaves nothing that is torn."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.witness.disks import StripedDisk, stripe_size_bytes
from deploy.witness.records import Layout
from deploy.witness.verdict import judge
from deploy.witness.writer import Writer, prepare
from libs.packs.layout import CHUNK_SIZE_BYTES
from tests.unit.witness.test_verdict import Memory


class FailingDisk(Memory):
    """Its writes fail half-way, once it is told which one."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        #: Writes until one fails; negative: none does.
        self.left = -1

    def write(self, offset: int, content: bytes) -> None:
        if self.left == 0:
            super().write(offset, content[: len(content) // 2])
            raise OSError("the disk was taken away")
        self.left -= 1
        super().write(offset, content)


def write_on(writer: Writer) -> None:
    """Write until the disk fails."""
    while True:
        writer.step()


@settings(max_examples=50)
@given(count=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_several_disks_are_one(count: int, seed: int) -> None:
    rng = random.Random(seed)
    size = 11 * CHUNK_SIZE_BYTES
    whole = Memory(size)
    disks = [Memory(stripe_size_bytes(size, count)) for _ in range(count)]
    striped = StripedDisk(disks)
    for _ in range(20):
        offset = rng.randrange(size)
        content = rng.randbytes(rng.randrange(1, min(size - offset, 200_000) + 1))
        for disk in (whole, striped):
            disk.write(offset, content)
    for _ in range(20):
        offset = rng.randrange(size)
        length = rng.randrange(1, size - offset + 1)
        assert striped.read(offset, length) == whole.read(offset, length)
    assert all(any(disk.content) for disk in disks)


@pytest.mark.parametrize("seed", range(40))
def test_what_a_writer_was_writing_when_its_disk_failed_is_written_again(seed: int) -> None:
    layout = Layout(trial=seed, nodes=2, contended=2, slots=32)
    disk = FailingDisk(layout.size_bytes)
    prepare(layout, disk)
    writers = [Writer(layout, node, disk, seed + node) for node in range(2)]
    for _ in range(20):
        for writer in writers:
            writer.step()
    disk.left = seed % 7
    with pytest.raises(OSError, match="taken away"):
        write_on(writers[0])
    disk.left = -1
    successor = Writer(layout, 0, disk, seed)
    successor.resume()
    successor.step()
    acknowledged = [successor.acknowledged, writers[1].acknowledged]
    assert not judge(layout, disk.read, acknowledged).contradictions
