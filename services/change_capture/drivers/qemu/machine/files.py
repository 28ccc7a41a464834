"""Files of a VM beside its disks: its stores of variables, and the state of its TPM.

QEMU says where they are, and may lie. So they are opened as volumes are: within the roots of the
tenant, and never what is the agent's own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.errors import SourceError
from libs.machines.archive import FILES_SIZE_BYTES_MAX, TPM_NAME, flash_name
from libs.machines.definition import is_firmware
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.qemu.machine.telling import FlashTold

_READ_SIZE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file's bytes, and when it was last changed."""

    content: bytes = field(repr=False)
    identity: tuple[int, int, int, int]


def files_of(
    flash: tuple[FlashTold, ...], tpm_state: Path | None, roots: Roots, tenant: str
) -> Mapping[str, FileRead]:
    """The files that are kept, by their names in the archive.

    Firmware of the distribution is not kept: nobody writes to it.

    Raises:
        SourceError: one of them is not open to the tenant, or too large.
    """
    wanted = {flash_name(one.unit): Path(one.file) for one in flash if is_kept(one)}
    if tpm_state is not None:
        wanted[TPM_NAME] = tpm_state
    found, left_bytes = dict[str, FileRead](), FILES_SIZE_BYTES_MAX
    for name, path in wanted.items():
        found[name] = _read(roots, tenant, path, left_bytes)
        left_bytes -= len(found[name].content)
    return found


def is_kept(flash: FlashTold) -> bool:
    """Whether the bytes of a flash device belong to the VM."""
    return not (flash.is_read_only and is_firmware(flash.file))


def _read(roots: Roots, tenant: str, path: Path, size_bytes_max: int) -> FileRead:
    source = roots.open(tenant, path)
    try:
        about = os.fstat(source.descriptor)
        if about.st_size > size_bytes_max:
            raise SourceError(
                f"file {path}: {about.st_size} bytes; expected at most {size_bytes_max} for what a "
                f"VM has beside its disks"
            )
        content = bytearray()
        while piece := os.pread(source.descriptor, _READ_SIZE_BYTES, len(content)):
            content += piece
            if len(content) > size_bytes_max:
                raise SourceError(f"file {path}: it grows while it is read")
    except OSError as err:
        raise SourceError(f"file {path}: {err.strerror}") from err
    finally:
        source.close()
    identity = about.st_dev, about.st_ino, about.st_mtime_ns, about.st_ctime_ns
    return FileRead(bytes(content), identity)
