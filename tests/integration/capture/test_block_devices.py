"""Whole disks through the whole system, while file systems on them are mounted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.local.fixtures import start_or_skip
from libs.errors import UnavailableError
from tests.support.loop_devices import LoopDevice
from tests.support.running import RunningSite

MIB = 1 << 20
_SIZE_BYTES = 64 * MIB
_ENVIRON = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


@contextmanager
def mounted(device: Path, folder: Path) -> Iterator[Path]:
    """A new file system on a device, mounted as long as the context lasts."""
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(device)], check=True, env=_ENVIRON)
    folder.mkdir()
    tried = subprocess.run(
        ["mount", str(device), str(folder)], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise UnavailableError(f"nothing can be mounted here: {tried.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("full", [False, True])
def test_what_a_mounted_partition_has_written_is_in_the_snapshot_of_its_disk(
    site: RunningSite, loop: LoopDevice, tmp_path: Path, *, full: bool
) -> None:
    file, name = tmp_path / "disk", "mounted-full" if full else "mounted"
    file.touch()
    os.truncate(file, _SIZE_BYTES)
    loop.attach(file)
    with ExitStack() as stack:
        partition = loop.add_partition(MIB, _SIZE_BYTES - 2 * MIB)
        start_or_skip(lambda: _enter(stack, mounted(partition, tmp_path / "mounted")))
        loop.path.read_bytes()  # as any tool does that looks at the disk: its page cache has it now
        site.protect(name, loop.path, again=True)
        assert site.take(name)["state"] == "sealed"
        (tmp_path / "mounted" / "written").write_bytes(os.urandom(8 * MIB))
        os.sync()
        taken = site.take(name, full=full)
        assert taken["state"] == "sealed"
        assert taken["parts"][0]["consistency"] == "unvouched"
        assert taken["parts"][0]["changed_bytes"] >= 8 * MIB
        assert site.matches(name, file)


def test_another_disk_under_the_same_number_comes_back_as_it_is(
    site: RunningSite, loop: LoopDevice, tmp_path: Path
) -> None:
    disks = [tmp_path / "first", tmp_path / "second"]
    for disk in disks:
        disk.write_bytes(os.urandom(8 * MIB))
    loop.attach(disks[0])
    site.protect("exchanged", loop.path, again=True)
    assert site.take("exchanged")["state"] == "sealed"
    loop.detach()
    loop.attach(disks[1])
    assert site.take("exchanged")["state"] == "sealed"
    assert site.matches("exchanged", disks[1])
    assert site.matches("exchanged", disks[0], "1")


def _enter(stack: ExitStack, context: AbstractContextManager[object]) -> None:
    stack.enter_context(context)
