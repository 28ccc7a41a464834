"""What a write asks before it overwrites a chunk for the first time after a cut."""

from typing import Protocol


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
