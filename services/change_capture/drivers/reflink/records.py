"""Records of clones that are kept: where each is, and what proves that it is still the same.

A record is a file in the agent's state folder, one for each clone, named after its volume and
session. It is written before the clone has a name, without what only a named file has, and again
when the name is durable. Only a record of the second kind lets its clone be trusted. Every field is
compared with what is found, so a damaged record is as good as none.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from libs.errors import OutOfSpaceError, UnavailableError

_VERSION = 1
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file has that nobody wrote to, renamed, linked or restored. Times: ns since 1970."""

    inode: int
    born_ns: int | None
    #: Of the last change of content, name or attributes; a file system sets it, and nobody else.
    changed_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CloneRecord:
    """One clone that is kept, or that was about to be."""

    #: Of the folder that has the clone.
    folder: str
    folder_inode: int
    #: Of the volume when it was cloned: `FrozenView.identity`.
    identity: str
    #: Chance; the clone has it as well.
    token: str
    #: None: it was not named yet, or nobody knows.
    clone: FileFacts | None


class CloneRecords:
    """All records of this node. Thread-safe: a record is written and removed in one step.

    Args:
        state_folder: of the agent.
    """

    def __init__(self, state_folder: Path) -> None:
        self._folder = state_folder / "clones"

    def write(self, volume: UUID, session: UUID, record: CloneRecord) -> None:
        """Write a record durably, in one step.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        path = self._path(volume, session)
        part = path.with_suffix(".part")
        text = json.dumps({"version": _VERSION, **asdict(record)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except OSError as err:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            about = f"record of a clone {part}: {err.strerror}"
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpaceError(f"{about}; free space in the agent's state folder") from err
            raise UnavailableError(f"{about}; check the agent's state folder") from err

    def read(self, volume: UUID, session: UUID) -> CloneRecord | None:
        """The record of a session's clone; None if there is none that can be read."""
        try:
            fields = json.loads(self._path(volume, session).read_bytes())
            if fields.pop("version") != _VERSION:
                return None
            facts = fields.pop("clone")
            return CloneRecord(**fields, clone=FileFacts(**facts) if facts else None)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None

    def remove(self, volume: UUID, session: UUID) -> None:
        """Remove a record; harmless if there is none."""
        with contextlib.suppress(OSError):  # what stays is found again
            self._path(volume, session).unlink(missing_ok=True)

    def sessions(self, volume: UUID) -> list[UUID]:
        """Sessions of a volume that have a record."""
        return [
            session
            for path in _listed(self._folder / str(volume))
            if path.suffix == _SUFFIX and (session := _uuid(path.stem))
        ]

    def volumes(self) -> Iterator[UUID]:
        """Volumes that have records."""
        return (volume for path in _listed(self._folder) if (volume := _uuid(path.name)))

    def written_at(self, volume: UUID, session: UUID) -> float:
        """When a record was written, in seconds since 1970; 0 if there is none."""
        try:
            return self._path(volume, session).stat().st_mtime
        except OSError:
            return 0.0

    def _path(self, volume: UUID, session: UUID) -> Path:
        return self._folder / str(volume) / f"{session}{_SUFFIX}"


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the file system fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
