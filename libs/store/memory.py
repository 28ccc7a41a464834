"""The object store in memory: a fast fake for unit tests, under the contract of the real ones."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from libs.errors import DamagedDataError, NotFoundError
from libs.ranges import ByteRange
from libs.store.port import (
    Body,
    ObjectStat,
    ObjectStore,
    check_body,
    check_key,
    check_prefix,
    check_range,
)


class MemoryStore:
    """Objects in a dictionary. Thread-safe; nothing survives the process."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()
        self._now = now

    def put(self, key: str, body: Body) -> None:
        """See `ObjectStore.put`."""
        content = bytes(check_body(key, body))
        with self._lock:
            self._objects[check_key(key)] = (content, self._now())

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        found = self._objects.get(check_key(key))
        if found is None:
            raise NotFoundError(f"object {key}: does not exist")
        return found[0]

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        check_range(key, wanted)
        content = self.get(key)
        if wanted.end > len(content):
            raise DamagedDataError(
                f"object {key}: {len(content)} bytes, expected at least {wanted.end}"
            )
        return content[wanted.start : wanted.end]

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """See `ObjectStore.get_into`."""
        check_range(key, wanted, buffer.nbytes)
        buffer[:] = self.get_range(key, wanted)

    def stat(self, key: str) -> ObjectStat | None:
        """See `ObjectStore.stat`."""
        found = self._objects.get(check_key(key))
        return None if found is None else ObjectStat(key, len(found[0]), found[1])

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        check_prefix(start_after)
        with self._lock:
            keys = sorted(k for k in self._objects if k.startswith(prefix) and k > start_after)
        for key in keys:
            found = self.stat(key)
            if found is not None:
                yield found

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._lock:
            self._objects.pop(check_key(key), None)


_: type[ObjectStore] = MemoryStore
