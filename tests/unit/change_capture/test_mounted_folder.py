"""Whether all of a file system is mounted at a mount point, or a folder of it."""

import pytest

from services.change_capture.drivers.local.file_systems import Mount, mount_in

BELOW = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("40 22 8:2 / /srv/data rw - ext4 /dev/sdb rw", "/"),
        ("40 22 8:1 /var/my\\040vms /srv/data rw - ext4 /dev/sda1 rw", "/var/my vms"),
        ("40 22 0:31 /@data /srv/data rw - btrfs /dev/sdb rw,subvolid=256,subvol=/@data", "/"),
        ("40 22 0:31 / /srv/data rw - btrfs /dev/sdb rw,subvolid=5,subvol=/", "/"),
        ("40 22 0:31 /@/vms /srv/data rw - btrfs /dev/sdb rw,subvolid=256,subvol=/@", "/@/vms"),
        ("40 22 0:31 /@/vms /srv/data rw - btrfs /dev/sdb rw", "/@/vms"),
    ],
)
def test_a_folder_is_told_from_the_whole(line: str, folder: str) -> None:
    mount = mount_in(f"{BELOW}{line}\n", "40")
    assert mount
    assert (mount.folder, mount.point) == (folder, "/srv/data")


def test_of_two_mounts_at_one_place_each_is_told_by_its_number() -> None:
    lower = "40 22 8:1 /home /srv/data rw - ext4 /dev/sda1 rw\n"
    upper = "41 22 8:2 / /srv/data rw - xfs /dev/sdb rw\n"
    for mounts in (BELOW + lower + upper, BELOW + upper + lower):
        assert mount_in(mounts, "40") == Mount("/home", "/srv/data", "ext4")
        assert mount_in(mounts, "41") == Mount("/", "/srv/data", "xfs")
