import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from services.change_capture.drivers.local import view as local_view
from services.change_capture.drivers.local.file_systems import (
    FileSystem,
    Mount,
    file_system_of,
    mount_in,
)
from tests.support.roots import view_of

_HALF = 8 << 20
_BEHIND_HOLE = ByteRange.at(_HALF, CHUNK_SIZE_BYTES)
_MOUNTS = """\
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
361 35 0:45 / /a\\040-\\040b rw shared:2 - nfs4 server:/images rw,vers=4.2
38 35 0:47 / /odd\r39 1 0:1 / /x rw - ext4 x rw - proc proc rw
37 35 0:46 / /gluster rw - fuse.glusterfs server:/volume rw
"""


def test_the_kind_is_that_of_the_mount(tmp_path: Path) -> None:
    assert mount_in(_MOUNTS, "36") == Mount("/mnt1", "/mnt2", "ext3")
    assert mount_in(_MOUNTS, "361") == Mount("/", "/a - b", "nfs4")
    assert mount_in(_MOUNTS, "37") == Mount("/", "/gluster", "fuse.glusterfs")
    assert mount_in(_MOUNTS, "3") is None
    assert mount_in(_MOUNTS, "39") is None
    told = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(tmp_path)],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert [file_system_of(descriptor).kind] == told
    os.close(descriptor)


@pytest.mark.parametrize(
    ("kind", "is_local", "has_true_holes"),
    [
        ("ext4", True, True),
        ("zfs", True, False),
        ("nfs4", False, True),
        ("gfs2", False, True),
        ("cifs", False, False),
        ("fuse.glusterfs", False, False),
        ("virtiofs", False, False),
        ("never-heard-of", False, False),
        ("", False, False),
    ],
)
def test_what_is_not_known_to_be_local_is_shared(
    kind: str, *, is_local: bool, has_true_holes: bool
) -> None:
    assert FileSystem(kind).is_local == is_local
    assert FileSystem(kind).has_true_holes == has_true_holes


@pytest.mark.parametrize(
    ("kind", "extent"),
    [("nfs4", _BEHIND_HOLE), ("cifs", ByteRange(0, 2 * _HALF)), ("ext4", _BEHIND_HOLE)],
)
def test_a_file_that_other_hosts_may_write_is_never_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extent: ByteRange
) -> None:
    """Holes are read where the file system cannot vouch for them: the first half is one."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 2 * _HALF)
    content = os.urandom(CHUNK_SIZE_BYTES)
    with path.open("r+b") as file:
        file.seek(_HALF)
        file.write(content)
    monkeypatch.setattr(local_view, "file_system_of", lambda _descriptor: FileSystem(kind))
    with closing(view_of(path)) as view:
        assert list(view.data()) == [extent]
        buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
        view.read_into(_HALF, buffer)
        assert buffer == content
        assert view.consistency() == ("quiet" if kind == "ext4" else "unvouched")
        os.utime(path, ns=(1, 1))  # as a write does that this host hears of
        assert view.consistency() == "fuzzy"
