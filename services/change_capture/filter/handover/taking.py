"""The successor's side of a hand-over."""

import contextlib
import logging
import socket
import time
from pathlib import Path

from libs.errors import ConflictError, DamagedDataError, SourceError, UnavailableError
from libs.nbd.server.events import StandingSession
from services.change_capture.filter.control import is_trusted
from services.change_capture.filter.messages import (
    Done,
    HandingOver,
    Taken,
    TakeOver,
    expect,
    receive_answer,
    send,
)

log = logging.getLogger(__name__)

#: A predecessor waits ten seconds for clients, and writes its marks.
_PATIENCE_SECONDS = 60.0
#: A barrier is over by then.
_CONFLICT_SECONDS_MAX = 70.0
_CONFLICT_LOOK_SECONDS = 0.1


class Inheritance:
    """What a predecessor has handed over. Nothing is done with it before the volume is locked.

    Args:
        connection: to the predecessor.
        listeners: that it had.
        clients: its clients' sockets, and where their sessions stand.
        stop: names its stop. If the state says another one, the rest is out of date.
    """

    def __init__(
        self,
        connection: socket.socket,
        listeners: list[socket.socket],
        clients: list[tuple[socket.socket, StandingSession]],
        stop: str,
    ) -> None:
        self._connection = connection
        self.listeners = listeners
        self.clients = clients
        self.stop = stop

    def confirm(self) -> None:
        """Tell the predecessor that it may let go; if it has gone, it has let go."""
        with contextlib.suppress(OSError):
            send(self._connection, Taken())
        self._connection.close()

    def close(self) -> None:
        """Let go of all sockets. A predecessor that is there still serves its clients again."""
        for one in (*self.listeners, *(peer for peer, _ in self.clients), self._connection):
            one.close()


def inherit(control: Path, about: TakeOver) -> Inheritance | None:
    """Take over from the filter behind a control socket. None: there is none.

    Args:
        control: the socket.
        about: what is to be served, and how.

    Raises:
        ConfigurationError: the running filter serves another volume, or in another way.
        ConflictError: it is busy for too long.
        SourceError: another user runs it.
        UnavailableError: it does not hand over.
        DamagedDataError: it does not speak as expected.
    """
    deadline = time.monotonic() + _CONFLICT_SECONDS_MAX
    while True:
        connection = _connected(control)
        if connection is None:
            return None
        inbox = _Inbox(connection)
        try:
            return inbox.receive(about)
        except ConflictError:
            inbox.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(_CONFLICT_LOOK_SECONDS)
        except OSError as err:
            inbox.close()
            raise UnavailableError(f"filter at {control}: it has not handed over: {err}") from err
        except BaseException:
            inbox.close()
            raise


class _Inbox:
    """What has come of a hand-over."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sockets: list[socket.socket] = []

    def receive(self, about: TakeOver) -> Inheritance:
        """All of it. The predecessor may die after the last socket, which is as good as `Done`."""
        connection = self._connection
        send(connection, about)
        said = expect(receive_answer(connection)[0], HandingOver)
        count = said.listener_count
        for _ in range(count + len(said.connections)):
            self._sockets.append(self._one())
        with contextlib.suppress(OSError):
            expect(receive_answer(connection)[0], Done)
        sessions = [
            StandingSession(one.is_structured, one.contexts, one.unread) for one in said.connections
        ]
        clients = list(zip(self._sockets[count:], sessions, strict=True))
        return Inheritance(connection, self._sockets[:count], clients, said.stop)

    def _one(self) -> socket.socket:
        data, descriptors, _, _ = socket.recv_fds(self._connection, 1, 1)
        sockets = [socket.socket(fileno=one) for one in descriptors]
        if not data:
            raise ConnectionResetError("the predecessor has gone")
        if len(sockets) != 1:
            raise DamagedDataError("hand-over of a filter: expected a descriptor, got none")
        return sockets[0]

    def close(self) -> None:
        """Let go of all."""
        for one in (*self._sockets, self._connection):
            one.close()


def _connected(control: Path) -> socket.socket | None:
    """Raises SourceError if the filter is that of a user who is not trusted."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_PATIENCE_SECONDS)
    try:
        connection.connect(str(control))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as err:
        connection.close()
        raise UnavailableError(f"filter at {control}: {err}") from err
    if not is_trusted(connection):
        connection.close()
        raise SourceError(f"filter at {control}: another user runs it; it is not taken over from")
    return connection
