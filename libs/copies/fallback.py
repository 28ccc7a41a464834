"""Two stores with the same objects: what one does not give is read from the other."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from libs.errors import NotFoundError, UnavailableError
from libs.ranges import ByteRange
from libs.store.port import Body, ObjectStat, ObjectStore

T = TypeVar("T")


class FallbackStore:
    """Reads an object from the first store that has it; everything else is the first one's.

    Keys are written with one content only, ever, so an object that is found is the right one,
    wherever it was found. What it does not find may still be on its way to the other store.

    Args:
        first: written to, and asked first.
        other: asked for what the first one does not have, or while it does not answer.
    """

    def __init__(self, first: ObjectStore, other: ObjectStore) -> None:
        self._first = first
        self._other = other

    def put(self, key: str, body: Body) -> None:
        """See `ObjectStore.put`."""
        self._first.put(key, body)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        return self._either(lambda store: store.get(key))

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        return self._either(lambda store: store.get_range(key, wanted))

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """See `ObjectStore.get_into`."""
        self._either(lambda store: store.get_into(key, wanted, buffer))

    def stat(self, key: str) -> ObjectStat | None:
        """See `ObjectStore.stat`; of the first store alone, as who asks may mean to write there."""
        return self._first.stat(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """See `ObjectStore.list`; of the other store if the first one does not begin to answer.

        So it says what exists, and never what does not: who wants to know that asks each store.
        """
        try:
            listing = self._first.list(prefix, start_after)
            first = next(listing, None)
        except UnavailableError:
            yield from self._other.list(prefix, start_after)
            return
        if first is not None:
            yield first
            yield from listing

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; at the first store alone."""
        self._first.delete(key)

    def _either(self, read: Callable[[ObjectStore], T]) -> T:
        try:
            return read(self._first)
        except (NotFoundError, UnavailableError) as err:
            try:
                return read(self._other)
            except (NotFoundError, UnavailableError):
                raise err from None


_: type[ObjectStore] = FallbackStore
