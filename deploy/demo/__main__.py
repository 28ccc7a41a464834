"""``make demo``: everything on a fresh machine, then the story of one disk."""

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from deploy.demo.command import Command, CommandFailedError
from deploy.demo.story import VOLUME, play
from deploy.demo.tables import ratios, story_table, topics_table
from deploy.local.cluster import LocalCluster
from deploy.local.home import BackcastHome
from libs.errors import BackcastError, DamagedDataError, OutOfSpaceError
from libs.events.topics import TOPICS
from libs.kafka.topics import count_records

#: Image, its two originals, both restored, the store, Kafka's and PostgreSQL's own files.
_SPACE_BYTES = 6 << 30
_INTERRUPTED_EXIT_CODE = 130
_NEXT = f"""
Where to look next: `make demo ARGS=--keep` leaves all of this running, `make up` starts a place to
stay. Then, as .venv/bin/backcast or after `source .venv/bin/activate`:
  backcast volume add NAME PATH            protect an image, a partition, a disk of your own
  backcast snapshot list                   every recovery point, and what each cost
  backcast translate {VOLUME}@2 1048576        where one byte of it lies in the object store
  backcast events tail --follow            what happened, as it happens
README.md says the rest, docs/architecture.md how it works."""
_KEPT = f"""
Everything still runs. To look around:
  export BACKCAST_HOME={{home}} PATH=$PWD/.venv/bin:$PATH
  backcast snapshot list
  backcast translate {VOLUME}@2 1048576
  backcast events tail
  eval "$(backcast dev env)"               addresses and credentials for other programs
To end it: backcast dev down; rm -r {{folder}}"""


def main() -> int:
    """Play the story; 0 only if both days came back byte for byte."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave servers, services and files for a closer look"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("TMPDIR", "/var/tmp")),  # noqa: S108 -- a random name below it
        help="where 6 GiB are free for a temporary folder (default: TMPDIR, else /var/tmp)",
    )
    args = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _stage(args.folder, console, keep=args.keep) as folder:
            _perform(folder, console)
    except CommandFailedError as error:  # has said why itself
        return error.exit_code
    except BackcastError as error:
        console.print(str(error), style="red")
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted")
        return _INTERRUPTED_EXIT_CODE
    return 0


def _perform(folder: Path, console: Console) -> None:
    home = BackcastHome(folder / "home")
    backcast = Command(home.folder, lambda line: console.print(f"$ {line}", style="bold"))
    backcast("dev", "up", "--s3", "soonest")
    console.print(f"S3 server: {home.s3_server}")
    story = play(folder, backcast, console.print)
    settings = LocalCluster(home).kafka.client_settings
    counts = asyncio.run(count_records(settings, [topic.name for topic in TOPICS]))
    for part in ("", story_table(story), ratios(story), topics_table(counts)):
        console.print(part)
    if not all(day.identical for day in story.days):
        raise DamagedDataError(f"{folder}: a restored image is not what was protected")


@contextmanager
def _stage(parent: Path, console: Console, *, keep: bool) -> Iterator[Path]:
    """A folder of its own; afterwards nothing runs, and nothing but the logs of a failure stays."""
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < _SPACE_BYTES:
        raise OutOfSpaceError(
            f"{parent}: {free_bytes >> 30} GiB are free, the demonstration needs "
            f"{_SPACE_BYTES >> 30}; name another folder: make demo ARGS='--folder DIR'"
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
        console.print(_KEPT.format(home=_quoted(folder / "home"), folder=_quoted(folder)))
    else:
        _clear(folder, console)
        console.print(_NEXT)


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


if __name__ == "__main__":
    sys.exit(main())
