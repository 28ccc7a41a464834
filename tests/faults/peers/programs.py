"""Other backup programs under the same harness: a repository in a folder, one file in it.

What they are tried with is their own: default encryption and compression, their own full check.
"""

import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

_PASSWORD = "faults"
#: restic tries again for a quarter of an hour what a local disk has refused.
_COMMAND_SECONDS_MAX = 15


class Program(ABC):
    """A backup program, its repository in ``folder/repository``, and what it is told to protect.

    Every method that runs a command returns its exit status; a command that takes longer than
    15 seconds is killed and counts as failed.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.log = folder / "log"

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Variables of its commands."""

    @property
    @abstractmethod
    def version(self) -> str:
        """As the program names itself."""

    @abstractmethod
    def init(self) -> int:
        """Make the repository."""

    @abstractmethod
    def backup(self, source: Path, label: str) -> int:
        """Protect a file."""

    @abstractmethod
    def labels(self) -> list[str]:
        """What it says that it holds; empty if it cannot say."""

    @abstractmethod
    def restore(self, source: Path, label: str, target: Path) -> int:
        """Give a protected file back, below an empty folder."""

    @abstractmethod
    def check(self) -> int:
        """Read and verify everything."""

    @abstractmethod
    def argv(self, *words: str | Path) -> list[str]:
        """A command of the program."""

    def run(self, *words: str | Path, cwd: Path | None = None) -> int:
        """Run a command; its output goes to the log."""
        with self.log.open("ab") as log:
            try:
                return subprocess.run(
                    self.argv(*words), env={**os.environ, **self.environment}, cwd=cwd,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    timeout=_COMMAND_SECONDS_MAX, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                return -1

    def read(self, *words: str | Path) -> str:
        """What a command prints; empty if it fails."""
        result = subprocess.run(
            self.argv(*words), env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_COMMAND_SECONDS_MAX, check=False,
        )  # fmt: skip
        return result.stdout.strip() if result.returncode == 0 else ""

    def restored(self, source: Path, label: str) -> tuple[int, bytes | None]:
        """Exit status of a restore, and what it wrote."""
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        status = self.restore(source, label, target)
        path = target / source.relative_to("/")
        return status, path.read_bytes() if path.is_file() else None


class Restic(Program):
    """restic: packs of up to 16 MiB, indexes, snapshots; AES-256-CTR and Poly1305."""

    name = "restic"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"RESTIC_PASSWORD": _PASSWORD, "RESTIC_REPOSITORY": str(self.repository)}

    @property
    def version(self) -> str:
        return " ".join(self.read("version").split()[:2])

    def argv(self, *words: str | Path) -> list[str]:
        return ["restic", "--no-cache", "--quiet", *map(str, words)]

    def init(self) -> int:
        return self.run("init")

    def backup(self, source: Path, label: str) -> int:
        return self.run("backup", "--tag", label, source)

    def labels(self) -> list[str]:
        listing = self.read("snapshots", "--json")
        return [tag for one in json.loads(listing or "[]") for tag in one.get("tags") or ()]

    def restore(self, source: Path, label: str, target: Path) -> int:
        return self.run("restore", "latest", "--tag", label, "--target", target)

    def check(self) -> int:
        return self.run("check", "--read-data")


class Borg(Program):
    """borg 1: segments of a log; AES-256-CTR and HMAC-SHA256."""

    name = "borg"

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "BORG_PASSPHRASE": _PASSWORD,
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(self.folder),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "no",
        }

    @property
    def version(self) -> str:
        return self.read("--version")

    def argv(self, *words: str | Path) -> list[str]:
        return ["borg", *map(str, words)]

    def init(self) -> int:
        return self.run("init", "--encryption", "repokey-blake2")

    def backup(self, source: Path, label: str) -> int:
        return self.run("create", f"::{label}", source)

    def labels(self) -> list[str]:
        return self.read("list", "--short").split()

    def restore(self, source: Path, label: str, target: Path) -> int:
        return self.run("extract", f"::{label}", cwd=target)

    def check(self) -> int:
        return self.run("check", "--verify-data")


PROGRAMS: tuple[type[Program], ...] = (Restic, Borg)
