"""What a write asks before it overwrites a chunk for the first time after a cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.errors import UnavailableError
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.frozen import FrozenBytes
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.sharing.lead import LedCut


class Keeper(Protocol):
    """Keeps the bytes of a cut, or has them kept. Thread-safe."""

    @property
    def broken(self) -> str | None:
        """Why something was overwritten that nobody kept; None: it was not."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Bytes that this process keeps for it."""
        ...

    def keep(self, first: int, last: int) -> None:
        """Return when chunks ``first`` to ``last`` are kept, or when it is broken; never raises.

        It waits for a bounded time only.
        """
        ...

    def break_off(self, reason: str) -> None:
        """Nothing is kept any more."""
        ...

    def close(self) -> None:
        """Let go of what was kept. Writers may still call `keep`."""
        ...


@dataclass(frozen=True, slots=True)
class ScratchLimits:
    """Where bytes of before a cut are kept, and how many."""

    folder: Path
    size_bytes_max: int
    #: Longest wait of one write for the scratch file; then the frozen view breaks.
    wait_seconds_max: float


@dataclass(slots=True)
class View:
    """A cut, from its hold on."""

    owner: object
    frozen: Keeper
    #: Where other nodes write the volume too: the cut that this filter leads.
    led: LedCut | None = None
    #: Bits of before, until they are durable.
    before: ChunkBitmap | None = None
    #: Of the cut, when it counts.
    token: str = ""
    is_cut: bool = False
    is_claimed: bool = False


def made_scratch(disk: Disk, limits: ScratchLimits) -> FrozenBytes:
    """What keeps the bytes of a cut on this node.

    Raises:
        UnavailableError: no scratch file can be made.
    """
    try:
        return FrozenBytes(disk, limits.folder, limits.size_bytes_max, limits.wait_seconds_max)
    except OSError as err:
        raise UnavailableError(
            f"scratch folder {limits.folder}: no scratch file can be made: {err.strerror}"
        ) from err


_: type[Keeper] = FrozenBytes
