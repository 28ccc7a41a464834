"""A request of a client until its reply is whole, and what has come of the reply."""

from collections.abc import Iterator

from libs.errors import DamagedDataError
from libs.nbd.export import Extent
from libs.nbd.layout import STATUS_EXTENT, Command, CommandFlag, ErrorNumber

#: Parts of one read that may be known at once without touching each other. Servers that are known
#: send their chunks in order.
_PARTS_MAX = 1024


class Coverage:
    """Which bytes of a read have come. Chunks in order cost nothing; others are kept as ranges."""

    __slots__ = ("_parts", "end")

    def __init__(self) -> None:
        #: Everything before it has come.
        self.end = 0
        #: Ranges beyond that, ascending, which neither touch nor overlap.
        self._parts: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> bool:
        """Add a range. Returns False if some of it was there already, or parts are too many."""
        if start < self.end:
            return False
        parts = self._parts
        if not parts:
            if start == self.end:
                self.end = end
            else:
                parts.append((start, end))
            return True
        at = next((n for n, part in enumerate(parts) if part[0] >= start), len(parts))
        if (at and parts[at - 1][1] > start) or (at < len(parts) and parts[at][0] < end):
            return False
        if at < len(parts) and parts[at][0] == end:
            end = parts.pop(at)[1]
        if at and parts[at - 1][1] == start:
            at -= 1
            start = parts.pop(at)[0]
        parts.insert(at, (start, end))
        if parts[0][0] == self.end:
            self.end = parts.pop(0)[1]
        return len(parts) <= _PARTS_MAX


class Pending:
    """A request that was made. The session fills it in; `is_done` says that it is whole."""

    __slots__ = (
        "command", "cookie", "coverage", "error", "error_offset", "flags", "has_chunks", "into",
        "is_done", "length", "message", "offset", "status",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 -- the fields of a request, made once per request
        self,
        command: int,
        flags: int,
        cookie: int,
        offset: int,
        length: int,
        into: memoryview | None = None,
    ) -> None:
        self.command = command
        self.flags = flags
        self.cookie = cookie
        self.offset = offset
        self.length = length
        #: Where a READ's bytes go. What is there after an error means nothing.
        self.into = into
        self.coverage: Coverage | None = None
        #: Whether the reply is structured.
        self.has_chunks = False
        self.is_done = False
        #: The first error of the reply, with the server's words and the offset, if it named one.
        self.error: ErrorNumber | None = None
        self.message = ""
        self.error_offset: int | None = None
        #: Of a BLOCK_STATUS: extents by the id of their context, as they came.
        self.status: dict[int, bytearray] = {}

    def extents(self, context_id: int) -> Iterator[Extent]:
        """Extents that a BLOCK_STATUS found in a context, ascending, from the request's offset.

        They may end before the request's end, or after it.

        Raises:
            DamagedDataError: the server has sent what cannot be.
        """
        at, end = self.offset, self.offset + self.length
        for length, flags in STATUS_EXTENT.iter_unpack(self.status[context_id]):
            if not length or at >= end:
                raise DamagedDataError(
                    f"NBD block status of {self.length} bytes at {self.offset}: expected extents "
                    f"that are not empty and begin before {end}, got {length} bytes at {at}"
                )
            if self.flags & CommandFlag.REQ_ONE and length > self.length:
                raise DamagedDataError(
                    f"NBD block status of {self.length} bytes at {self.offset}: expected one "
                    f"extent within, got {length} bytes"
                )
            yield Extent(at, length, flags)
            at += length

    def __repr__(self) -> str:
        return f"{Command(self.command).name} of {self.length} bytes at {self.offset}"
