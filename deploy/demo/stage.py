"""The place of a demonstration: a folder of its own, in which nothing stays and nothing runs on."""

import argparse
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from deploy.demo.command import CommandFailedError
from deploy.local.cluster import LocalCluster
from deploy.local.home import BackcastHome
from libs.errors import BackcastError, OutOfSpaceError

_INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What is shown.

    Attributes:
        program: how it is started.
        about: what it shows, in a paragraph.
        space_bytes: that it needs.
        perform: shows it, in a folder; raises BackcastError or CommandFailedError if it fails.
        afterwards: what is said in the end.
        kept: the same, if everything is left running; {home} and {folder} are replaced.
    """

    program: str
    about: str
    space_bytes: int
    perform: Callable[[Path, Console], None]
    afterwards: str
    kept: str


def show(one: Demonstration, arguments: Sequence[str] | None = None) -> int:
    """Show it; 0 only if all went as it must."""
    parser = argparse.ArgumentParser(prog=one.program, description=one.about)
    parser.add_argument(
        "--keep", action="store_true", help="leave servers, services and files for a closer look"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("TMPDIR", "/var/tmp")),  # noqa: S108 -- a random name below it
        help=f"where {one.space_bytes >> 30} GiB are free for a temporary folder (default: TMPDIR, "
        f"else /var/tmp)",
    )
    args = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _stage(one, args.folder, console, keep=args.keep) as folder:
            one.perform(folder, console)
    except CommandFailedError as error:  # has said why itself
        return error.exit_code
    except BackcastError as error:
        console.print(str(error), style="red")
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted")
        return _INTERRUPTED_EXIT_CODE
    return 0


@contextmanager
def _stage(one: Demonstration, parent: Path, console: Console, *, keep: bool) -> Iterator[Path]:
    """A folder of its own; afterwards nothing runs, and nothing but the logs of a failure stays."""
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < one.space_bytes:
        raise OutOfSpaceError(
            f"{parent}: {free_bytes >> 30} GiB are free, the demonstration needs "
            f"{one.space_bytes >> 30}; name another folder: --folder DIR"
        )
    folder = Path(tempfile.mkdtemp(prefix="backcast-demo-", dir=parent))
    try:
        yield folder
    except KeyboardInterrupt:
        _clear(folder, console)
        raise
    except BaseException:
        _clear(folder, console, logs_to=folder.with_name(f"{folder.name}-logs"))
        raise
    if keep:
        console.print(one.kept.format(home=_quoted(folder / "home"), folder=_quoted(folder)))
    else:
        _clear(folder, console)
        console.print(one.afterwards)


def _clear(folder: Path, console: Console, logs_to: Path | None = None) -> None:
    """Stop what runs and remove the folder; impatience must not leave processes behind."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    home = BackcastHome(folder / "home")
    LocalCluster(home).down(console.print)
    logs = home.folder / "log"
    if logs_to and logs.exists():
        logs.rename(logs_to)
        console.print(f"logs of servers and services: {logs_to}")
    shutil.rmtree(folder)


def _quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
