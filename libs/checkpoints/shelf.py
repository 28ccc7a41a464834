"""Checkpoints in the bucket: written head last, found newest first, thinned out.

Order of writing: parts → head. A crash before the head leaves parts that nothing names, which the
next thinning removes.

Order of thinning: heads that are not needed, the newest of them first → their parts. A delta is
always newer than what it builds on, so a crash after any step leaves only heads whose whole chain
is there, and parts without a head.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from libs.checkpoints.checkpoint import (
    SALT_SIZE_BYTES,
    Head,
    Link,
    is_sealed_under,
    object_digest,
    open_head,
    open_part,
    seal_head,
    seal_part,
)
from libs.checkpoints.rows import KINDS, GoneRow, Row, RowKey, key_of, kind_of
from libs.errors import DamagedDataError, NotFoundError
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
        #: What was read of heads that thinning must understand; no name is given to two heads.
        self._heads: dict[CheckpointName, Head] = {}

    def names(self) -> list[CheckpointName]:
        """Names of all heads, oldest first."""
        return _heads_of(self._all())

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
        """All rows of the state that a checkpoint stands for, in the order of `Row`.

        In memory are one part of each link, and the keys of the rows of deltas: together at most a
        quarter of the base's rows, or 1000. A delta is read twice.

        Raises:
            DamagedDataError: the checkpoint, or one that it builds on, was altered or is not there.
        """
        links = self.links_of(checkpoint)
        newest: dict[RowKey, int] = {}
        for number, link in enumerate(links[1:], start=1):
            newest |= {(kind_of(row), key_of(row)): number for row in self._own_rows(link)}
        streams = [_Stream(self._own_rows(link)) for link in links]
        for kind in KINDS:
            for number, stream in enumerate(streams):
                for row in stream.of(kind):
                    is_newest = newest.get((kind, key_of(row)), number) == number
                    if is_newest and not isinstance(row, GoneRow):
                        yield row
        for link, stream in zip(links, streams, strict=True):
            if not stream.is_done:  # else rows would be lost without a word
                raise DamagedDataError(
                    f"checkpoint {link.name.incarnation}/{link.name.number}: its rows are not in "
                    f"the order of {', '.join(KINDS)}"
                )

    def links_of(self, checkpoint: Checkpoint) -> list[Checkpoint]:
        """What a checkpoint builds on, the base first, and itself.

        Raises:
            DamagedDataError: one of them was altered or is not there.
        """
        return [*(self._linked(checkpoint, link) for link in checkpoint.head.chain), checkpoint]

    def objects_of(self, checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
        """Key and bytes of a checkpoint's own objects, the head last; one is in memory at a time.

        Raises:
            DamagedDataError: one of them was altered or exchanged.
            NotFoundError: one of them is not there.
        """
        name, head = checkpoint.name, checkpoint.head
        for number, digest in enumerate(head.parts):
            key = checkpoint_object(CheckpointName(name.incarnation, name.number, number))
            data = self._store.get(key)
            if object_digest(data) != digest:
                raise DamagedDataError(f"object {key}: not the bytes that its head names")
            yield key, data
        key = checkpoint_object(name)
        data = self._store.get(key)
        if open_head(data, name, self._kek) != head:
            raise DamagedDataError(f"object {key}: has changed since it was read")
        yield key, data

    def continues(self, name: CheckpointName, link: Link) -> bool:
        """Whether a delta may build on a link: the store has its head, unchanged.

        One that is sealed under the previous key-encryption key is not built on, so that the next
        checkpoint is a base and needs the present key alone.
        """
        try:
            data = self._store.get(checkpoint_object(CheckpointName(name.incarnation, link.number)))
        except NotFoundError:
            return False
        return object_digest(data) == link.digest and is_sealed_under(data, self._kek)

    def put_part(self, name: CheckpointName, plain: bytes) -> bytes:
        """Write a part; its digest."""
        data = seal_part(name, plain, self._kek, os.urandom(SALT_SIZE_BYTES))
        self._store.put(checkpoint_object(name), data)
        return object_digest(data)

    def put_head(self, name: CheckpointName, head: Head) -> Link:
        """Write a head: the checkpoint exists when this returns. What a delta names it by."""
        data = seal_head(name, head, self._kek, os.urandom(SALT_SIZE_BYTES))
        self._store.put(checkpoint_object(name), data)
        self._heads[name] = head
        return Link(number=name.number, digest=object_digest(data))

    def thin_out(self, keep_count: int, written: CheckpointName | None = None) -> None:
        """Keep the newest states that can be restored, what they build on, and what is newer.

        Args:
            keep_count: so many of them, 1 at least. What cannot be read is not counted.
            written: kept with what it builds on, also if a listing leaves it out.
        """
        every = self._all()
        heads = _heads_of(every)
        if written and written not in heads:
            heads.append(written)
            heads.sort(key=_order)
        kept, oldest = self._kept(heads, keep_count)
        if oldest is None:
            return
        old = [
            name for name in every if _order(name) < _order(oldest) and _head_of(name) not in kept
        ]
        for name in sorted(old, key=lambda name: (name.part is None, _order(name)), reverse=True):
            self._store.delete(checkpoint_object(name))
            self._heads.pop(name, None)

    def _kept(
        self, heads: Sequence[CheckpointName], keep_count: int
    ) -> tuple[Collection[CheckpointName], CheckpointName | None]:
        """What the newest states need, and the oldest of those; None: there are too few."""
        there = set(heads)
        self._heads = {name: head for name, head in self._heads.items() if name in there}
        kept: set[CheckpointName] = set()
        count = 0
        for name in reversed(heads):
            try:
                head = self._head(name)
            except (DamagedDataError, NotFoundError):  # altered, or thinned out by another service
                continue
            needed = {CheckpointName(name.incarnation, link.number) for link in head.chain}
            if head.kind != "state" or not needed <= there:
                continue
            kept |= {name, *needed}
            count += 1
            if count == keep_count:
                return kept, name
        return kept, None

    def _head(self, name: CheckpointName) -> Head:
        if name not in self._heads:
            data = self._store.get(checkpoint_object(name))
            self._heads[name] = open_head(data, name, self._kek)
        return self._heads[name]

    def _linked(self, checkpoint: Checkpoint, link: Link) -> Checkpoint:
        """A checkpoint that another builds on."""
        name = CheckpointName(checkpoint.name.incarnation, link.number)
        said = f"checkpoint {name.incarnation}/{checkpoint.name.number}: builds on {link.number}"
        try:
            data = self._store.get(checkpoint_object(name))
        except NotFoundError as err:
            raise DamagedDataError(f"{said}, which is not in the store") from err
        if object_digest(data) != link.digest:
            raise DamagedDataError(f"{said}, whose head in the store is another")
        return Checkpoint(name, open_head(data, name, self._kek))

    def _own_rows(self, checkpoint: Checkpoint) -> Iterator[Row | GoneRow]:
        """The rows in a checkpoint's own parts; one part is in memory at a time."""
        for number, digest in enumerate(checkpoint.head.parts):
            name = CheckpointName(checkpoint.name.incarnation, checkpoint.name.number, number)
            data = self._store.get(checkpoint_object(name))
            yield from open_part(data, name, digest, self._kek)

    def _all(self) -> list[CheckpointName]:
        return [parse_checkpoint_object(stat.key) for stat in self._store.list(CHECKPOINTS_PREFIX)]


class _Stream:
    """Rows of one checkpoint, which come in the order of their kinds, handed out kind by kind."""

    def __init__(self, rows: Iterator[Row | GoneRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    @property
    def is_done(self) -> bool:
        return self._next is None

    def of(self, kind: str) -> Iterator[Row | GoneRow]:
        while self._next is not None and kind_of(self._next) == kind:
            row = self._next
            self._next = next(self._rows, None)
            yield row


def _heads_of(names: Sequence[CheckpointName]) -> list[CheckpointName]:
    return sorted((name for name in names if name.part is None), key=_order)


def _head_of(name: CheckpointName) -> CheckpointName:
    return CheckpointName(name.incarnation, name.number)


def _order(name: CheckpointName) -> tuple[int, int]:
    return name.incarnation, name.number
