"""Checkpoints in the bucket: written head last, found newest first, thinned out.

Order of writing: parts → head. A crash before the head leaves parts that nothing names, which the
next thinning removes. Order of thinning: head → parts.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libs.checkpoints.checkpoint import (
    SALT_SIZE_BYTES,
    Head,
    open_head,
    open_part,
    part_digest,
    seal_head,
    seal_part,
)
from libs.checkpoints.rows import Row
from libs.keys.kek import KeyEncryptionKey
from libs.store.layout import (
    CHECKPOINTS_PREFIX,
    CheckpointName,
    checkpoint_object,
    parse_checkpoint_object,
)
from libs.store.port import ObjectStore


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found in the bucket and whose head is authentic."""

    name: CheckpointName
    head: Head


class CheckpointShelf:
    """The checkpoints of one bucket. Thread-safe.

    Args:
        store: the bucket.
        kek: signs and encrypts them.
    """

    def __init__(self, store: ObjectStore, kek: KeyEncryptionKey) -> None:
        self._store = store
        self._kek = kek

    def names(self) -> list[CheckpointName]:
        """Names of all heads, oldest first."""
        names = (parse_checkpoint_object(stat.key) for stat in self._store.list(CHECKPOINTS_PREFIX))
        return sorted(
            (name for name in names if name.part is None),
            key=lambda name: (name.incarnation, name.number),
        )

    def newest_state(self) -> Checkpoint | None:
        """The newest checkpoint of a catalog's state; None if there is none.

        Raises:
            DamagedDataError: it was altered. An older one would bring expired snapshots back, so
                taking it is a person's decision: they delete this one.
            WrongKeyError: it needs another key-encryption key.
        """
        for name in reversed(self.names()):
            head = open_head(self._store.get(checkpoint_object(name)), name, self._kek)
            if head.kind == "state":
                return Checkpoint(name, head)
        return None

    def has_head(self, name: CheckpointName) -> bool:
        """Whether the store has this checkpoint's head, asked for by itself."""
        return self._store.stat(checkpoint_object(name)) is not None

    def rows(self, checkpoint: Checkpoint) -> Iterator[Row]:
        """The rows of a checkpoint; one part is in memory at a time."""
        for number, digest in enumerate(checkpoint.head.parts):
            name = CheckpointName(checkpoint.name.incarnation, checkpoint.name.number, number)
            data = self._store.get(checkpoint_object(name))
            yield from open_part(data, name, digest, self._kek)

    def put_part(self, name: CheckpointName, plain: bytes) -> bytes:
        """Write a part; its digest."""
        data = seal_part(name, plain, self._kek, os.urandom(SALT_SIZE_BYTES))
        self._store.put(checkpoint_object(name), data)
        return part_digest(data)

    def put_head(self, name: CheckpointName, head: Head) -> None:
        """Write a head: the checkpoint exists when this returns."""
        data = seal_head(name, head, self._kek, os.urandom(SALT_SIZE_BYTES))
        self._store.put(checkpoint_object(name), data)

    def thin_out(self, keep_count: int) -> None:
        """Delete all but the newest checkpoints, and parts of older ones that have no head."""
        names = self.names()
        if len(names) <= keep_count:
            return
        oldest_kept = names[-keep_count]
        limit = (oldest_kept.incarnation, oldest_kept.number)
        old = [
            name
            for name in map(parse_checkpoint_object, self._keys())
            if (name.incarnation, name.number) < limit
        ]
        for name in sorted(old, key=lambda name: name.part is not None):
            self._store.delete(checkpoint_object(name))

    def _keys(self) -> Iterable[str]:
        return (stat.key for stat in self._store.list(CHECKPOINTS_PREFIX))
