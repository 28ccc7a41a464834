"""The story: protect a disk, let it live a day, protect it again, lose it, get both days back."""

import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.command import Command
from deploy.demo.disk import DemoDisk

VOLUME = "disk"


@dataclass(frozen=True, slots=True)
class Day:
    """One recovery point of the disk: what was protected, and what came back."""

    #: What ``snapshot take --json`` printed.
    taken: dict[str, Any]
    #: Bytes of the image in blocks that are not all zero.
    data_bytes: int
    sha256: str
    #: What ``restore --json`` printed.
    restored: dict[str, Any]
    restored_sha256: str

    @property
    def identical(self) -> bool:
        """Whether every byte came back."""
        return self.sha256 == self.restored_sha256


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, for the table."""

    days: list[Day]
    #: Byte ranges that differ between the two days.
    extents: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A recovery point, and the original that its restore must equal."""

    taken: dict[str, Any]
    original: Path
    sha256: str


def play(folder: Path, backcast: Command, tell: Callable[[str], None]) -> Story:
    """Tell the story with a disk in ``folder``; the services run already.

    Raises:
        CommandFailedError: a command did not do its part.
        BackcastError: the disk could not be made.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    disk = DemoDisk(folder / "disk.raw", scratch)
    tell("A disk: an ext4 image with files of this machine")
    tell(_timed(disk.build))
    backcast("volume", "add", VOLUME, disk.path)
    first = _protect(disk, backcast, tell)
    tell("A day passes: files in the image come, go and change")
    tell(_timed(disk.live_a_day))
    second = _protect(disk, backcast, tell)
    extents = backcast("diff", first.taken["point"], second.taken["point"])
    tell("The disk is lost. Both days are restored and compared with the originals")
    disk.path.unlink()
    return Story([_restore(kept, backcast, tell) for kept in (first, second)], extents)


def _protect(disk: DemoDisk, backcast: Command, tell: Callable[[str], None]) -> _Kept:
    (taken,) = backcast("snapshot", "take", VOLUME)
    original = disk.path.with_name(f"original-{taken['point']}.raw")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk.path, original], check=True)
    kept = _Kept(taken, original, _sha256(original))
    tell(f"original of {taken['point']} kept aside, SHA-256 {kept.sha256[:16]}…")
    return kept


def _restore(kept: _Kept, backcast: Command, tell: Callable[[str], None]) -> Day:
    point = kept.taken["point"]
    out = kept.original.with_name(f"restored-{point}.raw")
    (restored,) = backcast("restore", point, out)
    sha256 = _sha256(out)
    verdict = "identical" if sha256 == kept.sha256 else "DIFFERENT"
    tell(f"{point}: SHA-256 {sha256[:16]}…, {verdict}")
    data_bytes = kept.original.stat().st_blocks * 512  # `cp` left out every block of zeros
    return Day(kept.taken, data_bytes, kept.sha256, restored, sha256)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _timed(work: Callable[[], str]) -> str:
    begun = time.monotonic()
    what = work()
    return f"{what}, in {time.monotonic() - begun:.1f} s"
