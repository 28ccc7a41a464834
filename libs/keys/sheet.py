"""The recovery sheet: the key-encryption key on paper, with what is needed to find the store.

Each line of the key carries its own checksum, so a typing error is found on its line.
"""

import re
from dataclasses import dataclass
from hashlib import sha256

from libs.errors import BadInputError
from libs.keys.kek import KEK_SIZE_BYTES, KeyEncryptionKey

_LINE_SIZE_BYTES = 8
_LINE_COUNT = KEK_SIZE_BYTES // _LINE_SIZE_BYTES
#: "3: 1a2b 3c4d 5e6f 7081 - 9d3c"; spaces and case do not matter when it is read back.
_KEY_LINE = re.compile(r"^\s*([1-9])\s*:([0-9a-f\s]*)-([0-9a-f\s]*)$", re.IGNORECASE | re.MULTILINE)

_TEXT = """\
BACKCAST RECOVERY SHEET

Whoever holds this sheet and can reach the store can read everything in it.
Whoever loses every copy of this key has lost the data: no one can restore it.
Print it, keep it away from the machines it protects, and keep more than one copy.

Endpoint:    {endpoint}
Bucket:      {bucket}
Fingerprint: {fingerprint}

Key (four hexadecimal characters a group; after the dash, a checksum of the line):

{lines}

This sheet is of the key with this fingerprint alone. When the key is changed, a new sheet is made,
and this one opens no checkpoint that is written from then on; when the change is complete, it opens
nothing. `backcast keys list` names the fingerprint that is in use.

To use it: write the key without numbers, spaces and checksums into a file (64 characters), give
that file as the key file of every service, and run `backcast catalog rebuild`.
"""


@dataclass(frozen=True, slots=True)
class RecoverySheet:
    """What the sheet says."""

    kek: KeyEncryptionKey
    endpoint: str
    bucket: str


def export_sheet(sheet: RecoverySheet) -> str:
    """The sheet as text in plain words. It contains the key: print it, do not log it."""
    return _TEXT.format(
        endpoint=sheet.endpoint,
        bucket=sheet.bucket,
        fingerprint=sheet.kek.fingerprint.hex(),
        lines="\n".join(
            f"  {number}: {_grouped(part)} - {_line_checksum(number, part)}"
            for number, part in enumerate(_parts(sheet.kek.secret), start=1)
        ),
    )


def read_sheet(text: str) -> RecoverySheet:
    """Read a sheet that was typed in or scanned.

    Raises:
        BadInputError: says which line has a typing error or is missing.
    """
    lines = {int(number): (key, checksum) for number, key, checksum in _KEY_LINE.findall(text)}
    secret = b"".join(_read_line(lines, number) for number in range(1, _LINE_COUNT + 1))
    sheet = RecoverySheet(
        KeyEncryptionKey(secret), _read_field(text, "Endpoint"), _read_field(text, "Bucket")
    )
    fingerprint = _read_field(text, "Fingerprint").lower()
    if fingerprint != sheet.kek.fingerprint.hex():
        raise BadInputError(
            f"recovery sheet: the key has the fingerprint {sheet.kek.fingerprint.hex()}, but the "
            f"sheet says {fingerprint}: check that line, or lines of two sheets were mixed"
        )
    return sheet


def _read_line(lines: dict[int, tuple[str, str]], number: int) -> bytes:
    if number not in lines:
        raise BadInputError(
            f"recovery sheet: line {number} of the key is missing or has a character other than "
            "0-9 and a-f"
        )
    key, checksum = ("".join(part.split()).lower() for part in lines[number])
    if len(key) != 2 * _LINE_SIZE_BYTES:
        raise BadInputError(
            f"recovery sheet: line {number} of the key has {len(key)} characters, expected "
            f"{2 * _LINE_SIZE_BYTES}"
        )
    part = bytes.fromhex(key)
    if checksum != _line_checksum(number, part):
        raise BadInputError(
            f"recovery sheet: line {number} of the key does not match its checksum: look for a "
            f"typing error in it"
        )
    return part


def _read_field(text: str, name: str) -> str:
    found = re.search(rf"^\s*{name}:[ \t]*(\S+)\s*$", text, re.IGNORECASE | re.MULTILINE)
    if not found:
        raise BadInputError(f"recovery sheet: the line '{name}:' is missing or empty")
    return found[1]


def _parts(secret: bytes) -> list[bytes]:
    return [secret[at : at + _LINE_SIZE_BYTES] for at in range(0, len(secret), _LINE_SIZE_BYTES)]


def _grouped(part: bytes) -> str:
    return part.hex(" ", 2)


def _line_checksum(number: int, part: bytes) -> str:
    # The number is included so that exchanged lines are found too.
    return sha256(b"backcast recovery sheet" + bytes([number]) + part).hexdigest()[:4]
