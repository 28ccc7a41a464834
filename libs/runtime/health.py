"""Whether a process is alive (its loops make progress) and ready (what it depends on answers)."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import BackcastError
from libs.runtime.signals import Stop

#: Probes run at most this often, however often somebody asks: /readyz needs no token.
_PROBE_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one loop or dependency."""

    name: str
    ok: bool
    #: Seconds since it was last seen working; None if it never was.
    last_ok_seconds_ago: float | None
    #: Why it is not ok, for the operator.
    detail: str


class LoopHealth:
    """A loop that must make progress: it calls `progressed` while it does. Safe from any thread."""

    def __init__(self, name: str, deadline_seconds: float, clock: Callable[[], float]) -> None:
        self.name = name
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        # Registration counts: a loop has one deadline to make its first round.
        self._last_ok = clock()
        self._failure = ""

    def progressed(self) -> None:
        """Note progress, also in the middle of a round."""
        self._last_ok = self._clock()

    def worked(self) -> None:
        """Note that a round was made, or that there was nothing to do."""
        self._failure = ""
        self.progressed()

    def failed(self, reason: str) -> None:
        """Note that a round ended with an error that nobody foresaw: not ready until one works."""
        self._failure = reason

    def alive(self) -> Check:
        """Whether it made progress lately."""
        ago = self._clock() - self._last_ok
        ok = ago <= self._deadline_seconds
        detail = "" if ok else f"no progress for {ago:.0f} s, at most {self._deadline_seconds:g} s"
        return Check(self.name, ok, ago, detail)

    def ready(self) -> Check:
        """Whether it also works: its last round did not fail."""
        alive, failure = self.alive(), self._failure
        if not failure:
            return alive
        return Check(
            self.name, ok=False, last_ok_seconds_ago=alive.last_ok_seconds_ago, detail=failure
        )


class Dependency:
    """A server that the process cannot work without. The probe must have a time-out of its own."""

    def __init__(self, name: str, probe: Callable[[], object], clock: Callable[[], float]) -> None:
        self.name = name
        self._probe = probe
        self._clock = clock
        self._lock = threading.Lock()
        self._probed: float | None = None
        self._last_ok: float | None = None
        self._detail = ""

    def check(self) -> Check:
        """The state now; asks the server unless that was done a moment ago."""
        with self._lock:
            now = self._clock()
            if self._probed is None or now - self._probed >= _PROBE_INTERVAL_SECONDS:
                self._ask()
                self._probed = now = self._clock()
            ago = None if self._last_ok is None else now - self._last_ok
            return Check(self.name, not self._detail, ago, self._detail)

    def _ask(self) -> None:
        try:
            self._probe()
        except BackcastError as err:
            self._detail = f"{err.code}: {err}"
        else:
            self._detail = ""
            self._last_ok = self._clock()


class Health:
    """All checks of a process. Loops decide about /healthz; loops and dependencies about /readyz.

    A process is not ready before `started`, so that no work is sent to it while it sets itself up.
    Nor is it once its stop was requested, by a person or because a thread of it has broken.

    Args:
        stop: the process's.
        clock: monotonic seconds.
    """

    def __init__(
        self, stop: Stop | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stop = stop or Stop()
        self._clock = clock
        self._loops: list[LoopHealth] = []
        self._dependencies: list[Dependency] = []
        self._started = False

    def loop(self, name: str, deadline_seconds: float) -> LoopHealth:
        """Register a loop that must make progress at least every ``deadline_seconds``."""
        loop = LoopHealth(name, deadline_seconds, self._clock)
        self._loops.append(loop)
        return loop

    def depend_on(self, name: str, probe: Callable[[], object]) -> None:
        """Register a server; ``probe`` raises a BackcastError when it does not serve."""
        self._dependencies.append(Dependency(name, probe, self._clock))

    def started(self) -> None:
        """The process is set up and takes work."""
        self._started = True

    def alive(self) -> list[Check]:
        """The loops; the process should be restarted if one of them is not ok."""
        return [loop.alive() for loop in self._loops]

    def ready(self) -> list[Check]:
        """Start-up, the loops and the dependencies; no work should be sent if one is not ok."""
        if self._stop.requested:
            startup = Check("startup", ok=False, last_ok_seconds_ago=None, detail="is stopping")
        else:
            detail = "" if self._started else "still starting"
            startup = Check("startup", self._started, None, detail)
        loops = [loop.ready() for loop in self._loops]
        return [startup, *loops, *(one.check() for one in self._dependencies)]
