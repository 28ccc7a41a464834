import os
from pathlib import Path

import pytest

from services.change_capture.drivers.local import identity
from services.change_capture.drivers.local.identity import (
    CONTENT_SIZE_BYTES,
    content_id,
    file_identity,
)


def identity_of(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return file_identity(descriptor)
    finally:
        os.close(descriptor)


def disk(folder: Path, **files: str) -> Path:
    """A disk's folder in sysfs; `__` stands for a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_file_keeps_its_identity_whatever_is_written_or_where_it_moves(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = identity_of(path)
    path.write_bytes(b"another content")
    path.rename(tmp_path / "b")
    assert identity_of(tmp_path / "b") == before


def test_an_inode_number_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    """Most file systems give the number to the next file; the time of birth differs then."""
    path = tmp_path / "a"
    found = set()
    for _ in range(20):
        path.write_bytes(b"x")
        found.add(identity_of(path))
        path.unlink()
    assert len(found) == 20


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"wwid": "eui.0025385\n", "serial": "x"}, "wwid=eui.0025385"),
        ({"device__wwid": "naa.5000c500a", "device__serial": "x"}, "device/wwid=naa.5000c500a"),
        ({"dm__uuid": "LVM-abc", "device__serial": "x"}, "dm/uuid=LVM-abc"),
        ({"dm__uuid": "\n", "serial": "vol-1"}, "serial=vol-1"),
        ({"size": "8"}, ""),
    ],
)
def test_the_best_name_of_a_disk_is_taken(tmp_path: Path, files: dict[str, str], name: str) -> None:
    assert identity._name(disk(tmp_path, **files)) == name


def test_two_images_of_one_ceph_pool_and_two_snapshots_differ(tmp_path: Path) -> None:
    common = {"device__cluster_fsid": "f", "device__pool_id": "2"}
    names = {
        identity._name(
            disk(tmp_path / f"{image}-{cut}", **common, device__image_id=image,
                 device__current_snap=cut)
        )
        for image in "ab"
        for cut in "-1"
    }  # fmt: skip
    assert len(names) == 4


def test_a_disk_without_a_name_is_known_by_the_kernels_count_of_this_boot(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    counted = disk(tmp_path, diskseq="17", dev="7:0")
    assert identity._name_in_this_boot(counted) == f"boot={boot}/17"


def test_ids_are_found_in_partition_tables_and_file_systems() -> None:
    content = bytearray(CONTENT_SIZE_BYTES)
    assert content_id(bytes(content)) == ""
    content[510:512] = b"\x55\xaa"
    content[440:444] = b"\1\2\3\4"
    assert content_id(bytes(content)) == "mbr=01020304"
    content[512:520] = b"EFI PART"
    content[568:584] = bytes(range(16))
    assert content_id(bytes(content)) == f"gpt={bytes(range(16)).hex()},mbr=01020304"
    content = bytearray(CONTENT_SIZE_BYTES)
    content[1080:1082] = b"\x53\xef"
    content[1128:1144] = b"u" * 16
    assert content_id(bytes(content)) == f"ext={(b'u' * 16).hex()}"
    assert content_id(b"") == ""
