"""A short conversation with a QEMU process over its QMP socket, by blocking calls of one thread.

Source: QEMU's docs/interop/qmp-spec.rst. A QMP socket serves one client at a time and lets the next
one wait, so a connection is opened for some commands and closed after them, never kept.

This is not the library `qemu.qmp`: that is for asyncio, its form for threads (`qemu.qmp.legacy`) is
under GPL-2.0 alone, and a process that a guest may have taken over decides how long an answer is.
"""

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Self

from libs.errors import DamagedDataError, SourceError, UnavailableError

#: What QEMU says of itself, as JSON has it.
Document = dict[str, Any]
#: Longest line that is read: a process with a thousand disks tells of them in some 2 MB.
_LINE_SIZE_BYTES_MAX = 16 << 20
_RECEIVED_SIZE_BYTES = 64 << 10
#: A process that does not answer a command for so long is taken for hung, or serves somebody else.
PATIENCE_SECONDS = 20.0
#: struct ucred of SO_PEERCRED: process, user, group.
_PEER = struct.Struct("3i")


class QmpConnection:
    """Commands to one QEMU process; used by one thread.

    Args:
        descriptor: of the socket's place (O_PATH), which was judged; stays the caller's.
        name: for messages.
        patience_seconds: longest wait for one answer.

    Raises:
        UnavailableError: nobody answers there, or it serves another client.
        DamagedDataError: what answers is no QEMU.
    """

    def __init__(
        self, descriptor: int, name: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._name = f"QMP socket {name}"
        self._patience_seconds = patience_seconds
        self._received = bytearray()
        self._count = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(patience_seconds)
            # The descriptor stands for what was judged, whatever has its name now.
            self._socket.connect(f"/proc/self/fd/{descriptor}")
            greeting = self._line(time.monotonic() + patience_seconds).get("QMP")
            if not isinstance(greeting, dict):
                raise self._no_qemu("it does not greet as QMP does")
            self.version = _version(greeting)
            self.execute("qmp_capabilities")
        except OSError as err:
            self._socket.close()
            raise self._lost(err) from err
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def user(self) -> int:
        """Id of the user that the process ran as when it began to listen."""
        return self._peer()[1]

    @property
    def process(self) -> int:
        """Number of the process that began to listen; it may have ended. 0: none of this host's."""
        return self._peer()[0]

    def execute(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out; what it returns. Underscores in arguments are hyphens.

        Raises:
            SourceError: QEMU refuses it.
            UnavailableError: it does not answer; nobody knows whether it has done it.
            DamagedDataError: it does not answer as QMP says.
        """
        self._count += 1
        asked = {
            "execute": command,
            "arguments": {key.replace("_", "-"): value for key, value in arguments.items()},
            "id": self._count,
        }
        deadline = time.monotonic() + self._patience_seconds
        try:
            self._socket.settimeout(self._patience_seconds)
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
            while True:
                answer = self._line(deadline)
                if answer.get("id") == self._count:  # and not an event, or an older answer
                    break
        except OSError as err:
            raise self._lost(err) from err
        error = answer.get("error")
        if isinstance(error, dict):
            raise SourceError(f"{self._name}: {command}: {error.get('desc')}")
        if "return" not in answer:
            raise self._no_qemu(f"its answer to {command} has neither a result nor an error")
        return answer["return"]

    def close(self) -> None:
        """End the conversation."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _peer(self) -> tuple[int, int]:
        told = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        process, user, _ = _PEER.unpack(told)
        return int(process), int(user)

    def _line(self, deadline: float) -> Document:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > _LINE_SIZE_BYTES_MAX:
                raise self._no_qemu(f"it sent a line of more than {_LINE_SIZE_BYTES_MAX} bytes")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(_RECEIVED_SIZE_BYTES)
            if not piece:
                raise ConnectionResetError("it closed the connection")
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise self._no_qemu(f"it sent a line of {len(line)} bytes that is no JSON") from err
        if not isinstance(said, dict):
            raise self._no_qemu("it sent a line that is no object")
        return said

    def _lost(self, err: OSError) -> UnavailableError:
        if isinstance(err, TimeoutError):
            return UnavailableError(
                f"{self._name}: no answer for {self._patience_seconds:g} s; does another program "
                f"hold this socket? Give Backcast a QMP socket of its own"
            )
        return UnavailableError(f"{self._name}: {err.strerror or err}; does the VM run?")

    def _no_qemu(self, found: str) -> DamagedDataError:
        return DamagedDataError(f"{self._name}: expected QEMU's QMP, but {found}")


@contextlib.contextmanager
def understanding(what: str) -> Iterator[None]:
    """Take an answer apart; who answers may be a guest that has taken over its process.

    Args:
        what: that is told, for messages.

    Raises:
        DamagedDataError: something in it is missing, or is of another kind.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as err:
        raise DamagedDataError(f"QMP: the answer about {what} is not as QEMU's: {err!r}") from err


def judged_socket(folder: int, name: str) -> int | None:
    """A socket in an open folder, as a place only (O_PATH); None if there is none."""
    with contextlib.suppress(OSError):
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        if os.fstat(found).st_mode & 0o170000 == 0o140000:
            return found
        os.close(found)
    return None


def _version(greeting: Document) -> tuple[int, int]:
    try:
        told = greeting["version"]["qemu"]
        return int(told["major"]), int(told["minor"])
    except (KeyError, TypeError, ValueError):
        return 0, 0
