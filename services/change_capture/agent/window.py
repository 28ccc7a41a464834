"""The window: spans that have been offered and wait until their chunker has taken what it wants.

It bounds the agent's memory. A scanner that wants a new buffer while all are out waits; a chunker's
request gives one back. A span that has left is read again from the source if someone asks late.
"""

from uuid import UUID

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import BufferPool
from libs.spans.messages import CHUNKS_PER_SPAN_MAX

#: Bytes of a span's buffer: 32 MiB.
SPAN_SIZE_BYTES = CHUNKS_PER_SPAN_MAX * CHUNK_SIZE_BYTES


class Window:
    """Buffers shared by all captures of the agent. Thread-safe.

    Args:
        span_count_max: buffers at most, 32 MiB each.
    """

    def __init__(self, span_count_max: int) -> None:
        self._buffers = BufferPool(SPAN_SIZE_BYTES, span_count_max)
        self._changed = self._buffers.changed
        self._spans: dict[tuple[UUID, int], memoryview] = {}
        self._stopped: set[UUID] = set()

    @property
    def free_count(self) -> int:
        """Spans for which there is room now."""
        return self._buffers.free_count

    @property
    def stopped_count(self) -> int:
        """Captures that were stopped and are not forgotten yet."""
        with self._changed:
            return len(self._stopped)

    def preallocate(self) -> None:
        """See `BufferPool.preallocate`. It spares the first backup 3 % of its CPU time."""
        self._buffers.preallocate()

    def take_buffer(self, capture: UUID) -> memoryview:
        """A buffer for a scanner; waits while all are out.

        Raises:
            SourceError: the capture was stopped meanwhile.
        """

        def taken() -> memoryview | None:
            if capture in self._stopped:
                raise SourceError(f"capture {capture}: it was stopped")
            return self._buffers.try_take()

        with self._changed:
            buffer = self._changed.wait_for(taken)
        assert buffer is not None
        return buffer

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer that was not offered."""
        self._buffers.give_back(buffer)

    def offer(self, capture: UUID, batch: int, buffer: memoryview) -> None:
        """Keep a span's bytes for its chunker. Call it before the batch is published."""
        with self._changed:
            if capture in self._stopped:
                self._buffers.give_back(buffer)
            else:
                self._spans[capture, batch] = buffer

    def claim(self, capture: UUID, batch: int) -> memoryview | None:
        """Take a span out to send it, or None if it has left; `give_back` the buffer afterwards."""
        with self._changed:
            return self._spans.pop((capture, batch), None)

    def stop(self, capture: UUID) -> None:
        """Drop the capture's spans and wake its waiting scanners. It cannot be used again."""
        with self._changed:
            self._stopped.add(capture)
            for key in [key for key in self._spans if key[0] == capture]:
                self._buffers.give_back(self._spans.pop(key))
            self._changed.notify_all()

    def forget(self, capture: UUID) -> None:
        """Drop the note that a capture was stopped, once its threads have ended."""
        with self._changed:
            self._stopped.discard(capture)
