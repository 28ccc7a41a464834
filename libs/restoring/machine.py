"""A whole VM, restored into a new folder: its disks, the files of its definition, and a script.

Order: folder made → archive of the definition → its files → each disk → the script, which is the
commit: a folder without it is of a restore that did not end, and starts nothing. An error or a kill
leaves the folder for whoever asked to look at, and to remove.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.errors import ConflictError, DamagedDataError, NotFoundError, TargetError
from libs.machines.archive import ARCHIVE_SIZE_BYTES_MAX, DEFINITION_NAME, unpack_archive
from libs.machines.definition import encode_definition
from libs.machines.places import machine_of
from libs.machines.starting import start_script
from libs.points import RecoveryPoint
from libs.rest.client import RestClient
from libs.restoring.restore import restore

_ARCHIVE = "definition.tar"
_SCRIPT = "start"
_FOLDER_MODE, _FILE_MODE, _SCRIPT_MODE = 0o700, 0o600, 0o700

#: Told the recovery point, its bytes that are done, and all of them.
Progressed = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that was restored."""

    volume: str
    image: Path


@dataclass(frozen=True, slots=True)
class RestoredMachine:
    """What a restore of a VM has made; every chunk was verified."""

    script: Path
    disks: Sequence[RestoredDisk]
    bytes: int
    #: Devices of disks that the recovery point has no bytes of.
    missing: Sequence[str]
    #: Names of options of the command line that the script does not have.
    withheld: Sequence[str]


def restore_machine(
    client: RestClient,
    tenant: str,
    snapshot: Mapping[str, Any],
    folder: Path,
    *,
    progressed: Progressed,
) -> RestoredMachine:
    """Restore a VM.

    Args:
        client: of the restore service.
        tenant: name of the tenant.
        snapshot: as the restore service shows it, and the name of the volume that is the definition
            as ``definition``.
        folder: to make.
        progressed: called now and then, from any thread.

    Raises:
        ConflictError: the folder exists.
        DamagedDataError: the definition is none.
        TargetError: the folder or a file cannot be written.
        BackcastError: as of `libs.restoring.restore.restore`.
    """
    volumes = {one["volume"]: one for one in snapshot["volumes"]}
    definition_at = volumes[snapshot["definition"]]
    place = machine_of(Path(definition_at["path"]))
    if place is None or definition_at["size_bytes"] > ARCHIVE_SIZE_BYTES_MAX:
        raise DamagedDataError(f"volume {snapshot['definition']}: it is no definition of a VM")

    give_back = _Giving(client, tenant, folder, progressed)
    _make(folder)
    restored_bytes = give_back(definition_at, _ARCHIVE)
    definition, files = unpack_archive((folder / _ARCHIVE).read_bytes())
    for name, content in files.items():
        _write(folder / name, content, _FILE_MODE)
    _write(folder / DEFINITION_NAME, encode_definition(definition), _FILE_MODE)
    by_path = {one["path"]: one for one in volumes.values()}
    images = dict[str, str]()
    disks = list[RestoredDisk]()
    for disk in definition.disks:
        found = by_path.get(f"{place.socket}{disk.device}")
        if found is None:
            continue
        images[disk.device] = f"{found['volume']}.img"
        restored_bytes += give_back(found, images[disk.device])
        disks.append(RestoredDisk(found["volume"], folder / images[disk.device]))
    script = start_script(f"{snapshot['group']}@{snapshot['sequence']}", definition, images)
    _write(folder / _SCRIPT, script.encode(), _SCRIPT_MODE)
    return RestoredMachine(
        script=folder / _SCRIPT,
        disks=disks,
        bytes=restored_bytes,
        missing=[one.device for one in definition.disks if one.device not in images],
        withheld=definition.withheld,
    )


@dataclass(frozen=True, slots=True)
class _Giving:
    """Restores volumes of a snapshot into the folder."""

    client: RestClient
    tenant: str
    folder: Path
    progressed: Progressed

    def __call__(self, volume: Mapping[str, Any], name: str) -> int:
        """Restore one under a name; its bytes."""
        point = RecoveryPoint(volume["volume"], str(volume["sequence"]))
        figures = restore(
            self.client,
            self.tenant,
            point,
            self.folder / name,
            force=False,
            progressed=lambda done, total: self.progressed(str(point), done, total),
        )
        return figures.bytes


def _make(folder: Path) -> None:
    try:
        folder.mkdir(_FOLDER_MODE)
    except FileExistsError:
        raise ConflictError(f"{folder}: is there already; name a folder to make") from None
    except FileNotFoundError:
        raise NotFoundError(f"{folder}: there is no folder {folder.parent}; make it") from None
    except OSError as err:
        raise TargetError(f"{folder}: {err.strerror}") from err


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, which is durable when this returns."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- of a descriptor
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise TargetError(f"{path}: {err.strerror}") from err
