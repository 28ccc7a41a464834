"""The bytes of a volume at a cut, kept while writes go on: copy before write.

Before a chunk is overwritten for the first time after the cut, its bytes are copied into memory,
and a thread writes them to the scratch file. A guest's write waits for memory alone, and for a
bounded time: where the scratch file is too slow, full or broken, the frozen view breaks, and the
guest's write goes on. Nothing of it survives the process: the scratch file has no name.

A reader reads the volume first and asks then which chunks are kept. A chunk that is not kept yet
was not overwritten before the reading ended.
"""

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from libs.runtime.threads import start_thread
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.marks.bitmap import ChunkBitmap

log = logging.getLogger(__name__)

#: Why a frozen view broke, for counting.
BreakReason: TypeAlias = Literal[
    "scratch-full", "scratch-slow", "scratch-failed", "unreadable", "stopped"
]

#: Chunks that wait in memory for the scratch file: 32 MiB.
_WAITING_CHUNKS_MAX = 512
#: Locks of chunks; two chunks may share one.
_LOCKS = 64


class FrozenBytes:
    """A volume as it was when this was made. Thread-safe.

    Args:
        disk: the volume.
        folder: where the scratch file is made; a file system of its own keeps others from harm.
        scratch_size_bytes_max: room of the scratch file.
        wait_seconds_max: longest wait of one write for the scratch file.

    Raises:
        OSError: the scratch file cannot be made.
    """

    def __init__(
        self, disk: Disk, folder: Path, scratch_size_bytes_max: int, wait_seconds_max: float
    ) -> None:
        self._disk = disk
        self._chunk_count = -(-disk.size_bytes // CHUNK_SIZE_BYTES)
        self._scratch_chunks_max = scratch_size_bytes_max // CHUNK_SIZE_BYTES
        self._wait_seconds_max = wait_seconds_max
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        self._scratch = os.open(folder, flags, 0o600)
        #: Chunks whose bytes of the cut are in memory or in the scratch file.
        self._kept = ChunkBitmap(self._chunk_count)
        self._kept_count = 0
        #: Of those, chunks that were holes: they are zeros, and nowhere.
        self._holes = ChunkBitmap(self._chunk_count)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        #: Guards what follows; notified when any of it changes.
        self._changed = threading.Condition()
        self._memory: dict[int, bytes] = {}
        self._unwritten: deque[int] = deque()
        self._reserved = 0
        self._readers = 0
        self.broken: str | None = None
        #: Told why it broke, at most once.
        self.on_broken: Callable[[BreakReason], None] = lambda _: None
        self._is_over = False
        self._writer = start_thread("scratch", self._write_scratch, daemon=True)

    @property
    def kept_bytes(self) -> int:
        """Bytes of chunks that were kept until now."""
        return self._kept_count * CHUNK_SIZE_BYTES

    def keep(self, first: int, last: int) -> None:
        """Keep chunks ``first`` to ``last`` before they are overwritten; never raises."""
        kept = self._kept
        if first == last:
            if first not in kept and self.broken is None:
                self._keep(first, time.monotonic() + self._wait_seconds_max)
            return
        until = time.monotonic() + self._wait_seconds_max
        for extent, is_hole in self._extents(first, last):
            for chunk in range(extent[0], extent[1]):
                if self.broken is not None:
                    return
                if chunk in kept:
                    continue
                if is_hole:
                    self._keep_hole(chunk)
                else:
                    self._keep(chunk, until)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of the cut; zeros beyond the volume's end.

        Args:
            start: a multiple of the chunk size.
            buffer: whole chunks, beginning at a page where the disk is read past the page cache.

        Raises:
            SourceError: the frozen view is broken, or the disk fails.
        """
        wanted = max(0, min(len(buffer), self._disk.size_bytes - start))
        self._require_whole()
        try:
            self._disk.read(start, buffer[:wanted])
            first = start // CHUNK_SIZE_BYTES
            for number in range(-(-wanted // CHUNK_SIZE_BYTES)):
                if first + number in self._kept:
                    at = number * CHUNK_SIZE_BYTES
                    end = min(at + CHUNK_SIZE_BYTES, wanted)
                    self._read_kept(first + number, buffer[at:end])
        except OSError as err:
            raise SourceError(f"volume {self._disk.path}: {err.strerror} at byte {start}") from err
        self._require_whole()
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)

    def data(self, start: int) -> Iterator[ByteRange]:
        """Where data may have been at the cut, from byte ``start`` on; aligned to chunks.

        Raises:
            SourceError: the disk fails.
        """
        end = self._disk.size_bytes
        if start >= end:
            return
        first, last = start // CHUNK_SIZE_BYTES, (end - 1) // CHUNK_SIZE_BYTES
        begin = -1
        for (low, high), is_hole in self._extents(first, last):
            for chunk in range(low, high):
                # A hole of now may have been data that was kept, and data may have been a hole.
                was_data = chunk not in self._holes and (not is_hole or chunk in self._kept)
                if was_data and begin < 0:
                    begin = chunk
                elif not was_data and begin >= 0:
                    yield ByteRange(begin * CHUNK_SIZE_BYTES, chunk * CHUNK_SIZE_BYTES)
                    begin = -1
        if begin >= 0:
            yield ByteRange(begin * CHUNK_SIZE_BYTES, (last + 1) * CHUNK_SIZE_BYTES)

    def break_off(self, reason: str, kind: BreakReason = "stopped") -> None:
        """Nothing is kept any more; whoever reads gets an error with the reason."""
        with self._changed:
            if self.broken is None and not self._is_over:
                self.broken = reason
                self.on_broken(kind)
                log.error("frozen view broken", extra={"detail": reason})
            self._memory.clear()
            self._unwritten.clear()
            if self._scratch >= 0:
                os.ftruncate(self._scratch, 0)
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of what was kept. Writers may still call `keep`."""
        with self._changed:
            self.broken = self.broken or "it was closed"
            self._is_over = True
            self._memory.clear()
            self._unwritten.clear()
            self._changed.notify_all()
        self._writer.join()
        with self._changed:
            while self._readers:
                self._changed.wait()
            os.close(self._scratch)
            self._scratch = -1

    def _require_whole(self) -> None:
        if self.broken is not None:
            raise SourceError(
                f"volume {self._disk.path}: the filter's frozen view is broken: {self.broken}; "
                f"take the snapshot again"
            )

    def _extents(self, first: int, last: int) -> Iterator[tuple[tuple[int, int], bool]]:
        """Stretches of chunks, and whether each is a hole of the disk all over."""
        at, end = first, last + 1
        while at < end:
            hole_end = self._disk.hole_end(at * CHUNK_SIZE_BYTES)
            holes = min(end, hole_end // CHUNK_SIZE_BYTES)
            if hole_end >= self._disk.size_bytes:
                holes = end
            if holes > at:
                yield (at, holes), True
                at = holes
                continue
            data_end = self._disk.data_end(at * CHUNK_SIZE_BYTES)
            until = min(end, max(at + 1, -(-data_end // CHUNK_SIZE_BYTES)))
            yield (at, until), False
            at = until

    def _keep_hole(self, chunk: int) -> None:
        with self._locks[chunk % _LOCKS]:
            if chunk not in self._kept:
                self._holes.mark(chunk, chunk)
                self._kept.mark(chunk, chunk)

    def _keep(self, chunk: int, until: float) -> None:
        with self._locks[chunk % _LOCKS]:
            if chunk in self._kept or not self._reserve(until):
                return
            start = chunk * CHUNK_SIZE_BYTES
            try:
                content = self._disk.read_bytes(
                    start, min(CHUNK_SIZE_BYTES, self._disk.size_bytes - start)
                )
            except OSError as err:
                self.break_off(
                    f"a chunk cannot be read before it is overwritten: {err.strerror}", "unreadable"
                )
                return
            with self._changed:
                if self.broken is not None:
                    return
                self._memory[chunk] = content
                self._unwritten.append(chunk)
                self._kept_count += 1
                self._kept.mark(chunk, chunk)
                self._changed.notify_all()

    def _reserve(self, until: float) -> bool:
        """Wait for room in memory; whether there is some. If not, the view is broken."""
        with self._changed:
            if self._reserved >= self._scratch_chunks_max:
                self.break_off(
                    f"more than {self._scratch_chunks_max * CHUNK_SIZE_BYTES} bytes were "
                    f"overwritten since the cut; give the scratch file more room",
                    "scratch-full",
                )
                return False
            while self.broken is None and len(self._memory) >= _WAITING_CHUNKS_MAX:
                left = until - time.monotonic()
                if left <= 0:
                    self.break_off(
                        "the scratch file is slower than what is overwritten", "scratch-slow"
                    )
                    return False
                self._changed.wait(left)
            self._reserved += 1
            return self.broken is None

    def _read_kept(self, chunk: int, buffer: memoryview) -> None:
        with self._changed:
            self._require_whole()
            content = self._memory.get(chunk)
            if content is not None:
                buffer[: len(content)] = content
                return
            self._readers += 1
        try:
            if chunk in self._holes:
                buffer[:] = bytes(len(buffer))
                return
            done = os.preadv(self._scratch, (buffer,), chunk * CHUNK_SIZE_BYTES)
            if done != len(buffer):
                raise OSError(errno.EIO, "the scratch file is shorter than what was kept")
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def _write_scratch(self) -> None:
        """Body of the thread that writes what was kept to the scratch file."""
        while True:
            with self._changed:
                while not self._unwritten and not self._is_over:
                    self._changed.wait()
                if self._is_over:
                    return
                chunk = self._unwritten.popleft()
                content = self._memory[chunk]
            try:
                _write(self._scratch, content, chunk * CHUNK_SIZE_BYTES)
            except OSError as err:
                self.break_off(
                    f"the scratch file takes nothing more: {err.strerror}", "scratch-failed"
                )
                continue
            with self._changed:
                self._memory.pop(chunk, None)
                self._changed.notify_all()


def _write(descriptor: int, content: bytes, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, memoryview(content)[done:], offset + done)
