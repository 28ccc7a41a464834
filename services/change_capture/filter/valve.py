"""The valve that every write passes, so that all of them can be held for a moment.

Each connection has a `Passage`. It says that it is inside before it looks whether the valve is
closed; whoever closes the valve closes it before they look who is inside. So one of the two sees
the other, without a lock on the way of a write. (The interpreter runs these steps of all threads in
one order.)
"""

import threading
import time
from collections.abc import Callable


class Passage:
    """One connection's way through the valve; used by one thread."""

    __slots__ = ("_valve", "is_inside")

    def __init__(self, valve: "Valve") -> None:
        self._valve = valve
        self.is_inside = False

    def enter(self) -> None:
        """Return when writes may be done; from here on a hold waits for `leave`."""
        self.is_inside = True
        if self._valve.is_closed:
            self._valve.wait_outside(self)

    def leave(self) -> None:
        """All writes since `enter` are done."""
        self.is_inside = False
        if self._valve.is_closed:
            self._valve.left()


class Valve:
    """Lets writes pass, or holds them until a deadline of this process's own clock. Thread-safe."""

    def __init__(self) -> None:
        self.is_closed = False
        self._changed = threading.Condition()
        self._passages: set[Passage] = set()
        self._deadline = 0.0
        self._closed_at = 0.0
        #: Told of each hold that has ended: its seconds, and whether it ended by its deadline. It
        #: must be quick.
        self.on_hold_end: Callable[[float, bool], None] = lambda _seconds, _is_broken: None

    def passage(self) -> Passage:
        """A way through, for a new connection."""
        with self._changed:
            made = Passage(self)
            self._passages.add(made)
            return made

    def remove(self, passage: Passage) -> None:
        """A connection has ended."""
        with self._changed:
            passage.is_inside = False
            self._passages.discard(passage)
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Hold: new writes wait, and this returns when those inside have left.

        Args:
            seconds: after so long the valve opens by itself.

        Returns:
            Whether all have left; if not, the valve is open again.
        """
        with self._changed:
            self._closed_at = time.monotonic()
            self._deadline = self._closed_at + seconds
            self.is_closed = True
            while self.is_closed and any(one.is_inside for one in self._passages):
                self._changed.wait(max(0.0, self._deadline - time.monotonic()))
                self._open_if_over()
            return self.is_closed

    @property
    def is_holding(self) -> bool:
        """Whether the hold lasts until now, unbroken."""
        with self._changed:
            self._open_if_over()
            return self.is_closed

    def open(self) -> bool:
        """Release. Returns whether the hold was unbroken until now."""
        with self._changed:
            self._open_if_over()
            was_closed = self.is_closed
            if was_closed:
                self._open(is_broken=False)
            return was_closed

    def wait_outside(self, passage: Passage) -> None:
        """What `Passage.enter` does at a closed valve."""
        with self._changed:
            while self.is_closed:
                passage.is_inside = False
                self._changed.notify_all()
                self._changed.wait(max(0.0, self._deadline - time.monotonic()))
                self._open_if_over()
            passage.is_inside = True

    def left(self) -> None:
        """What `Passage.leave` does at a closed valve."""
        with self._changed:
            self._changed.notify_all()

    def _open_if_over(self) -> None:
        if self.is_closed and time.monotonic() >= self._deadline:
            self._open(is_broken=True)

    def _open(self, *, is_broken: bool) -> None:
        self.is_closed = False
        self._changed.notify_all()
        self.on_hold_end(time.monotonic() - self._closed_at, is_broken)
