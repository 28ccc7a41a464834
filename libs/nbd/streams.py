"""The two ends of a session's byte stream: what was received, and what is to be sent."""

from libs.errors import InvariantViolation

#: Longer than any message but payloads, so a whole one always fits; and 16 reads of 4 KiB at once.
INBOX_SIZE_BYTES = 128 << 10

Bytes = bytes | bytearray | memoryview


class Inbox:
    """Received bytes until they are understood, or the way of a payload to where it belongs.

    A transport receives into `buffer` and reports by `received`. While a payload is expected whose
    destination is known, the buffer is that destination, and nothing is copied.

    Args:
        size_bytes: of what is received ahead.
    """

    __slots__ = ("_destination", "_view", "end", "memory", "start")

    def __init__(self, size_bytes: int = INBOX_SIZE_BYTES) -> None:
        #: Bytes ``start`` to ``end`` of it are received and not understood yet.
        self.memory = bytearray(size_bytes)
        self.start = 0
        self.end = 0
        self._view = memoryview(self.memory)
        self._destination: memoryview | None = None

    @property
    def is_direct(self) -> bool:
        """Whether the next bytes go to a payload's destination."""
        return self._destination is not None

    @property
    def has_room(self) -> bool:
        """Whether `buffer` would not be empty."""
        return self._destination is not None or self.end - self.start < len(self.memory)

    def buffer(self) -> memoryview:
        """Where to receive next; empty while nothing more fits. Pieces that were given are void."""
        if self._destination is not None:
            return self._destination
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start and self.end > len(self.memory) // 2:
            held = self.end - self.start
            self._view[:held] = self._view[self.start : self.end]
            self.start, self.end = 0, held
        return self._view[self.end :]

    def received(self, count: int) -> None:
        """``count`` bytes have come into `buffer`.

        Raises:
            InvariantViolation: more than fit.
        """
        if self._destination is not None:
            if count > len(self._destination):
                raise InvariantViolation(
                    f"NBD transport: {count} bytes received into {len(self._destination)}"
                )
            rest = self._destination[count:]
            self._destination = rest if len(rest) else None
            return
        if self.end + count > len(self.memory):
            raise InvariantViolation(f"NBD transport: {count} bytes received beyond the buffer")
        self.end += count

    def fill(self, destination: memoryview) -> bool:
        """Let the next bytes go there. Returns whether they are all there already."""
        have = min(self.end - self.start, len(destination))
        destination[:have] = self._view[self.start : self.start + have]
        self.start += have
        if have == len(destination):
            return True
        self._destination = destination[have:]
        return False

    def piece(self, size_bytes_max: int) -> memoryview:
        """Take what has come, up to ``size_bytes_max``; void at the next `buffer`."""
        have = min(self.end - self.start, size_bytes_max)
        piece = self._view[self.start : self.start + have]
        self.start += have
        return piece

    def take(self, size_bytes: int) -> bytes:
        """Take bytes that have come."""
        taken = bytes(self._view[self.start : self.start + size_bytes])
        self.start += size_bytes
        return taken


class Outbox:
    """Buffers that a transport is to send in order; payloads are referred to, not copied."""

    __slots__ = ("buffers", "size_bytes")

    def __init__(self) -> None:
        self.buffers: list[Bytes] = []
        #: Of all buffers.
        self.size_bytes = 0

    def put(self, data: Bytes) -> None:
        """Send this after all that was put before."""
        self.buffers.append(data)
        self.size_bytes += len(data)

    def take(self) -> list[Bytes]:
        """All buffers; they are the transport's from now on."""
        taken, self.buffers, self.size_bytes = self.buffers, [], 0
        return taken
