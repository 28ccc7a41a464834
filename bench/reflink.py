"""What a snapshot by clones costs, from the command to the seal, on images of two sizes.

A sparse image of 4 GiB and one of 1 TiB lie on XFS, with 1 GiB of data each. Between two snapshots
nothing changes, or 1 % of 4 GiB does, scattered in pieces of 64 KiB or of 4 KiB. Nothing of the
size of an image may be read or written.
"""

import random
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.backcast import Backcast
from bench.measure import StepFailedError
from libs.packs.layout import CHUNK_SIZE_BYTES

#: Of each image.
DATA_CHUNKS = (1 << 30) // CHUNK_SIZE_BYTES
#: One per cent of the smaller image.
CHANGED_BYTES = (4 << 30) // 100
SIZES_BYTES = {"4 GiB": 4 << 30, "1 TiB": 1 << 40}
#: What changes: its name, and bytes of a piece; 0: nothing does.
CHANGES = {"nothing": 0, "1 % in 64 KiB": 64 << 10, "1 % in 4 KiB": 4 << 10}
#: Of the file system, sparse: both images, and what their clones hold.
_DISK_SIZE_BYTES = 64 << 30


@dataclass(frozen=True)
class Passed:
    """The median snapshot."""

    wall_seconds: float
    read_bytes: int
    stored_bytes: int


def measure_reflink(repeat: int, folder: Path) -> dict[str, Passed]:
    """The median snapshot of each size and change.

    Args:
        repeat: snapshots of each.
        folder: where the images and the servers' data are; 16 GiB.

    Raises:
        StepFailedError: there can be no XFS: that needs root, loop devices and xfsprogs.
    """
    with _xfs(folder) as mount:
        backcast = Backcast(folder, "minio")
        backcast.open()
        try:
            images = {size: _Image(backcast, size, mount) for size in SIZES_BYTES}
            return {
                f"{size}, {change}": median([image.snapshot(piece) for _ in range(repeat)])
                for change, piece in CHANGES.items()
                for size, image in images.items()
            }
        finally:
            backcast.close()


class _Image:
    """An image with a base, of which scattered pieces change."""

    def __init__(self, backcast: Backcast, size: str, mount: Path) -> None:
        self._backcast = backcast
        self._name = size.replace(" ", "-").lower()
        self._path = mount / self._name
        self._rng = random.Random(6)
        count = SIZES_BYTES[size] // CHUNK_SIZE_BYTES
        self._data = sorted(self._rng.sample(range(count), DATA_CHUNKS))
        with self._path.open("wb") as file:
            file.truncate(SIZES_BYTES[size])
            for index in self._data:
                file.seek(index * CHUNK_SIZE_BYTES)
                file.write(self._rng.randbytes(CHUNK_SIZE_BYTES))
        backcast.backup(self._name, self._path, "--driver", "reflink")

    def snapshot(self, piece_bytes: int) -> Passed:
        """Change pieces of so many bytes, and take a snapshot."""
        if piece_bytes:
            with self._path.open("r+b") as file:
                for index in self._rng.sample(self._data, CHANGED_BYTES // piece_bytes):
                    file.seek(index * CHUNK_SIZE_BYTES)
                    file.write(self._rng.randbytes(piece_bytes))
        usage = self._backcast.backup(self._name, self._path)
        figures = [int(str(usage.reported[name])) for name in ("read_bytes", "stored_bytes")]
        return Passed(usage.wall_seconds, *figures)


@contextmanager
def _xfs(folder: Path) -> Iterator[Path]:
    image, mount = folder / "xfs.image", folder / "xfs"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(_DISK_SIZE_BYTES)
    _run("mkfs.xfs", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(mount))
    try:
        yield mount
    finally:
        _run("umount", str(mount))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as err:
        raise StepFailedError(f"{' '.join(command)}: {err}; needs root and xfsprogs") from err


def median(passes: list[Passed]) -> Passed:
    """Each figure's median."""
    return Passed(
        statistics.median(one.wall_seconds for one in passes),
        round(statistics.median(one.read_bytes for one in passes)),
        round(statistics.median(one.stored_bytes for one in passes)),
    )
