"""An upgrade in place: this process starts its successor, from the code that is installed now."""

import logging
import os
import subprocess
import sys

from libs.errors import BackcastError
from libs.runtime.signals import Stop
from libs.runtime.supervisor import tell_supervisor
from libs.runtime.threads import start_thread

log = logging.getLogger(__name__)

_TAKE_OVER = "BACKCAST_FILTER_TAKE_OVER"


class Upgrade:
    """Starts a successor on SIGHUP, and ends this process when it serves.

    A successor that somebody else has started, as a new pod beside this one, is served all the
    same. Then this process waits to be told to stop: whoever restarts what has ended would else
    make it the successor's successor.

    Args:
        stop: of this process.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._successor: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the successor, unless one is on its way."""
        if self._successor is not None and self._successor.poll() is None:
            log.warning("a successor is on its way already", extra={"pid": self._successor.pid})
            return
        successor = subprocess.Popen(
            [sys.executable, "-m", "services.change_capture.filter"],
            env={**os.environ, _TAKE_OVER: "true"},
        )
        self._successor = successor
        log.info("successor started", extra={"pid": successor.pid})
        start_thread("successor", self._attend, successor, daemon=True)

    def ended(self, reason: BackcastError | None) -> None:
        """Nothing is served here any more: a successor serves, or a hand-over has failed."""
        if reason is not None:
            self._stop.fail("hand-over", reason)
        elif self._successor is not None and self._successor.poll() is None:
            tell_supervisor(f"MAINPID={self._successor.pid}")
            self._stop.request()
        else:
            log.info("handed over; this process waits to be stopped")

    @staticmethod
    def _attend(successor: subprocess.Popen[bytes]) -> None:
        status = successor.wait()
        log.error("successor ended", extra={"pid": successor.pid, "status": status})
