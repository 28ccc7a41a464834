"""The archive of a VM's definition: one tar with its files. Bytes in, bytes out.

The same files make the same archive, so a VM that has not changed costs a snapshot nothing. Anybody
can read it with `tar`: it is what a restore of the volume gives.
"""

import io
import tarfile
from collections.abc import Mapping

from libs.errors import BadInputError, DamagedDataError
from libs.machines.definition import Definition, decode_definition, encode_definition

DEFINITION_NAME = "definition.json"
TPM_NAME = "tpm-state"
#: Of all files together: stores of variables are 64 KiB to 4 MiB, and states of a TPM some KiB.
FILES_SIZE_BYTES_MAX = 64 << 20
ARCHIVE_SIZE_BYTES_MAX = FILES_SIZE_BYTES_MAX + (2 << 20)
_MODE = 0o600


def flash_name(unit: int) -> str:
    """Name of the file of a flash device in the archive."""
    return f"flash{unit}"


def pack_archive(definition: Definition, files: Mapping[str, bytes]) -> bytes:
    """The archive of a definition and its files.

    Raises:
        BadInputError: the definition is out of its bounds, or the files are too large.
    """
    size_bytes = sum(map(len, files.values()))
    if size_bytes > FILES_SIZE_BYTES_MAX:
        raise BadInputError(
            f"definition of a VM: its files have {size_bytes} bytes, expected at most "
            f"{FILES_SIZE_BYTES_MAX}"
        )
    members = {DEFINITION_NAME: encode_definition(definition), **files}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(members.items()):
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), _MODE
            archive.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def unpack_archive(packed: bytes) -> tuple[Definition, dict[str, bytes]]:
    """A definition and its files, by the names that `pack_archive` was given.

    Raises:
        DamagedDataError: it is no such archive, or lacks a file that its definition has.
    """
    if len(packed) > ARCHIVE_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"archive of a VM: {len(packed)} bytes, expected at most {ARCHIVE_SIZE_BYTES_MAX}"
        )
    found = dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
            for about in archive:
                content = archive.extractfile(about) if about.isreg() else None
                if content is not None:
                    found[about.name] = content.read()
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as err:
        raise DamagedDataError(f"archive of a VM: it cannot be read: {err}") from err
    if DEFINITION_NAME not in found:
        raise DamagedDataError(f"archive of a VM: it has no {DEFINITION_NAME}")
    definition = decode_definition(found[DEFINITION_NAME])
    wanted = [flash_name(one.unit) for one in definition.flash if one.is_kept]
    wanted += [TPM_NAME] if definition.tpm_state is not None else []
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DamagedDataError(f"archive of a VM: it has no {', '.join(missing)}")
    return definition, {name: found[name] for name in wanted}
