"""Where the command ``backcast`` begins: Ctrl-C ends it quietly, whatever it is at.

Most of a short command's time is imports. An interrupt that comes between two of them must end the
command as it does later: with the documented status, and without a traceback. So the handler is
set before anything else is imported, and again before the interpreter cleans up. In between,
Python's own handler raises `KeyboardInterrupt`, so that the command can tidy up.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # takes time, and is imported already when it is needed
    from sys import UnraisableHookArgs

#: What a shell reports for a command that ended by Ctrl-C: 128 + SIGINT.
INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Must be called in the main thread, once. An interrupt does not come back from here: the process
    ends.

    Args:
        arguments: of the command line; those of the process if None.

    Returns: as `services.cli.__main__.main`.
    """
    try:
        import signal  # noqa: PLC0415 -- within the `try`: see above

        is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as `nohup` wants it
        if not is_ignored:
            signal.signal(signal.SIGINT, _end)
        sys.unraisablehook = _on_unraisable
        from services.cli.__main__ import main as run_command  # noqa: PLC0415 -- the same

        if not is_ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run_command(arguments)
        if not is_ignored:
            signal.signal(signal.SIGINT, _end)
    except KeyboardInterrupt:
        _end()
    return status


def _end(*_: object) -> None:
    """End the process at once. Whatever was written is written: the command flushes each line."""
    os._exit(INTERRUPTED_EXIT_CODE)


def _on_unraisable(broken: "UnraisableHookArgs") -> None:
    """An interrupt that hit a finalizer or a callback from C, where it can end nothing, ends it."""
    if issubclass(broken.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(broken)


if __name__ == "__main__":
    sys.exit(main())
