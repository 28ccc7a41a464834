"""What a download's headers ask for: at most one range of bytes, unless the client has it.

RFC 9110, sections 13.1.2 (If-None-Match) and 14 (Range).
"""

import re
from dataclasses import dataclass

from libs.ranges import ByteRange

_ONE_RANGE = re.compile(r"bytes *= *(?:([0-9]{1,19}) *- *([0-9]{1,19})?|-([0-9]{1,19})) *")


_ETAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class NotSatisfiable:
    """The header asks for what cannot be given: 416."""

    reason: str


def parse_range(header: str | None, size_bytes: int) -> ByteRange | NotSatisfiable | None:
    """Which bytes a Range header asks for.

    Several ranges, which HTTP would answer as a multipart document, are refused: every client of
    ours can ask twice, and answering with the whole volume instead would surprise.

    Args:
        header: the header's value, None if there is none.
        size_bytes: length of what is downloaded.

    Returns:
        None if the whole is asked for: no header, or one of a unit that is not bytes, which HTTP
        says to ignore.
    """
    if header is None or not header.strip().lower().startswith("bytes"):
        return None
    match = _ONE_RANGE.fullmatch(header.strip().lower())
    if match is None:
        return NotSatisfiable(f"range {header[:80]!r}: expected one range, as in bytes=0-1048575")
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size_bytes - int(suffix)), size_bytes
    else:
        start, end = int(first), min(size_bytes, size_bytes if last is None else int(last) + 1)
    if start >= end:
        return NotSatisfiable(f"range {header[:80]!r}: there are {size_bytes} bytes")
    return ByteRange(start, end)


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names what would be sent, so that the client has it.

    Args:
        if_none_match: the header's value, None if there is none.
        etag: of what would be sent, with its quotes.
    """
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)
