"""Which file systems let this host's page cache and their holes be believed.

Between two hosts, or between a host and a server, a write of the other side does not reach this
side's page cache. File systems that are not named here count as such: a new or rare one then costs
speed, not right bytes.
"""

import os
import re
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


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted where an open file is, as proc_pid_mountinfo(5) says."""

    #: The folder of its file system that is mounted; "/" is all of it. A whole subvolume of btrfs
    #: counts as all of it: that is how its file systems are mounted.
    folder: str
    #: Where it is mounted.
    point: str
    #: Type of file system.
    kind: str


def mount_of(descriptor: int) -> Mount | None:
    """The mount that an open file was found through; None where this process cannot see it."""
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        number = next(line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:"))
        return mount_in(os.fsdecode(_MOUNTS.read_bytes()), number)
    except (OSError, StopIteration):
        return None


def file_system_of(descriptor: int) -> FileSystem:
    """The file system that an open file is on."""
    mount = mount_of(descriptor)
    return FileSystem(mount.kind if mount else "")


def mount_in(mounts: str, number: str) -> Mount | None:
    """A mount by its id; None if it is not there.

    Args:
        mounts: as `/proc/self/mountinfo` says (proc(5)).
        number: the mount's id.
    """
    for line in mounts.split("\n"):  # names may have other ends of lines
        about, _, source = line.partition(" - ")
        fields = about.split(" ")
        if fields[0] == number:
            folder, point = _unescaped(fields[3]), _unescaped(fields[4])
            kind = source.split(" ", 1)[0]
            if kind == "btrfs" and folder == _subvolume(source):
                folder = "/"
            return Mount(folder, point, kind)
    return None


def _subvolume(source: str) -> str:
    """The subvolume that the end of a line of mountinfo names (btrfs(5)), or the empty text."""
    options = source.rsplit(" ", maxsplit=1)[-1].split(",")
    return next((_unescaped(one[7:]) for one in options if one.startswith("subvol=")), "")


def _unescaped(field: str) -> str:
    """A path of mountinfo, where blanks and backslashes are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
