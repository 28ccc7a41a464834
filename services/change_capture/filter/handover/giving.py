"""The predecessor's side of a hand-over.

Order: no order of an agent is taken any more, views end → clients stop at a quiet moment → volume
flushed → marks saved, and said to be clean → sockets sent → the volume's lock let go of → the
successor locks it → it says unclean, durably: **the commit** → it serves. Whoever has the lock may
write the volume, and nobody else.

If the successor is gone or too slow without the lock, this process locks again. If the state is
still as it left it, nobody has served, and it goes on with all its clients and marks. Otherwise
the successor has committed, and may have served: this process knows nothing of its writes, and
ends.
"""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable

from libs.errors import (
    BackcastError,
    ConfigurationError,
    ConflictError,
    DamagedDataError,
    UnavailableError,
)
from services.change_capture.filter.connection import Connection
from services.change_capture.filter.cuts import FilterCuts
from services.change_capture.filter.marks.state import VolumeFacts
from services.change_capture.filter.marks.tracking import Tracking
from services.change_capture.filter.messages import (
    Done,
    HandingOver,
    Standing,
    Taken,
    TakeOver,
    receive_order,
    send,
)
from services.change_capture.filter.serving import Serving

log = logging.getLogger(__name__)

#: A client in the middle of its handshake gets so long to end it.
_HANDSHAKE_SECONDS = 1.0
#: A successor that has not locked the volume by then does not get it.
_PATIENCE_SECONDS = 10.0
_REASON = "the filter handed over to its successor"


class Giving:
    """Hands a filter over when a successor asks for it. Thread-safe.

    Args:
        about: what a successor must serve, and how.
        cuts: of the volume.
        tracking: what is known of its cuts.
        clients: that are handed over.
        facts: of the volume, read now.
        on_end: called once, when nothing is served here any more. It is told why the successor has
            all, or None if it has.
    """

    def __init__(  # noqa: PLR0913 -- all that is handed over
        self,
        about: TakeOver,
        cuts: FilterCuts,
        tracking: Tracking,
        clients: Serving,
        facts: Callable[[], VolumeFacts],
        on_end: Callable[[BackcastError | None], None],
    ) -> None:
        self._about = about
        self._cuts = cuts
        self._disk = cuts.volume.disk
        self._tracking = tracking
        self._clients = clients
        self._facts = facts
        self._on_end = on_end
        #: Held while a hand-over is under way, and by `stop` for ever.
        self._turn = threading.Lock()
        #: Whether nothing is served here any more.
        self.is_over = False

    def give(self, connection: socket.socket, wanted: TakeOver) -> None:
        """Hand over to the process at the other end of a control connection.

        Raises:
            ConfigurationError: it would serve another volume, or in another way.
            ConflictError: the volume is held at a barrier, or this process stops.
            BackcastError: the state folder or the volume fails.
            OSError: the connection broke.
        """
        self._check(wanted)
        if not self._turn.acquire(blocking=False):
            raise ConflictError(f"volume {self._disk.path}: it is being handed over or stopped")
        try:
            if not self.is_over:
                self._give(connection)
        finally:
            self._turn.release()

    def stop(self) -> bool:
        """No hand-over begins any more. Returns whether something is still served here."""
        self._turn.acquire()
        return not self.is_over

    def _check(self, wanted: TakeOver) -> None:
        if wanted != self._about:
            raise ConfigurationError(
                f"volume {self._disk.path}: the running filter is {self._about}, and the successor "
                f"would be {wanted}; stop the running one to change that"
            )

    def _give(self, connection: socket.socket) -> None:
        self._cuts.retire(_REASON)
        log.info("handing over")
        try:
            standing = self._clients.pause(_HANDSHAKE_SECONDS)
            self._save()
            self._send(connection, standing)
        except BaseException:
            self._go_on()
            raise
        self._disk.unlock()
        if self._is_taken(connection):
            self._end(None)

    def _save(self) -> None:
        try:
            self._disk.flush()
        except OSError as err:
            raise UnavailableError(f"volume {self._disk.path}: {err.strerror}") from err
        self._tracking.stop(self._cuts.volume.marks, self._facts())

    def _send(self, connection: socket.socket, standing: list[Connection]) -> None:
        listeners = self._clients.listeners
        sessions = [(one.socket, one.standing) for one in standing]
        given = [(peer, session) for peer, session in sessions if session is not None]
        send(
            connection,
            HandingOver(
                len(listeners),
                self._tracking.last_stop,
                [Standing(one.is_structured, one.contexts, one.unread) for _, one in given],
            ),
        )
        for one in (*listeners, *(peer for peer, _ in given)):
            socket.send_fds(connection, [b"."], [one.fileno()])

    def _is_taken(self, connection: socket.socket) -> bool:
        """Wait for the successor; if there will be none, go on, or end."""
        try:
            send(connection, Done())
            while not select.select([connection], [], [], _PATIENCE_SECONDS)[0]:
                if self._disk.try_lock():
                    raise TimeoutError("it has not locked the volume in time")
            if isinstance(receive_order(connection), Taken):
                return True
            raise ConnectionResetError("it has gone")
        except (OSError, DamagedDataError) as err:
            log.warning("successor lost", extra={"detail": str(err)})
            with contextlib.suppress(OSError):
                connection.close()
        self._take_back()
        return False

    def _take_back(self) -> None:
        """The successor has gone, or is about to."""
        try:
            self._disk.lock(
                _PATIENCE_SECONDS
            )  # a process that ends lets go of its files one by one
            if self._tracking.take_back():
                self._serve_again()
                return
            reason: BackcastError = UnavailableError(
                f"volume {self._disk.path}: the successor ended after it took over; what it wrote "
                f"is not known here"
            )
        except BackcastError as err:
            reason = err
        self._end(reason)

    def _go_on(self) -> None:
        """It has come to nothing before the lock was let go of."""
        try:
            self._tracking.go_on()
        except BackcastError as err:  # the state may say clean, so nothing may be written
            self._end(err)
            return
        self._serve_again()

    def _serve_again(self) -> None:
        self._cuts.resume()
        self._clients.resume()
        log.warning("not handed over; it goes on here")

    def _end(self, reason: BackcastError | None) -> None:
        self.is_over = True
        self._clients.retire()
        log.info("handed over" if reason is None else "hand-over failed")
        self._on_end(reason)
