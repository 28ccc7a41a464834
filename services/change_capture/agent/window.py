"""The window: spans that have been offered and wait until their chunker has taken what it wants.

It bounds the agent's memory. A scanner that wants a new buffer while all are out waits; a chunker's
request gives one back. A span that has left is read again from the source if someone asks late.
"""

import threading
from uuid import UUID

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from libs.spans.messages import CHUNKS_PER_SPAN_MAX

#: Bytes of a span's buffer: 32 MiB.
SPAN_SIZE_BYTES = CHUNKS_PER_SPAN_MAX * CHUNK_SIZE_BYTES


class Window:
    """Buffers shared by all captures of the agent. Thread-safe.

    Args:
        span_count_max: buffers at most, 32 MiB each; made when first needed, then used again: fresh
            memory costs more in page faults than hashing it does.
    """

    def __init__(self, span_count_max: int) -> None:
        self._free: list[memoryview] = []
        self._unmade = span_count_max
        self._spans: dict[tuple[UUID, int], memoryview] = {}
        self._stopped: set[UUID] = set()
        self._changed = threading.Condition()

    def preallocate(self) -> None:
        """Make all buffers, resident: a node that has not the memory shows it before any backup.

        The first backup is spared their page faults, too: 3 % of its CPU time.
        """
        while self._may_make():
            self.give_back(memoryview(large_buffer(SPAN_SIZE_BYTES, resident=True)))

    def take_buffer(self, capture: UUID) -> memoryview:
        """A buffer for a scanner; waits while all are out.

        Raises:
            SourceError: the capture was stopped meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: capture in self._stopped or self._free or self._unmade)
            if capture in self._stopped:
                raise SourceError(f"capture {capture}: it was stopped")
            if self._free:
                return self._free.pop()
            self._unmade -= 1
        return memoryview(large_buffer(SPAN_SIZE_BYTES))

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer that was not offered."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()

    def offer(self, capture: UUID, batch: int, buffer: memoryview) -> None:
        """Keep a span's bytes for its chunker. Call it before the batch is published."""
        with self._changed:
            if capture in self._stopped:
                self._free.append(buffer)
                self._changed.notify_all()
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
                self._free.append(self._spans.pop(key))
            self._changed.notify_all()

    def forget(self, capture: UUID) -> None:
        """Drop the note that a capture was stopped, once its threads have ended."""
        with self._changed:
            self._stopped.discard(capture)

    def _may_make(self) -> bool:
        """Whether there may be one more buffer; the caller makes it."""
        with self._changed:
            allowed = self._unmade > 0
            self._unmade -= allowed
            return allowed
