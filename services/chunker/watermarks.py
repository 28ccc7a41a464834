"""Which chunks of a capture are final, while its batches come through in any order."""


class Watermarks:
    """The watermark that holds once all batches up to some number are through, in any order."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, int] = {}
        self._settled = 0

    def through(self, batch: int, settled_below: int) -> int:
        """Note that a batch is through; returns the index below which everything is final."""
        self._early[batch] = settled_below
        while self._next in self._early:
            self._settled = max(self._settled, self._early.pop(self._next))
            self._next += 1
        return self._settled
