"""What a snapshot by hints costs, from the command to the seal, on volumes of two sizes.

The same number of chunks changes on a sparse volume of 4 GiB and on one of 1 TiB, with new bytes
each time. Nothing of the size of the volume may be read or written, so both must cost the same.
"""

import dataclasses
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.backcast import Backcast
from bench.measure import ServerWatch
from libs.packs.layout import CHUNK_SIZE_BYTES

#: 1 % of 4 GiB.
CHANGED_CHUNKS = (4 << 30) // 100 // CHUNK_SIZE_BYTES
DATA_CHUNKS = (1 << 30) // CHUNK_SIZE_BYTES
SIZES_BYTES = {"4 GiB": 4 << 30, "1 TiB": 1 << 40}


@dataclass(frozen=True)
class Passed:
    """The median snapshot of a volume."""

    wall_seconds: float
    #: Of the command, the services and the servers.
    cpu_seconds: float
    read_bytes: int
    stored_bytes: int


def measure_hints(repeat: int, folder: Path) -> dict[str, Passed]:
    """The median snapshot of each size, in alternating passes.

    Args:
        repeat: snapshots of each size; one more, the first, is not counted.
        folder: where the volumes and the servers' data are; 8 GiB.
    """
    backcast = Backcast(folder, "minio")
    backcast.open()
    try:
        volumes = [_Volume(backcast, name, folder) for name in SIZES_BYTES]
        passes = [[one.snapshot() for one in volumes] for _ in range(repeat + 1)][1:]
    finally:
        backcast.close()
    found = zip(*passes, strict=True)
    return {name: _median(one) for name, one in zip(SIZES_BYTES, found, strict=True)}


class _Volume:
    """A sparse volume with a base, in which the same chunks change again and again."""

    def __init__(self, backcast: Backcast, size: str, folder: Path) -> None:
        self._backcast = backcast
        self._name = size.replace(" ", "-").lower()
        self._path = folder / self._name
        self._hints = folder / f"{self._name}.json"
        self._rng = random.Random(6)
        count = SIZES_BYTES[size] // CHUNK_SIZE_BYTES
        data = sorted(self._rng.sample(range(count), DATA_CHUNKS))
        with self._path.open("wb") as file:
            file.truncate(SIZES_BYTES[size])
        self._write(data)
        self._changed = sorted(self._rng.sample(data, CHANGED_CHUNKS))
        extents = [
            {"offset": index * CHUNK_SIZE_BYTES, "length": CHUNK_SIZE_BYTES}
            for index in self._changed
        ]
        self._hints.write_text(json.dumps(extents))
        backcast.backup(self._name, self._path)

    def snapshot(self) -> Passed:
        """Write new bytes and take a snapshot by hints."""
        self._write(self._changed)
        watch = ServerWatch(self._backcast.servers())
        usage = self._backcast.backup_by_hints(self._name, self._hints)
        servers = watch.stop().servers.values()
        return Passed(
            usage.wall_seconds,
            usage.cpu_seconds + sum(server.cpu_seconds for server in servers),
            int(str(usage.reported["read_bytes"])),
            int(str(usage.reported["stored_bytes"])),
        )

    def _write(self, indexes: list[int]) -> None:
        with self._path.open("r+b") as file:
            for index in indexes:
                file.seek(index * CHUNK_SIZE_BYTES)
                file.write(self._rng.randbytes(CHUNK_SIZE_BYTES))


def _median(passes: tuple[Passed, ...]) -> Passed:
    fields = [field.name for field in dataclasses.fields(Passed)]
    return Passed(*(statistics.median(getattr(one, field) for one in passes) for field in fields))
