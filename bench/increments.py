"""A snapshot of 1 % that changed, by each driver, against a peer's backup of the same image.

The image is full of random bytes. Between two snapshots 1 % of it changes, scattered in pieces of
4 KiB or of 64 KiB. Backcast and the peer then take turns, so that what else the machine does hits
both. A figure is the median of the turns' ratios.
"""

import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.backcast import Backcast
from bench.measure import StepFailedError
from bench.peers import Kopia, NewerRestic, Restic
from bench.served import Served, make_image, place_for, serve
from bench.subject import Subject
from libs.packs.layout import CHUNK_SIZE_BYTES

PIECES_BYTES = {"4 KiB": 4 << 10, "64 KiB": 64 << 10}
#: The grid of Proxmox Backup Server: a chunk of it is stored anew if anything in it changed.
_PROXMOX_CHUNK_BYTES = 4 << 20
#: The newest one of this machine is taken.
_PEERS: Sequence[type[Subject]] = (NewerRestic, Kopia, Restic)


@dataclass(frozen=True)
class Turn:
    """What one change has cost."""

    own_seconds: float
    peer_seconds: float
    #: Bytes of the chunks of 64 KiB that changed.
    changed_bytes: int
    read_bytes: int
    stored_bytes: int
    #: What Proxmox Backup Server would store anew, by arithmetic: random bytes do not compress.
    grid_bytes: int


@dataclass(frozen=True)
class Increments:
    """All turns of a driver and a kind of change."""

    turns: Sequence[Turn]

    @property
    def speed(self) -> float:
        """How many times as fast as the peer."""
        return statistics.median(one.peer_seconds / one.own_seconds for one in self.turns)

    @property
    def read(self) -> float:
        """Bytes read, as a part of the changed chunks."""
        return statistics.median(one.read_bytes / one.changed_bytes for one in self.turns)

    @property
    def stored(self) -> float:
        """Bytes stored, as a part of what the grid of 4 MiB would store."""
        return statistics.median(one.stored_bytes / one.grid_bytes for one in self.turns)


def measure_increments(
    drivers: Sequence[str], size_bytes: int, repeat: int, folder: Path
) -> tuple[str, dict[str, Increments]]:
    """The peer, and what each driver and change has cost.

    Args:
        drivers: of `bench.served.DRIVERS`.
        size_bytes: of the image.
        repeat: turns of each.
        folder: for the image, what both store of it, and the servers' data: four times its size.

    Raises:
        StepFailedError: there is no peer on this machine, or a step fails.
    """
    peer = next((one for one in _PEERS if one.version()), None)
    if peer is None:
        raise StepFailedError("no peer: put restic or kopia on PATH")
    found: dict[str, Increments] = {}
    for driver in drivers:
        work = folder / driver
        work.mkdir()
        found |= _of_driver(driver, peer, size_bytes, repeat, work)
    return peer.version() or "", found


def _of_driver(
    driver: str, peer: type[Subject], size_bytes: int, repeat: int, folder: Path
) -> dict[str, Increments]:
    with ExitStack() as opened:
        place = opened.enter_context(place_for(driver, folder))
        own, other = Backcast(folder / "backcast", "minio"), peer(folder / "peer", "minio")
        for subject in (own, other):
            subject.folder.mkdir()
            subject.open()
            opened.callback(subject.close)
        chunks, rng = size_bytes // CHUNK_SIZE_BYTES, random.Random(8)
        make_image(place / "image.raw", size_bytes, range(chunks), rng)
        served = serve(driver, place / "image.raw", own.folder)
        opened.callback(served.close)
        own.backup("image", served.path, "--driver", driver)
        other.backup("image", served.image)
        return {
            f"{driver}, 1 % in {name}": Increments(
                [_turn(own, other, served, chunks, piece, rng) for _ in range(repeat)]
            )
            for name, piece in PIECES_BYTES.items()
        }


def _turn(  # noqa: PLR0913 -- who takes turns, and with what
    own: Backcast, other: Subject, served: Served, chunks: int, piece: int, rng: random.Random
) -> Turn:
    count = chunks * CHUNK_SIZE_BYTES // 100 // piece
    changed = rng.sample(range(chunks), min(count, chunks))
    for index in changed:
        at = index * CHUNK_SIZE_BYTES + rng.randrange(0, CHUNK_SIZE_BYTES, piece)
        served.write(at, rng.randbytes(piece))
    usage = own.backup("image", served.path)
    theirs = other.backup("image", served.image)
    grid = {index * CHUNK_SIZE_BYTES // _PROXMOX_CHUNK_BYTES for index in changed}
    return Turn(
        usage.wall_seconds,
        theirs.wall_seconds,
        len(changed) * CHUNK_SIZE_BYTES,
        int(str(usage.reported["read_bytes"])),
        int(str(usage.reported["stored_bytes"])),
        len(grid) * _PROXMOX_CHUNK_BYTES,
    )
