"""The definition of a VM: what is kept of it beside its disks.

It was told by a process that a guest may have taken over, and whoever restores it runs what is made
of it. So each field has bounds, both where it is written and where it is read, and nothing in it
is a path that anybody opens, except the firmware of the distribution.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from libs.errors import BadInputError, DamagedDataError

#: Most of what a definition lists.
DISK_COUNT_MAX = 256
_OPTION_COUNT_MAX = 512
DEFINITION_SIZE_BYTES_MAX = 1 << 20
#: Where distributions have firmware, which nobody restores.
FIRMWARE_FOLDER = "/usr/share/"

_Text = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: A word of QEMU: a type of device or machine, an architecture.
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}\Z")]
#: QOM path of a device of a VM.
Device = Annotated[
    str,
    Meta(pattern=r"^/machine/peripheral(-anon)?/[A-Za-z0-9_.:\[\]-]{1,80}\Z"),
]


class MachineDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk that a guest can write to."""

    #: QOM path of its device, by which the volume with its bytes is found.
    device: Device
    #: Type of the device.
    kind: Word
    size_bytes: _Count
    #: Format and name of the file that it was in, for people.
    format: _Text
    file: _Text


class Flash(msgspec.Struct, frozen=True, kw_only=True):
    """A flash device: firmware, or its store of variables."""

    unit: Annotated[int, Meta(ge=0, le=7)]
    is_read_only: bool
    #: `raw` or `qcow2`.
    format: Literal["raw", "qcow2"]
    #: Path of the file that it was in.
    file: _Text
    #: Whether the archive has the file's bytes; if not, they are firmware of the distribution.
    is_kept: bool


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM was at a cut."""

    version: Literal[1] = 1
    #: Version of QEMU, for people.
    qemu: _Text
    architecture: Word
    #: Type of the machine, with its version.
    machine: Word
    memory_bytes: _Count
    cpu_count: Annotated[int, Meta(ge=1, le=1 << 16)]
    uuid: Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{0,36}\Z")]
    name: _Text
    #: Options of the command line that are kept, as `libs.machines.options` makes them.
    options: Annotated[tuple[tuple[Word, _Text], ...], Meta(max_length=_OPTION_COUNT_MAX)]
    #: Names of the options that are not kept, because they may say a secret, or mean the old host.
    withheld: Annotated[tuple[Word, ...], Meta(max_length=_OPTION_COUNT_MAX)]
    disks: Annotated[tuple[MachineDisk, ...], Meta(max_length=DISK_COUNT_MAX)]
    flash: Annotated[tuple[Flash, ...], Meta(max_length=8)]
    #: Path of the TPM's state, whose bytes are kept; None: nobody named any.
    tpm_state: _Text | None


def encode_definition(definition: Definition) -> bytes:
    """The definition as JSON for people and programs; the same for the same definition.

    Raises:
        BadInputError: a field is out of its bounds.
    """
    text = msgspec.json.format(msgspec.json.encode(definition), indent=2) + b"\n"
    try:
        decode_definition(text)  # what a reader would refuse is never written
    except DamagedDataError as err:
        raise BadInputError(str(err)) from err
    return text


def decode_definition(text: bytes) -> Definition:
    """Read a definition.

    Raises:
        DamagedDataError: it is none, or out of bounds.
    """
    if len(text) > DEFINITION_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"definition of a VM: {len(text)} bytes, expected at most {DEFINITION_SIZE_BYTES_MAX}"
        )
    try:
        found = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise DamagedDataError(f"definition of a VM: {err}") from err
    for one in found.flash:
        if not one.is_kept and not is_firmware(one.file):
            raise DamagedDataError(
                f"definition of a VM: flash {one.unit} is in {one.file!r}; expected its bytes in "
                f"the archive, or firmware in {FIRMWARE_FOLDER}"
            )
    return found


def is_firmware(file: str) -> bool:
    """Whether a path is where distributions have firmware, and leads nowhere else."""
    return bool(_FIRMWARE.fullmatch(file)) and "/../" not in file


_FIRMWARE = re.compile(re.escape(FIRMWARE_FOLDER) + r"[A-Za-z0-9_.+/-]{1,200}\.(fd|bin|rom|img)")
_decoder = msgspec.json.Decoder(Definition)
