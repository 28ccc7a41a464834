"""Files that say what changed on a volume, read for ``backcast snapshot take --hints``.

Read are JSON documents of three origins:

* ``rbd diff --format json``: a list of objects with ``offset``, ``length`` and ``exists``. An
  extent that does not exist any more is read like the others: that is safe, whatever is there;
* plain lists of objects with ``offset`` and ``length``, in bytes;
* CSI snapshot metadata, as ``snapshot-metadata-lister`` or protojson write it: a response, or a
  list of them, with ``block_metadata`` (``blockMetadata``) that has ``byte_offset`` and
  ``size_bytes`` (``byteOffset``, ``sizeBytes``). Protojson writes numbers as text and leaves out
  zeros.
"""

import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

from libs.errors import BadInputError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import HINTS_SIZE_BYTES_MAX, RUN_SIZE_BYTES, ChunkRun, pack_runs

_FILE_SIZE_BYTES_MAX = 64 << 20
#: As long as a signed 64-bit number of bytes can say.
_END_MAX = 2**63 - 1
_RUN_COUNT_MAX = HINTS_SIZE_BYTES_MAX // RUN_SIZE_BYTES
#: Longest run that a packed run can say.
_RUN_CHUNKS_MAX = 2**32 - 1

_Number = int | str | None


class _Entry(msgspec.Struct):
    """An extent in one of the forms, or a response with a list of them."""

    offset: _Number = None
    length: _Number = None
    byte_offset: _Number = None
    size_bytes: _Number = None
    byte_offset_json: _Number = msgspec.field(default=None, name="byteOffset")
    size_bytes_json: _Number = msgspec.field(default=None, name="sizeBytes")
    block_metadata: "list[_Entry] | None" = None
    block_metadata_json: "list[_Entry] | None" = msgspec.field(default=None, name="blockMetadata")

    @property
    def entries(self) -> "list[_Entry] | None":
        """The extents of a response; None: it is an extent."""
        if self.block_metadata is not None:
            return self.block_metadata
        return self.block_metadata_json


def read_hints(path: Path) -> bytes:
    """The chunks that a file says have changed, as `libs.ranges.pack_runs`.

    Where they are more runs than a request may have, neighbours are joined over the gaps between
    them: more is read then than needed, and nothing is left out.

    Raises:
        BadInputError: the file cannot be read, is too long, or is none of the three.
    """
    try:
        if path.stat().st_size > _FILE_SIZE_BYTES_MAX:
            raise BadInputError(
                f"hints {path}: {path.stat().st_size} bytes, expected at most "
                f"{_FILE_SIZE_BYTES_MAX}; take the snapshot without them"
            )
        content = path.read_bytes()
    except OSError as err:
        raise BadInputError(f"hints {path}: {err.strerror}; check the path") from err
    try:
        found = msgspec.json.decode(content, type=list[_Entry] | _Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise BadInputError(
            f"hints {path}: {err}; expected the JSON of `rbd diff`, a list of offset and length, "
            f"or CSI snapshot metadata"
        ) from err
    firsts, ends = array("Q"), array("Q")
    try:
        for start, end in sorted(_extents(found if isinstance(found, list) else [found])):
            first, after = start // CHUNK_SIZE_BYTES, -(-end // CHUNK_SIZE_BYTES)
            if ends and first <= ends[-1]:
                ends[-1] = max(ends[-1], after)
            else:
                firsts.append(first)
                ends.append(after)
    except BadInputError as err:
        raise BadInputError(f"hints {path}: {err}") from err
    firsts, ends = _coarsened(firsts, ends)
    return pack_runs(itertools.chain.from_iterable(map(_runs, firsts, ends)))


def _extents(entries: list[_Entry]) -> Iterator[tuple[int, int]]:
    """Start and end of each extent that is not empty, in bytes."""
    for number, entry in enumerate(entries):
        if (inner := entry.entries) is not None:
            yield from _extents(inner)
            continue
        length = _first_of(entry.length, entry.size_bytes, entry.size_bytes_json)
        offset = _first_of(entry.offset, entry.byte_offset, entry.byte_offset_json)
        if offset is None and entry.length is None:
            offset = 0  # protojson leaves out what is 0
        if offset is None or length is None:
            raise BadInputError(
                f"entry {number} has no offset or length; expected offset and length, or "
                f"byte_offset and size_bytes"
            )
        if offset < 0 or length < 0 or offset + length > _END_MAX:
            raise BadInputError(
                f"entry {number}: offset {offset} and length {length}; expected neither to be "
                f"negative, nor an end beyond {_END_MAX}"
            )
        if length:
            yield offset, offset + length


def _first_of(*numbers: _Number) -> int | None:
    for number in numbers:
        if isinstance(number, str):
            if not (number.isascii() and number.isdigit() and len(number) <= 20):
                raise BadInputError(f"{number[:40]!r} is no number of bytes")
            return int(number)
        if number is not None:
            return number
    return None


def _coarsened(firsts: "array[int]", ends: "array[int]") -> "tuple[array[int], array[int]]":
    """The same runs, or fewer that cover them."""
    gap = 1
    while len(firsts) > _RUN_COUNT_MAX:
        coarse_firsts, coarse_ends = array("Q", firsts[:1]), array("Q", ends[:1])
        for first, end in zip(firsts[1:], ends[1:], strict=True):
            if first - coarse_ends[-1] <= gap:
                coarse_ends[-1] = end
            else:
                coarse_firsts.append(first)
                coarse_ends.append(end)
        firsts, ends, gap = coarse_firsts, coarse_ends, 2 * gap
    return firsts, ends


def _runs(first: int, end: int) -> Iterator[ChunkRun]:
    for at in range(first, end, _RUN_CHUNKS_MAX):
        yield ChunkRun(at, min(end - at, _RUN_CHUNKS_MAX))
