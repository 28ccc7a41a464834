"""The command line of the process behind a QMP socket, as far as it may be kept.

The kernel says which process has begun to listen at a socket (SO_PEERCRED). This process may have
ended since, and its number may be another's: another tenant's VM, or a program with a secret. So
the command line counts only if its process has the user that listened, and names this very socket.
"""

import contextlib
import logging
from pathlib import Path

from libs.machines.options import Options, kept_options

log = logging.getLogger(__name__)

_PROCESSES = Path("/proc")
#: The kernel bounds it by a third of a process's stack, which nobody needs.
_SIZE_BYTES_MAX = 1 << 20


def command_line(
    process: int, user: int, socket: Path, processes: Path = _PROCESSES
) -> tuple[Options, tuple[str, ...]]:
    """What is kept of a command line, and the names of options that are not.

    Nothing is kept if the command line is not certainly that of the VM.

    Args:
        process: number of the process.
        user: that it ran as when it began to listen.
        socket: of which it is.
        processes: where the kernel tells of processes.
    """
    arguments = _arguments(process, user, processes)
    if not any(_names(one, str(socket)) for one in arguments):
        about = {"path": str(socket), "detail": f"process {process} does not name the socket"}
        log.warning("command line of a VM not kept", extra=about)
        return (), ()
    return kept_options(arguments[1:])


def _arguments(process: int, user: int, processes: Path) -> list[str]:
    folder = processes / str(process)
    with contextlib.suppress(OSError):
        if process > 0 and folder.stat().st_uid == user:
            with (folder / "cmdline").open("rb") as file:
                said = file.read(_SIZE_BYTES_MAX)
            return [one.decode(errors="replace") for one in said.split(b"\0")[:-1]]
    return []


def _names(argument: str, socket: str) -> bool:
    """Whether an argument has the path of a socket as a whole."""
    at = argument.find(socket)
    if at < 0:
        return False
    before, after = argument[:at][-1:], argument[at + len(socket) :][:1]
    return before in ("", ":", "=", '"') and after in ("", ",", '"')
