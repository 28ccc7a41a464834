"""What a run measures: a program that backs up and returns volumes, in a fresh repository."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Usage


class NotOfferedError(Exception):
    """The subject cannot do this step at all."""


class Subject(ABC):
    """One program over one pass: opened once, measured step by step, closed once.

    A `Usage` is timed from outside, as the user who waits for the command sees it. `open`, `close`
    and `stored` are not measured.

    Args:
        folder: an empty folder of its own; the caller deletes it after `close`.
        s3_server: kind of the S3 server to store on, where the program can.
    """

    def __init__(self, folder: Path, s3_server: str) -> None:
        self.folder = folder
        self.s3_server = s3_server
        #: What its commands printed; an error quotes the end of it.
        self.log = folder.with_suffix(".log")

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Which version is installed; None if it is not."""

    @abstractmethod
    def open(self) -> None:
        """Starts the servers that it needs and makes an empty repository."""

    @abstractmethod
    def close(self) -> None:
        """Stops everything that `open` started, also after an `open` that failed."""

    @abstractmethod
    def servers(self) -> Mapping[str, int]:
        """The process ids of its servers by name."""

    @abstractmethod
    def backup(self, volume: str, image: Path) -> Usage:
        """Takes a snapshot of `image` as `volume`; a volume's image always has the same path."""

    @abstractmethod
    def restore(self, volume: str, target: Path) -> Usage:
        """Writes the volume's last snapshot to the new file `target`."""

    @abstractmethod
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        """Writes a range of the volume's last snapshot to the new file `target`.

        Raises:
            NotOfferedError: it can only restore whole files.
        """

    @abstractmethod
    def stored(self) -> Mapping[str, int]:
        """Sizes in bytes of the stored objects or files, by name."""


def command_environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of measured commands: a home folder of their own and what they need."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", **settings}
