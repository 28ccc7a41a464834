"""The command's standard streams, which whoever starts it may have closed, filled or ended.

What cannot be written to standard output is an error that the exit status tells: a script must not
take an empty file for a result. What cannot be written to standard error is lost, and keeps the
command from nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from libs.errors import OutputError


def prepare_streams() -> None:
    """See to it that the streams are there, and that any character can be written to them.

    A closed descriptor is taken, so that no file that the command opens later gets its number:
    what is meant for people would be written into it. Standard output then refuses every write.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 -- lasts as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 -- the same
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream of other makings, as in a test
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # TextIO has none


def write_line(text: str) -> None:
    """Write a line, or several, to standard output at once.

    Raises:
        OutputError: it does not take them.
        BrokenPipeError: nobody reads it any more.
    """
    with _output():
        print(text, flush=True)


def flush_output() -> None:
    """Write what standard output still holds; errors as `write_line`."""
    with _output():
        sys.stdout.flush()


def tell_line(text: str) -> None:
    """Write a line to standard error, for people; it is lost if that does not take it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Write no more to a stream: Python would complain of it once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        give_up(sys.stdout)
        raise
    except OSError as err:
        give_up(sys.stdout)
        raise OutputError(
            f"standard output: cannot be written: {err.strerror}; what the command did otherwise "
            f"stands"
        ) from err
