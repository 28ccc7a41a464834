"""How far each partition was read, from where a successor must read, and what is to be read again.

Pure: what is read and stored is the caller's business.
"""

import threading
from collections.abc import Collection, Iterable, Mapping

from libs.kafka.consumer import Partition


class Positions:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: Mapping[Partition, int] = {}
        self._again: dict[Partition, int] = {}

    def note_read(self, positions: Mapping[Partition, int]) -> None:
        """Remember how far each partition was read; everything before was handled."""
        with self._lock:
            self._read = dict(positions)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Partitions whose parts are about to be left to others: nothing of them is stored."""
        with self._lock:
            self._read = {at: read for at, read in self._read.items() if at not in partitions}

    def read(self) -> Mapping[Partition, int]:
        """How far each partition was read; the same object as long as nothing changes."""
        with self._lock:
            return self._read

    def note_taken_away(self, partition: Partition, start_offset: int) -> None:
        """Somebody else closed our attempt at the part whose capture begins there.

        Its session may be open: what is read again of one that has ended is skipped.
        """
        with self._lock:
            at = self._again.get(partition, start_offset)
            self._again[partition] = min(at, start_offset)

    def to_read_again(self) -> Mapping[Partition, int]:
        """Partitions to read again, and from where; each is told once.

        A chunker that lost a partition in a rebalance may still take a part of it over, and then do
        nothing with it: the new owner must take it again, or the session waits for its deadline.
        """
        with self._lock:
            offsets, self._again = self._again, {}
        return offsets


def kept_back(
    read: Mapping[Partition, int], begun: Iterable[tuple[Partition, int]]
) -> Mapping[Partition, int]:
    """Where a successor begins in each partition: no later than any part that is in work.

    Args:
        read: how far each partition was read; known before ``begun``, and the same after it, so
            that every part which begins before such a position is among them, or has ended.
        begun: partition and first offset of each part that is in work.
    """
    positions = dict(read)
    for partition, start_offset in begun:
        if partition in positions:
            positions[partition] = min(positions[partition], start_offset)
    return positions
