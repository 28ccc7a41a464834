"""Hearing what the catalog tells everybody: one connection listens for a whole process.

Postgres keeps no notification for who is not connected. So whoever waits is also woken when the
listening begins, and again each time that it could not: then each wakes and looks by itself.
"""

from collections.abc import Callable
from typing import LiteralString

from libs.catalogdb.pool import Catalog
from libs.runtime.loops import Loop
from libs.runtime.signals import Stop

#: After a lost connection so much time passes until the next try, and so often whoever waits looks.
AGAIN_SECONDS = 1.0
#: Longest time between two looks at the stop.
_LOOK_SECONDS = 0.5
#: A notification is waited for in far less.
_PATIENCE_SECONDS = 60.0


class Listener:
    """What a process hears on one channel.

    Args:
        catalog: where to listen.
        channel: of notifications.
        heard: called with the text of each notification. It must be quick and must not raise.
        missed: called when notifications may have been missed. As ``heard``.
    """

    def __init__(
        self,
        catalog: Catalog,
        channel: LiteralString,
        heard: Callable[[str], object],
        missed: Callable[[], object],
    ) -> None:
        self._catalog = catalog
        self._channel = channel
        self._heard = heard
        self._missed = missed

    def loop(self) -> Loop:
        """The loop that listens."""
        return Loop(
            "listening",
            self.round,
            interval_seconds=AGAIN_SECONDS,
            patience_seconds=_PATIENCE_SECONDS,
            lasting=True,
        )

    def round(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """Listen until asked to stop.

        Raises:
            UnavailableError: the connection cannot be had, or was lost.
        """
        try:
            with self._catalog.listen(self._channel) as connection:
                self._missed()  # nobody told of what came before
                while not stop.requested:
                    for notice in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                        self._heard(notice.payload)
                    progressed()
        finally:
            self._missed()  # nobody tells of what comes until the next round
