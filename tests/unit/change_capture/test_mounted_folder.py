"""Whether all of a file system is mounted at a mount point, or a folder of it."""

import pytest

from services.change_capture.barrier.hold import mounted_folder

BELOW = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        (b"40 22 8:2 / /srv/data rw - ext4 /dev/sdb rw", "/"),
        (b"40 22 8:1 /var/my\\040vms /srv/data rw - ext4 /dev/sda1 rw", "/var/my vms"),
        (b"40 22 0:31 /@data /srv/data rw - btrfs /dev/sdb rw,subvolid=256,subvol=/@data", "/"),
        (b"40 22 0:31 / /srv/data rw - btrfs /dev/sdb rw,subvolid=5,subvol=/", "/"),
        (b"40 22 0:31 /@/vms /srv/data rw - btrfs /dev/sdb rw,subvolid=256,subvol=/@", "/@/vms"),
        (b"40 22 0:31 /@/vms /srv/data rw - btrfs /dev/sdb rw", "/@/vms"),
    ],
)
def test_a_folder_is_told_from_the_whole(line: bytes, folder: str) -> None:
    assert mounted_folder(BELOW + line + b"\n", "/srv/data") == folder


def test_what_was_mounted_last_lies_on_top() -> None:
    lower = b"40 22 8:1 /home /srv/data rw - ext4 /dev/sda1 rw\n"
    upper = b"41 22 8:2 / /srv/data rw - xfs /dev/sdb rw\n"
    assert mounted_folder(BELOW + lower + upper, "/srv/data") == "/"
    assert mounted_folder(BELOW + upper + lower, "/srv/data") == "/home"
