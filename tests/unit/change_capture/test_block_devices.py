"""Real block devices: what other nodes write, odd ends, and other disks under the same number."""

import os
import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from libs.errors import SourceError
from libs.events.block_changes import CaptureStarted
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.local.view import LocalView
from tests.support.loop_devices import LoopDevice
from tests.support.roots import view_of
from tests.unit.change_capture.capturing import Agent, Volume

MIB = 1 << 20
_SIZE_BYTES = 12 * MIB


def file_of(folder: Path, size_bytes: int, name: str = "disk", seed: int = 1) -> Path:
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path


def read_all(view: LocalView) -> bytes:
    """As the scanner does, with what pads the last chunk."""
    buffer = memoryview(large_buffer(CHUNK_SIZE_BYTES))
    found = bytearray()
    for index in range(view.chunk_count):
        view.read_into(index * CHUNK_SIZE_BYTES, buffer)
        found += buffer
    return bytes(found)


def content_of(path: Path) -> bytes:
    with closing(view_of(path)) as view:
        return read_all(view)


def identity_of(path: Path) -> str:
    with closing(view_of(path)) as view:
        return view.identity


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % CHUNK_SIZE_BYTES)


def test_what_is_written_through_a_partition_is_read_from_the_whole_disk(
    loop: LoopDevice, tmp_path: Path
) -> None:
    file = file_of(tmp_path, _SIZE_BYTES)
    loop.attach(file)
    partition = os.open(loop.add_partition(MIB, 8 * MIB), os.O_RDWR)
    # The disk's own page cache now has all of it, and keeps it while the partition is open.
    loop.path.read_bytes()
    try:
        with closing(view_of(loop.path)) as view:
            assert read_all(view) == file.read_bytes()
            os.pwrite(partition, b"new" * MIB, 2 * MIB)
            os.fsync(partition)
            assert file.read_bytes()[3 * MIB : 6 * MIB] == b"new" * MIB
            assert loop.path.read_bytes() != file.read_bytes(), "nothing is stale: a poor test"
            assert read_all(view) == file.read_bytes()
        assert content_of(loop.path) == file.read_bytes()
    finally:
        os.close(partition)


def test_what_was_written_to_the_device_itself_and_not_synced_is_read(
    loop: LoopDevice, tmp_path: Path
) -> None:
    loop.attach(file_of(tmp_path, _SIZE_BYTES))
    device = os.open(loop.path, os.O_RDWR)
    try:
        os.pwrite(device, b"fresh" * 1000, MIB)
        assert content_of(loop.path)[MIB : MIB + 5000] == b"fresh" * 1000
    finally:
        os.close(device)


@pytest.mark.parametrize(
    ("block_bytes", "beyond_bytes"), [(512, 0), (512, 512), (512, 3584), (4096, 0), (4096, 8192)]
)
def test_a_device_that_ends_within_a_chunk_is_read_to_its_end(
    loop: LoopDevice, tmp_path: Path, block_bytes: int, beyond_bytes: int
) -> None:
    file = file_of(tmp_path, 3 * CHUNK_SIZE_BYTES + beyond_bytes)
    loop.attach(file, "--sector-size", str(block_bytes))
    with closing(view_of(loop.path)) as view:
        assert view.size_bytes == file.stat().st_size
        assert read_all(view) == padded(file.read_bytes())


def test_a_device_that_ends_within_a_block_cannot_be_read_by_anybody(
    loop: LoopDevice, tmp_path: Path
) -> None:
    loop.attach(file_of(tmp_path, 3 * CHUNK_SIZE_BYTES + 512), "--sector-size", "4096")
    with pytest.raises(SourceError, match="Input/output error"):
        content_of(loop.path)


