"""Buffers of many MiB that a process makes once and uses again and again."""

import mmap
import threading


def large_buffer(size_bytes: int, *, resident: bool = False) -> mmap.mmap:
    """Zeroed memory of its own mapping.

    Args:
        size_bytes: its size.
        resident: all of it, now. Otherwise pages that are never touched are never resident.

    Not in huge pages, although their page faults cost a fifth: in a virtual machine that gives free
    memory back to its host, huge pages are those that it has to ask for again. A first backup took
    0.3 CPU seconds more of the agent, in alternating runs.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return mmap.mmap(-1, size_bytes, flags=flags | (mmap.MAP_POPULATE if resident else 0))


class BufferPool:
    """Buffers of one size that threads share: made when first needed, then used again. Thread-safe.

    Fresh memory costs more in page faults than hashing it does.

    Args:
        size_bytes: of each buffer.
        count_max: buffers at most, in use and free.
    """

    def __init__(self, size_bytes: int, count_max: int) -> None:
        #: Notified whenever a buffer comes back. Its owner may wait on it for something of its own
        #: as well, and call any method while it holds the lock.
        self.changed = threading.Condition()
        self._size_bytes = size_bytes
        self._count_max = count_max
        self._free: list[memoryview] = []
        self._unmade = count_max

    @property
    def free_count(self) -> int:
        """Buffers that may be taken now."""
        with self.changed:
            return len(self._free) + self._unmade

    def preallocate(self) -> None:
        """Make all buffers, resident: a machine without enough memory fails at start-up."""
        while True:
            with self.changed:
                if self._unmade == 0:
                    return
                self._unmade -= 1
            self.give_back(memoryview(large_buffer(self._size_bytes, resident=True)))

    def try_take(self) -> memoryview | None:
        """A buffer, which the caller gives back; None while all are in use."""
        with self.changed:
            if self._free:
                return self._free.pop()
            if self._unmade == 0:
                return None
            self._unmade -= 1
        return memoryview(large_buffer(self._size_bytes))

    def give_back(self, buffer: memoryview) -> None:
        """Let others have a buffer that was taken."""
        with self.changed:
            self._free.append(buffer)
            assert self.free_count <= self._count_max, "a buffer came back twice"
            self.changed.notify_all()
