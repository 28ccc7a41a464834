"""Disks that are really full: small file systems of their own, and a file that takes the rest.

They are mounted in a mount namespace that one process and its children have for themselves, so
nothing else sees them, and whatever is killed, the kernel takes them away with the last process.
A tmpfs refuses a write with ENOSPC as any disk does, within the call that wrote.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from libs.errors import UnavailableError

_BLOCK = bytes(1 << 16)
#: Pairs of folder and size up to `--`, then the program that is to see the disks.
_MOUNT_AND_BECOME = """
set -e
while [ "$1" != -- ]; do
    mount -t tmpfs -o "size=$2,mode=0700" backcast-small-disk "$1"
    shift 2
done
shift
exec "$@"
"""


class SmallDisk:
    """A mounted small disk.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no block free: the next write that needs one fails with ENOSPC.

        What fits into the last block of a file that is there already can still be written, as on
        every file system. May be called again for what was freed meanwhile.
        """
        # Unbuffered, and to the end byte for byte: what the library held back would be room.
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(_BLOCK):
                pass
        free = self.free_bytes
        assert free == 0, f"{self.folder}: {free} bytes are still free"

    def make_room(self, size_bytes: int | None = None) -> None:
        """Give back so much of what `fill` took, or all of it."""
        if size_bytes is None:
            self._filler.unlink(missing_ok=True)
        else:
            os.truncate(self._filler, max(0, self._filler.stat().st_size - size_bytes))

    @property
    def free_bytes(self) -> int:
        """What can still be written."""
        return shutil.disk_usage(self.folder).free


def with_disks(disks: Mapping[Path, int], argv: Sequence[str]) -> list[str]:
    """The command that mounts disks for itself alone and becomes ``argv``, as the same user.

    Args:
        disks: folders that exist, and the sizes of their disks in MiB.
        argv: a program, which keeps its user: PostgreSQL starts neither as root nor as a stranger.
    """
    pairs = [part for folder, mib in disks.items() for part in (str(folder), f"{mib}m")]
    mounting = ["sh", "-c", _MOUNT_AND_BECOME, "sh", *pairs, "--"]
    if os.geteuid() == 0:
        return ["unshare", "--mount", *mounting, *argv]
    # Root of a user namespace may mount; the second one gives the user its own id back.
    myself = [f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
    return [
        *("unshare", "--user", "--map-root-user", "--mount", *mounting),
        *("unshare", "--user", *myself, *argv),
    ]


def check_disks_can_be_mounted(folder: Path) -> None:
    """Try it.

    Raises:
        UnavailableError: not on this machine; with what the kernel or the tools said.
    """
    try:
        tried = subprocess.run(
            with_disks({folder: 1}, ["true"]), capture_output=True, text=True, check=False
        )
        said = tried.stderr.strip() if tried.returncode else ""
    except FileNotFoundError as err:
        said = str(err)
    if said:
        raise UnavailableError(
            f"no small disk can be mounted, neither as root nor in a user namespace: {said}"
        )
