"""An agent's end of a filter's control socket."""

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path

from libs.errors import SourceError, UnavailableError
from services.change_capture.filter.messages import (
    Answer,
    Order,
    receive_answer,
    send,
)

#: A filter answers at once, but for a hold that waits for writes, and a read of a slow disk.
_PATIENCE_SECONDS = 60.0
_CREDENTIALS = struct.Struct("3i")


class FilterClient:
    """One connection to a filter; threads take turns.

    Args:
        path: of the control socket.

    Raises:
        SourceError: no filter listens there, or that of a user who is not trusted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_PATIENCE_SECONDS)
            self._socket.connect(str(path))
            raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError as err:
            self._socket.close()
            raise SourceError(
                f"control socket {path}: no volume filter answers there ({err.strerror}); start "
                f"the filter in front of the volume, or use another driver"
            ) from err
        user = _CREDENTIALS.unpack(raw)[1]
        if user not in (0, os.geteuid()):
            self._socket.close()
            raise SourceError(
                f"control socket {path}: user {user} listens there; expected root or the agent's "
                f"own user"
            )

    def ask(self, order: Order, into: memoryview | None = None) -> tuple[Answer, bytes]:
        """Give an order. Returns the answer, and bytes with it unless they went ``into``.

        Raises:
            BackcastError: the filter refuses, as it says.
            UnavailableError: it does not answer, or has gone.
            DamagedDataError: it does not speak as expected; the connection is of no use then.
        """
        with self._lock:
            try:
                send(self._socket, order)
                return receive_answer(self._socket, into)
            except OSError as err:
                raise UnavailableError(
                    f"volume filter at {self.path}: it does not answer any more ({err}); was it "
                    f"restarted?"
                ) from err

    def close(self) -> None:
        """End the connection; a hold and a view of it end too."""
        with contextlib.suppress(OSError):
            self._socket.close()
