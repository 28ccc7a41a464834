"""What a snapshot by a driver costs, from the command to the seal, on images of two sizes.

A sparse image of 4 GiB and one of 1 TiB have 1 GiB of data each. Between two snapshots nothing
changes, or 1 % of 4 GiB does, scattered in pieces of 64 KiB or of 4 KiB. Nothing of the size of an
image may be read or written. The images take turns.
"""

import random
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.backcast import Backcast
from bench.served import Served, make_image, place_for, serve
from libs.packs.layout import CHUNK_SIZE_BYTES

#: Of each image.
DATA_CHUNKS = (1 << 30) // CHUNK_SIZE_BYTES
#: One per cent of the smaller image.
CHANGED_BYTES = (4 << 30) // 100
SIZES_BYTES = {"4 GiB": 4 << 30, "1 TiB": 1 << 40}
#: What changes: its name, and bytes of a piece; 0: nothing does.
CHANGES = {"nothing": 0, "1 % in 64 KiB": 64 << 10, "1 % in 4 KiB": 4 << 10}


@dataclass(frozen=True)
class Passed:
    """The median snapshot."""

    wall_seconds: float
    read_bytes: int
    stored_bytes: int


def measure_sizes(driver: str, repeat: int, folder: Path) -> dict[str, Passed]:
    """The median snapshot of each size and change.

    Args:
        driver: one of `bench.served.DRIVERS`.
        repeat: snapshots of each.
        folder: where the images and the servers' data are; 16 GiB.

    Raises:
        StepFailedError: the driver has not what it needs on this machine.
    """
    with ExitStack() as opened:
        place = opened.enter_context(place_for(driver, folder))
        backcast = Backcast(folder, "minio")
        backcast.open()
        opened.callback(backcast.close)
        images = {}
        for size, size_bytes in SIZES_BYTES.items():
            name, rng = size.replace(" ", "-").lower(), random.Random(6)
            data = sorted(rng.sample(range(size_bytes // CHUNK_SIZE_BYTES), DATA_CHUNKS))
            make_image(place / name, size_bytes, data, rng)
            served = serve(driver, place / name, folder)
            opened.callback(served.close)
            images[size] = _Image(backcast, served, data, rng)
        return {
            f"{size}, {change}": one
            for change, piece in CHANGES.items()
            for size, one in _taking_turns(images, piece, repeat).items()
        }


class _Image:
    """An image with a base, of which scattered pieces change."""

    def __init__(
        self, backcast: Backcast, served: Served, data: list[int], rng: random.Random
    ) -> None:
        self._backcast, self._served = backcast, served
        self._data, self._rng = data, rng
        self._name = served.image.name
        backcast.backup(self._name, served.path, "--driver", served.driver)

    def snapshot(self, piece_bytes: int) -> Passed:
        """Change pieces of so many bytes, and take a snapshot."""
        if piece_bytes:
            for index in self._rng.sample(self._data, CHANGED_BYTES // piece_bytes):
                self._served.write(index * CHUNK_SIZE_BYTES, self._rng.randbytes(piece_bytes))
        usage = self._backcast.backup(self._name, self._served.path)
        figures = [int(str(usage.reported[name])) for name in ("read_bytes", "stored_bytes")]
        return Passed(usage.wall_seconds, *figures)


def _taking_turns(images: dict[str, _Image], piece: int, repeat: int) -> dict[str, Passed]:
    turns = [{size: one.snapshot(piece) for size, one in images.items()} for _ in range(repeat)]
    return {size: _median([turn[size] for turn in turns]) for size in images}


def _median(passes: list[Passed]) -> Passed:
    """Each figure's median."""
    return Passed(
        statistics.median(one.wall_seconds for one in passes),
        round(statistics.median(one.read_bytes for one in passes)),
        round(statistics.median(one.stored_bytes for one in passes)),
    )