def test_a_buffer_that_begins_anywhere_is_read_into(loop: LoopDevice, tmp_path: Path) -> None:
    file = file_of(tmp_path, _SIZE_BYTES)
    loop.attach(file)
    buffer = bytearray(3 * CHUNK_SIZE_BYTES + 1)
    with closing(view_of(loop.path)) as view:
        view.read_into(CHUNK_SIZE_BYTES, memoryview(buffer)[1:])
    assert buffer[1:] == file.read_bytes()[CHUNK_SIZE_BYTES : 4 * CHUNK_SIZE_BYTES]


def test_nobody_vouches_for_a_device_not_even_if_it_is_read_only_here(
    loop: LoopDevice, tmp_path: Path
) -> None:
    loop.attach(file_of(tmp_path, _SIZE_BYTES), "--read-only")
    with closing(view_of(loop.path)) as view:
        assert view.consistency() == "unvouched"


def test_another_disk_under_the_same_number_is_another_volume(
    loop: LoopDevice, tmp_path: Path
) -> None:
    """The second file is a copy, so that size and content cannot tell them apart."""
    first = file_of(tmp_path, _SIZE_BYTES)
    second = shutil.copyfile(first, tmp_path / "copy")
    loop.attach(first)
    before = identity_of(loop.path)
    loop.detach()
    loop.attach(second)
    assert identity_of(loop.path) != before
    loop.detach()
    loop.attach(first, "--offset", str(MIB))
    assert identity_of(loop.path) != before
    loop.detach()
    loop.attach(first)
    assert identity_of(loop.path) == before


def test_a_disk_whose_file_has_no_name_any_more_is_the_same_until_it_is_detached(
    loop: LoopDevice, tmp_path: Path
) -> None:
    file = file_of(tmp_path, _SIZE_BYTES)
    loop.attach(file)
    named = identity_of(loop.path)
    file.rename(tmp_path / "behind")
    file_of(tmp_path, _SIZE_BYTES)  # has the first one's name and content, but is another file
    assert identity_of(loop.path) == named  # it is found under its new name
    (tmp_path / "behind").unlink()
    unnamed = identity_of(loop.path)
    assert "boot=" in unnamed
    assert identity_of(loop.path) == unnamed
    loop.detach()
    loop.attach(file)
    assert identity_of(loop.path) not in (named, unnamed)


def test_a_partition_is_neither_its_disk_nor_another_one(loop: LoopDevice, tmp_path: Path) -> None:
    loop.attach(file_of(tmp_path, _SIZE_BYTES))
    whole = identity_of(loop.path)
    first = identity_of(loop.add_partition(MIB, 4 * MIB))
    loop.remove_partition()
    second = identity_of(loop.add_partition(2 * MIB, 4 * MIB))
    assert len({whole, first, second}) == 3


def test_writing_data_leaves_the_identity_and_a_new_partition_table_does_not(
    loop: LoopDevice, tmp_path: Path
) -> None:
    loop.attach(file_of(tmp_path, _SIZE_BYTES))
    before = identity_of(loop.path)
    with loop.path.open("r+b") as device:
        device.seek(MIB)
        device.write(b"data" * MIB)
    assert identity_of(loop.path) == before
    with loop.path.open("r+b") as device:
        device.seek(440)
        device.write(b"\1\2\3\4".ljust(70, b"\0") + b"\x55\xaa")
    assert identity_of(loop.path) != before


def test_after_another_disk_took_over_the_number_everything_is_compared(
    loop: LoopDevice, tmp_path: Path
) -> None:
    loop.attach(file_of(tmp_path, _SIZE_BYTES))
    agent = Agent(tmp_path, Volume(loop.path, random.Random(7)))
    assert agent.capture().batches
    assert not agent.capture().batches
    loop.detach()
    other = file_of(tmp_path, _SIZE_BYTES, "other", seed=2)
    loop.attach(other)
    model = agent.capture()
    started = model.events[0]
    assert isinstance(started, CaptureStarted)
    assert started.complete
    assert model.chunks == Volume(other, random.Random(7)).chunks()
