"""What this agent has made in QEMU processes, and where: so that a later process finds it.

A file for each view, written before anything of it is made and removed when all of it is gone; and
a file for each volume that has a kept bitmap. A record says where to look, and proves nothing: what
is there is told by its names.
"""

import contextlib
import errno
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from libs.errors import OutOfSpaceError, UnavailableError
from services.change_capture.drivers.qemu.names import ID_LENGTH
from services.change_capture.enrolment import write_durably

_VERSION = 1
_SUFFIX = ".json"
Kind = Literal["views", "volumes"]


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """Where a disk is."""

    tenant: str
    path: str
    #: Whether the NBD server of its process is of this agent's making.
    has_nbd: bool = False


class DiskRecords:
    """All records of this node. Thread-safe: a record is written and removed in one step.

    Args:
        state_folder: of the agent.
    """

    def __init__(self, state_folder: Path) -> None:
        self.folder = state_folder / "qemu"

    def agent(self) -> str:
        """The id of this agent, which stays the same while its state folder does.

        Raises:
            UnavailableError: it cannot be kept.
        """
        path = self.folder / "agent"
        with contextlib.suppress(OSError, ValueError):
            known = path.read_text()
            if len(bytes.fromhex(known)) * 2 == ID_LENGTH:
                return known
        fresh = new_id()
        self._write(path, fresh)
        return fresh

    def write(self, kind: Kind, name: str | UUID, record: DiskRecord) -> None:
        """Write a record durably, in one step.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        self._write(self._path(kind, name), json.dumps({"version": _VERSION, **asdict(record)}))

    def read(self, kind: Kind, name: str | UUID) -> DiskRecord | None:
        """A record; None if there is none that can be read."""
        try:
            fields = json.loads(self._path(kind, name).read_bytes())
            if fields.pop("version") != _VERSION:
                return None
            return DiskRecord(**fields)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None

    def remove(self, kind: Kind, name: str | UUID) -> None:
        """Remove a record; harmless if there is none."""
        with contextlib.suppress(OSError):  # what stays is found again
            self._path(kind, name).unlink(missing_ok=True)

    def names(self, kind: Kind) -> Iterator[str]:
        """Names of the records of a kind."""
        with contextlib.suppress(OSError):
            yield from sorted(p.stem for p in (self.folder / kind).iterdir() if p.suffix == _SUFFIX)

    def _path(self, kind: Kind, name: str | UUID) -> Path:
        return self.folder / kind / f"{name}{_SUFFIX}"

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, text)
        except OSError as err:
            about = f"record of a disk {path}: {err.strerror}"
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpaceError(f"{about}; free space in the agent's state folder") from err
            raise UnavailableError(f"{about}; check the agent's state folder") from err


def new_id() -> str:
    """An id by chance."""
    return secrets.token_hex(ID_LENGTH // 2)
