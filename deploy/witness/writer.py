"""Writes records to a shared disk as one of its nodes."""

import random

from deploy.witness.disks import Disk
from deploy.witness.records import (
    RECORD_SIZE_BYTES,
    Layout,
    Record,
    decode_record,
    encode_chunk,
    encode_record,
)


def prepare(layout: Layout, disk: Disk) -> None:
    """Empty the rings and write version 0 of each contended chunk, before any writer begins."""
    for node in range(layout.nodes):
        disk.write(layout.slot_at(node, 0), bytes(layout.slots * RECORD_SIZE_BYTES))
    for chunk in range(layout.contended):
        disk.write(layout.chunk_at(chunk), encode_chunk(layout, chunk, 0))


class Writer:
    """One node that writes; not thread-safe. It must be the only one with its number.

    Contended chunks go round: version ``v`` is written by node ``v % nodes``, once that node has
    read that version ``v - 1`` was acknowledged. Before it writes, a record says what it means to
    write, and after the acknowledgement a record says that it is done.

    Args:
        layout: of the disk.
        node: which node this is, from 0.
        disk: the disk as this node sees it.
        seed: decides what it does when.
    """

    def __init__(self, layout: Layout, node: int, disk: Disk, seed: int) -> None:
        self._layout = layout
        self._node = node
        self._disk = disk
        self._random = random.Random(seed)  # noqa: S311 -- chooses work, keeps no secret
        self._seen = [0] * layout.nodes
        self._done = [0] * layout.contended
        self._meant = [0] * layout.contended

    @property
    def acknowledged(self) -> int:
        """Number of the newest record whose write has returned."""
        return self._seen[self._node]

    def step(self) -> None:
        """Read what the others wrote, and write one record, or a chunk between two records.

        Raises:
            whatever the disk raises. Nothing is known of that write then, and the writer is at its
            end: another one takes its place by `resume`.
        """
        self._look()
        turns = [chunk for chunk, done in enumerate(self._done) if self._is_next(done + 1)]
        if turns and self._random.random() < 0.5:
            self._overwrite(self._random.choice(turns))
        self._record()

    def resume(self) -> None:
        """Go on where this node's records on the disk end, after an earlier writer has died.

        A chunk that the earlier one may have been writing is written again, as half of it may be
        there. Nobody else writes it meanwhile, because nobody has read that it was acknowledged.
        """
        newest = None
        for number in range(self._layout.slots):
            found = self._read(self._node, number)
            if found and found.number > (newest.number if newest else 0):
                newest = found
        if newest:
            self._seen, self._done = list(newest.seen), list(newest.done)
            self._meant = list(newest.meant)
            self._seen[self._node] = newest.number
            pending = [c for c, meant in enumerate(self._meant) if meant > self._done[c]]
            for chunk in pending:
                self._overwrite(chunk)
            if pending:
                self._record()

    def _is_next(self, version: int) -> bool:
        return version % self._layout.nodes == self._node

    def _look(self) -> None:
        for node in range(self._layout.nodes):
            while node != self._node:
                found = self._read(node, self._seen[node] + 1)
                if found is None or found.number <= self._seen[node]:
                    break
                self._seen[node] = found.number
                self._done = [max(pair) for pair in zip(self._done, found.done, strict=True)]

    def _read(self, node: int, number: int) -> Record | None:
        raw = self._disk.read(self._layout.slot_at(node, number), RECORD_SIZE_BYTES)
        found = decode_record(self._layout, raw)
        return found if found and found.node == node else None

    def _overwrite(self, chunk: int) -> None:
        version = self._done[chunk] + 1
        self._meant[chunk] = version
        self._record()
        self._disk.write(self._layout.chunk_at(chunk), encode_chunk(self._layout, chunk, version))
        self._done[chunk] = version

    def _record(self) -> None:
        number = self.acknowledged + 1
        counts = (tuple(self._seen), tuple(self._done), tuple(self._meant))
        record = Record(self._node, number, *counts)
        content = encode_record(self._layout, record)
        self._disk.write(self._layout.slot_at(self._node, number), content)
        self._seen[self._node] = number
