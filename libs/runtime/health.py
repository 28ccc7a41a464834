"""Whether a process is alive (its loops make progress) and ready (what it depends on answers)."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.errors import BackcastError, UnavailableError
from libs.runtime.signals import Stop
from libs.runtime.threads import is_expected, start_thread

log = logging.getLogger(__name__)

#: Probes run at most this often, however often somebody asks: /readyz needs no token.
_PROBE_INTERVAL_SECONDS = 1.0
#: All probes run side by side and together have so long. Kubernetes gives up after 5 s, and then it
#: is told nothing.
READY_SECONDS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one loop or dependency."""

    name: str
    ok: bool
    #: Seconds since it was last seen working; None if it never was.
    last_ok_seconds_ago: float | None
    #: Why it is not ok, for everybody: /readyz needs no token, so no address and no name is in it.
    reason: str = ""
    #: The same for the log, with all that is known.
    detail: str = ""
    #: Whether the process can take no work at all while it is not ok.
    is_needed: bool = True
    #: Whether it is about another server.
    is_server: bool = False


class LoopHealth:
    """A loop that must make progress: it calls `progressed` while it does. Safe from any thread."""

    def __init__(self, name: str, deadline_seconds: float, clock: Callable[[], float]) -> None:
        self.name = name
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        # Registration counts: a loop has one deadline to make its first round.
        self._last_ok = clock()
        self._failure = ""
        self._detail = ""
        self._is_put_off = False

    def progressed(self) -> None:
        """Note progress, also in the middle of a round."""
        self._last_ok = self._clock()

    def worked(self) -> None:
        """Note that a round was made, or that there was nothing to do."""
        self._failure, self._is_put_off = "", False
        self.progressed()

    def put_off(self, err: BackcastError) -> None:
        """Note that a round was put off by an expected error: told, and no reason to restart."""
        reason = f"its last round was put off ({err.code}); the log says why"
        self._failure, self._detail, self._is_put_off = reason, str(err), True
        self.progressed()

    def failed(self, reason: str, detail: str = "") -> None:
        """Note that a round ended with an error that nobody foresaw: not ready until one works.

        Args:
            reason: for everybody.
            detail: for the log; ``reason`` if empty.
        """
        self._failure, self._detail, self._is_put_off = reason, detail or reason, False

    def alive(self) -> Check:
        """Whether it made progress lately."""
        ago = self._clock() - self._last_ok
        ok = ago <= self._deadline_seconds
        reason = "" if ok else f"no progress for {ago:.0f} s, at most {self._deadline_seconds:g} s"
        return Check(self.name, ok, ago, reason, reason)

    def ready(self) -> Check:
        """Whether it also works: its last round did not fail."""
        alive, failure = self.alive(), self._failure
        if not failure or (self._is_put_off and not alive.ok):
            return alive
        return Check(
            self.name,
            ok=False,
            last_ok_seconds_ago=alive.last_ok_seconds_ago,
            reason=failure,
            detail=self._detail,
            is_needed=not self._is_put_off,
        )


class Dependency:
    """A server that the process works with, asked in a thread of its own.

    A probe that gets no answer keeps its thread until it does, and nobody waits for it longer than
    `READY_SECONDS_MAX` from its beginning. Meanwhile no other probe begins.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], object],
        clock: Callable[[], float],
        *,
        is_needed: bool,
    ) -> None:
        self.name = name
        self._probe = probe
        self._clock = clock
        self._is_needed = is_needed
        self._changed = threading.Condition()
        #: When the probe that is under way began; None: none is.
        self._begun: float | None = None
        self._probed: float | None = None
        self._last_ok: float | None = None
        self._reason = ""
        self._detail = ""

    def begin(self) -> None:
        """Ask the server, unless that is under way or was done a moment ago."""
        with self._changed:
            now = self._clock()
            if self._begun is not None:
                return
            if self._probed is not None and now - self._probed < _PROBE_INTERVAL_SECONDS:
                return
            self._begun = now
        start_thread(f"probe {self.name}", self._ask, daemon=True)

    def check(self) -> Check:
        """What the server answered; waits for what is left of the time of a probe under way.

        While a server is away nobody waits: what it answered a moment ago is told.
        """
        with self._changed:
            if self._begun is not None and not self._has_failed_lately():
                left = READY_SECONDS_MAX - (self._clock() - self._begun)
                self._changed.wait_for(lambda: self._begun is None, max(0.0, left))
            now = self._clock()
            ago = None if self._last_ok is None else now - self._last_ok
            reason, detail = self._reason, self._detail
            if self._begun is not None and not self._has_failed_lately():
                reason = f"no answer for {max(now - self._begun, READY_SECONDS_MAX):.0f} s"
                detail = f"{reason}; before that: {self._detail or 'it answered'}"
            return Check(
                self.name, not reason, ago, reason, detail, self._is_needed, is_server=True
            )

    def _has_failed_lately(self) -> bool:
        probed = self._probed
        is_fresh = probed is not None and self._clock() - probed <= READY_SECONDS_MAX
        return bool(self._reason) and is_fresh

    def _ask(self) -> None:
        reason = detail = ""
        try:
            self._probe()
        except Exception as err:
            code = err.code if isinstance(err, BackcastError) else type(err).__name__
            reason = f"does not answer as it should ({code}); the log says more"
            detail = f"{code}: {err}"
            if not is_expected(err):
                log.critical("probe failed", exc_info=err, extra={"check": self.name})
        with self._changed:
            self._reason, self._detail = reason, detail
            self._begun, self._probed = None, self._clock()
            if not reason:
                self._last_ok = self._probed
            self._changed.notify_all()


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

    def depend_on(self, name: str, probe: Callable[[], object], *, is_needed: bool = True) -> None:
        """Register a server.

        Args:
            name: of the server, for everybody.
            probe: asks it, and raises a BackcastError when it does not serve. It runs in a thread
                of its own, and should end within `READY_SECONDS_MAX`.
            is_needed: the process can take no work without it; else it is told and decides nothing.
        """
        self._dependencies.append(Dependency(name, probe, self._clock, is_needed=is_needed))

    def started(self) -> None:
        """The process is set up and takes work."""
        self._started = True

    def alive(self) -> list[Check]:
        """The loops; the process should be restarted if one of them is not ok."""
        return [loop.alive() for loop in self._loops]

    def ready(self) -> list[Check]:
        """Start-up, the loops and the dependencies; returns within `READY_SECONDS_MAX`.

        No work should be sent if one that is needed is not ok.
        """
        for dependency in self._dependencies:
            dependency.begin()
        reason = "is stopping" if self._stop.requested else ""
        if not reason and not self._started:
            reason = "still starting"
        startup = Check("startup", not reason, None, reason, reason)
        loops = [loop.ready() for loop in self._loops]
        return [startup, *loops, *(one.check() for one in self._dependencies)]


def health_document(checks: Sequence[Check]) -> tuple[bool, dict[str, object]]:
    """Whether everything that is needed is ok, and the state of each check for everybody.

    If something is not, the document is a problem document too, for clients that know no checks.
    """
    ok = all(check.ok for check in checks if check.is_needed)
    document: dict[str, object] = {
        "ok": ok,
        "checks": [
            {
                "name": one.name,
                "ok": one.ok,
                "needed": one.is_needed,
                "server": one.is_server,
                "last_ok_seconds_ago": one.last_ok_seconds_ago,
                "reason": one.reason,
            }
            for one in checks
        ],
    }
    if not ok:
        why = "; ".join(f"{one.name}: {one.reason}" for one in checks if not one.ok)
        document |= {"code": UnavailableError.code, "detail": why}
    return ok, document
