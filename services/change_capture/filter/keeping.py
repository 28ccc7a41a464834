"""What a write asks before it overwrites a chunk for the first time after a cut."""

from dataclasses import dataclass
from typing import Protocol

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


_: type[Keeper] = FrozenBytes
