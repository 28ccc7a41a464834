"""Two stores behind one port: what exists is found in either, nothing is called missing by one."""

from collections.abc import Iterator

import pytest

from libs.copies.fallback import FallbackStore
from libs.errors import NotFoundError, UnavailableError
from libs.ranges import ByteRange
from libs.store.memory import MemoryStore
from libs.store.port import ObjectStat


class Away(MemoryStore):
    def get(self, key: str) -> bytes:
        raise UnavailableError("object store: away")

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        raise UnavailableError("object store: away")


def test_an_object_is_read_from_the_store_that_has_it() -> None:
    first, other = MemoryStore(), MemoryStore()
    other.put("a", b"content")
    store = FallbackStore(first, other)
    assert store.get("a") == b"content"
    assert store.get_range("a", ByteRange(1, 3)) == b"on"
    buffer = bytearray(2)
    store.get_into("a", ByteRange(0, 2), memoryview(buffer))
    assert bytes(buffer) == b"co"
    with pytest.raises(NotFoundError):
        store.get("b")


def test_a_store_that_is_away_hides_nothing_that_the_other_has() -> None:
    other = MemoryStore()
    other.put("a", b"content")
    store = FallbackStore(Away(), other)
    assert store.get("a") == b"content"
    assert [stat.key for stat in store.list("")] == ["a"]


def test_what_is_missing_while_a_store_is_away_is_not_called_missing() -> None:
    with pytest.raises(UnavailableError):
        FallbackStore(Away(), MemoryStore()).get("a")


def test_writing_and_asking_what_is_there_are_the_first_stores() -> None:
    first, other = MemoryStore(), MemoryStore()
    other.put("b", b"1")
    store = FallbackStore(first, other)
    store.put("a", b"2")
    assert other.stat("a") is None
    assert store.stat("b") is None
    assert [stat.key for stat in store.list("")] == ["a"]
    store.delete("b")
    assert other.get("b") == b"1"
