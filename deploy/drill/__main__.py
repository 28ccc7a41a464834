"""``make drill``: all but the bucket and the recovery sheet is lost; how long until it is back?

All keys were changed before, in the middle of the history: the new sheet alone is enough. Each step
is timed; the status is 0 only if every recovery point came back byte for byte.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from deploy.demo.command import Command, CommandFailedError
from deploy.local.cluster import LocalCluster
from deploy.local.home import BackcastHome
from libs.errors import BackcastError, DamagedDataError, OutOfSpaceError
from libs.keys.sheet import read_sheet

_MIB = 1 << 20
_VOLUMES = ("system", "data")
_SNAPSHOT_COUNT = 3
_INTERRUPTED_EXIT_CODE = 130
_SEED = 20_261_122
#: What a lost site does not have: databases, queues, agents' memories, credentials of servers.
_LOST = ("postgres", "kafka", "agent")


@dataclass(slots=True)
class Steps:
    """How long each step took."""

    tell: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        self.tell.print(f"── {name}", style="bold")
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun


def main() -> int:
    """Run the drill."""
    parser = argparse.ArgumentParser(prog="python -m deploy.drill", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=256, help="of each of the two volumes")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("TMPDIR", "/var/tmp")),  # noqa: S108 -- a random name below it
        help="where ten times that are free (default: TMPDIR, else /var/tmp)",
    )
    args = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _stage(args.folder, args.size_mib * _MIB, console) as folder:
            _drill(folder, args.size_mib * _MIB, console)
    except CommandFailedError as error:  # has said why itself
        return error.exit_code
    except BackcastError as error:
        console.print(str(error), style="red")
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED_EXIT_CODE
    return 0


def _drill(folder: Path, size_bytes: int, console: Console) -> None:
    home = BackcastHome(folder / "home")
    backcast = Command(home.folder, lambda line: console.print(f"$ {line}"))
    steps = Steps(console)
    with steps.step("start servers and services"):
        backcast("dev", "up", "--s3", "soonest")
    with steps.step(f"protect {len(_VOLUMES)} volumes of {size_bytes // _MIB} MiB, several times"):
        known = _protect(folder, size_bytes, backcast)
    with steps.step("change the key-encryption key and the data keys"):
        _change_keys(home, backcast)
        (sheet,) = backcast("keys", "sheet")
    with steps.step("protect once more, under the new keys"):
        known |= _take(folder, backcast)
    with steps.step("lose Postgres, Kafka, agents and volumes"):
        _lose(home, folder, sheet["sheet"], console)
    with steps.step("start new servers and services"):
        backcast("dev", "up")
    with steps.step("rebuild the catalog from the store"):
        (rebuilt,) = backcast("catalog", "rebuild", "--from", "store")
    with steps.step("restore and compare every recovery point"):
        different = _restore(folder, known, backcast, console)
    with steps.step("protect again"):
        _rewrite(folder / "system", random.Random(0), 1)  # noqa: S311 -- content of a file
        (taken,) = backcast("snapshot", "take", "system")
    console.print("")
    for name, seconds in steps.seconds.items():
        console.print(f"{seconds:8.1f} s  {name}")
    report = rebuilt["reconciliation"]
    console.print(
        f"{len(known)} recovery points back, {report['packs_found']} packs read; "
        f"the next snapshot is {taken['point']}"
    )
    if different:
        raise DamagedDataError(f"not what was protected: {', '.join(different)}")


def _protect(folder: Path, size_bytes: int, backcast: Command) -> dict[str, str]:
    """Make the volumes and take all snapshots but the last; the SHA-256 of each recovery point."""
    for volume in _VOLUMES:
        path = folder / volume
        rng = random.Random(f"{_SEED} {volume}")  # noqa: S311 -- content of a file
        with path.open("wb") as file:
            for _ in range(size_bytes // _MIB // 2):  # the other half is a hole
                file.write(rng.randbytes(_MIB))
            file.truncate(size_bytes)
        backcast("volume", "add", volume, path)
    known: dict[str, str] = {}
    for number in range(1, _SNAPSHOT_COUNT):
        known |= _take(folder, backcast)
        for volume in _VOLUMES:
            rng = random.Random(f"{_SEED} {volume} {number}")  # noqa: S311 -- content of a file
            _rewrite(folder / volume, rng, size_bytes // _MIB // 16)
    return known


def _take(folder: Path, backcast: Command) -> dict[str, str]:
    """A snapshot of each volume; the SHA-256 of each recovery point."""
    known = {}
    for volume in _VOLUMES:
        (taken,) = backcast("snapshot", "take", volume)
        known[taken["point"]] = _sha256(folder / volume)
    return known


def _change_keys(home: BackcastHome, backcast: Command) -> None:
    """As `docs/operations.md` says of local servers; afterwards nobody has the old key."""
    backcast("dev", "down")
    previous = home.secret_file("previous-kek")
    home.secret_file("kek").rename(previous)
    backcast("dev", "up")
    backcast("keys", "rotate-kek")
    backcast("dev", "down")
    previous.unlink()
    backcast("dev", "up")
    backcast("keys", "rotate-data")


def _rewrite(path: Path, rng: random.Random, count: int) -> None:
    size_mib = path.stat().st_size // _MIB if path.exists() else count
    with path.open("r+b" if path.exists() else "wb") as file:
        for _ in range(count):
            file.seek(rng.randrange(size_mib) * _MIB)
            file.write(rng.randbytes(_MIB))


def _lose(home: BackcastHome, folder: Path, sheet: str, console: Console) -> None:
    """Only the bucket is left, and the sheet that the key is typed from again."""
    LocalCluster(home).down(console.print)
    for name in _LOST:
        shutil.rmtree(home.data(name))
    for volume in _VOLUMES:
        (folder / volume).unlink()
    home.secret_file("kek").unlink()
    home.write_secret("kek", read_sheet(sheet).kek.text())


def _restore(folder: Path, known: dict[str, str], backcast: Command, console: Console) -> list[str]:
    different = []
    for point, sha256 in known.items():
        out = folder / f"restored-{point}"
        backcast("restore", point, out)
        same = _sha256(out) == sha256
        console.print(f"{point}: SHA-256 {sha256[:16]}…, {'identical' if same else 'DIFFERENT'}")
        if not same:
            different.append(point)
        if point.endswith(f"@{_SNAPSHOT_COUNT}"):
            out.rename(folder / point.partition("@")[0])
        else:
            out.unlink()
    return different


@contextmanager
def _stage(parent: Path, size_bytes: int, console: Console) -> Iterator[Path]:
    """A folder of its own; afterwards nothing runs, and nothing but the logs of a failure stays."""
    needed = 10 * size_bytes + (2 << 30)
    if shutil.disk_usage(parent).free < needed:
        raise OutOfSpaceError(f"{parent}: {needed >> 30} GiB are needed; name another --folder")
    folder = Path(tempfile.mkdtemp(prefix="backcast-drill-", dir=parent))
    logs_to = folder.with_name(f"{folder.name}-logs")
    try:
        yield folder
    except BaseException:
        _clear(folder, console, logs_to)
        raise
    _clear(folder, console, None)


def _clear(folder: Path, console: Console, logs_to: Path | None) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):  # impatience must not leave processes behind
        signal.signal(one, signal.SIG_IGN)
    home = BackcastHome(folder / "home")
    LocalCluster(home).down(lambda _: None)
    logs = home.folder / "log"
    if logs_to and logs.exists():
        logs.rename(logs_to)
        console.print(f"logs of servers and services: {logs_to}")
    shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
