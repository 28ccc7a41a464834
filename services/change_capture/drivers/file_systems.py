"""Which file systems let this host's page cache and their holes be believed.

Between two hosts, or between a host and a server, a write of the other side does not reach this
side's page cache. File systems that are not named here count as such: a new or rare one then costs
speed, not right bytes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

#: One kernel has all their files, so its page cache is what every process sees. That holds for a
#: hypervisor on this host that writes an image with O_DIRECT too: the kernel drops the cached pages
#: of what is written so.
# fmt: off -- one a line would hide the rest of the file
_LOCAL = frozenset(
    {
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "bcachefs",
        "f2fs",
        "jfs",
        "nilfs2",
        "reiserfs",
        "zfs",
        "overlay",
        "tmpfs",
        "ramfs",
        "hugetlbfs",
        "vfat",
        "exfat",
        "msdos",
        "ntfs3",
        "iso9660",
        "udf",
        "squashfs",
        "erofs",
    }
)
# fmt: on
#: NFS asks the server, or says that there are no holes. The locks of GFS2 and OCFS2 keep what hosts
#: know of a file the same. SMB and FUSE use what they have kept. OpenZFS took data that were not
#: written yet for holes (its issue 15526).
_HOLES_BELIEVED = _LOCAL - {"zfs"} | {"nfs", "nfs4", "gfs2", "ocfs2"}
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system of an open file.

    Args:
        kind: its name in the kernel; empty if it is mounted where this process cannot see it.
    """

    kind: str

    @property
    def is_local(self) -> bool:
        """Whether this host's page cache and times of modification show every write."""
        return self.kind in _LOCAL

    @property
    def has_true_holes(self) -> bool:
        """Whether what it calls a hole reads as zeros, whoever wrote."""
        return self.kind in _HOLES_BELIEVED


def file_system_of(descriptor: int) -> FileSystem:
    """The file system that an open file is on."""
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        mount = next(line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:"))
        return FileSystem(_kind_of(mount, os.fsdecode(_MOUNTS.read_bytes())))
    except (OSError, StopIteration):
        return FileSystem("")


def _kind_of(mount: str, mounts: str) -> str:
    """The type of file system that proc_pid_mountinfo(5) gives for a mount's id."""
    for line in mounts.splitlines():
        about, _, source = line.partition(" - ")
        if about.split(" ", 1)[0] == mount:
            return source.split(" ", 1)[0]
    return ""
