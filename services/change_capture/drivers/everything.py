"""The tracker that knows nothing: all that may hold data is a candidate, and all of it changed."""

from collections.abc import Iterator

from libs.packs.chunk import is_zero, split_chunks
from services.change_capture.drivers.port import (
    Candidate,
    Changes,
    Comparison,
    FrozenView,
    Tracker,
    TrackingLost,
    Trust,
)


class EverythingTracker:
    """Without a base, or where the tracking since it is lost. Keeps nothing.

    Args:
        view: the view.
        lost: why nothing is known, if the order named a base.
    """

    trust: Trust = "everything"

    def __init__(self, view: FrozenView, lost: TrackingLost | None) -> None:
        self._view = view
        self.lost = lost

    def candidates(self) -> Iterator[Candidate]:
        """As the port says."""
        return (Candidate(extent) for extent in self._view.data())

    def compare(self, first: int, count: int) -> Comparison:
        """As the port says."""
        return AllChanged(tells_zeros=False)

    def finish(self) -> None:
        """There is nothing to keep."""

    def settle(self, *, sealed: bool) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """There is nothing to close."""


class AllChanged:
    """Says that each chunk that was read has changed.

    Args:
        tells_zeros: whether chunks that are zeros now are named, as they may not have been; without
            it, what is not named is zeros.
    """

    def __init__(self, *, tells_zeros: bool) -> None:
        self._tells_zeros = tells_zeros

    def changed(self, first: int, buffer: memoryview) -> Changes | None:
        """As the port says."""
        changes = Changes([], [])
        for number, chunk in enumerate(split_chunks(buffer)):
            (changes.zeros if is_zero(chunk) else changes.data).append(number)
        return changes if self._tells_zeros else changes._replace(zeros=[])

    def cleared(self, first: int, count: int) -> list[int]:
        """As the port says."""
        return list(range(first, first + count)) if self._tells_zeros else []

    def finish(self) -> None:
        """Nothing was learnt."""


_: type[Tracker] = EverythingTracker
