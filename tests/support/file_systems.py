"""Real file systems in image files, mounted by loop devices: for tests that freeze and clone."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until

#: Run as root, with loop devices and mkfs.xfs; CI has them.
CAN_MOUNT = os.geteuid() == 0 and Path("/dev/loop-control").exists() and shutil.which("mkfs.xfs")
needs_mounts = pytest.mark.skipif(
    not CAN_MOUNT, reason="needs root, loop devices and mkfs.xfs (apt-get install xfsprogs)"
)
#: File systems that the driver `reflink` understands, and the packages that make them.
CLONING = {"xfs": "xfsprogs", "btrfs": "btrfs-progs"}
#: btrfs takes no less than 109 MiB, XFS no less than 300 MiB.
_CLONING_SIZE_MIB = 512


@contextlib.contextmanager
def mounted_to_clone(folder: Path, kind: str, *options: str) -> Iterator[Path]:
    """A fresh XFS or btrfs in an image file of a folder; without it the test is skipped.

    Args:
        folder: gets the image and the mount point.
        kind: one of `CLONING`.
        options: of mount(8).
    """
    if not (CAN_MOUNT and shutil.which(f"mkfs.{kind}")):
        pytest.skip(f"needs root, loop devices and mkfs.{kind} (apt-get install {CLONING[kind]})")
    image, mount = folder / f"{kind}.image", folder / kind
    with mounted(image, mount, kind, _CLONING_SIZE_MIB, *options) as made:
        yield made


@contextlib.contextmanager
def mounted(
    image: Path, mount: Path, kind: str = "ext4", size_mib: int = 64, *options: str
) -> Iterator[Path]:
    """A fresh file system in an image file; whatever froze it, it is unmounted in the end."""
    mount.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    run(f"mkfs.{kind}", "-q", str(image))
    run("mount", "-o", ",".join(["loop", *options]), str(image), str(mount))
    try:
        yield mount
    finally:
        is_done("fsfreeze", "--unfreeze", str(mount))
        # A process that waited in a write is still on its way out of the kernel.
        if not wait_until(lambda: is_done("umount", str(mount)), 10):
            run("umount", str(mount))


def run(*command: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def is_done(*command: str) -> bool:
    """Run a program that may fail; whether it succeeded."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
