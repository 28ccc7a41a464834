"""A store that answers wrongly in the ways of real ones, for what concludes from absence."""

from collections import Counter
from collections.abc import Callable, Iterator

from libs.errors import NotFoundError
from libs.ranges import ByteRange
from libs.store.port import Body, ObjectStat, ObjectStore


class LyingStore:
    """Passes everything on to a right store, but for what it is told to hide.

    Fault model: listings that leave out objects (SeaweedFS behind empty folders, MinIO with drives
    whose metadata lag, a replica that is behind), and a 404 for an object that is there (a node
    that has just started, a fail-over to a replica).
    """

    def __init__(self, store: ObjectStore) -> None:
        self.truth = store
        #: Which keys a listing of a prefix does not show: told the prefix and the key.
        self.unlisted: Callable[[str, str], bool] = lambda _prefix, _key: False
        #: Key → how many more times HEAD and GET say that there is no such object.
        self.denied: Counter[str] = Counter()
        #: How often it was asked for each object by HEAD.
        self.asked: Counter[str] = Counter()

    def put(self, key: str, body: Body) -> None:
        self.truth.put(key, body)

    def get(self, key: str) -> bytes:
        self._deny(key)
        return self.truth.get(key)

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        self._deny(key)
        return self.truth.get_range(key, wanted)

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        self._deny(key)
        self.truth.get_into(key, wanted, buffer)

    def stat(self, key: str) -> ObjectStat | None:
        self.asked[key] += 1
        try:
            self._deny(key)
        except NotFoundError:
            return None
        return self.truth.stat(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        for entry in self.truth.list(prefix, start_after):
            if not self.unlisted(prefix, entry.key):
                yield entry

    def delete(self, key: str) -> None:
        self.truth.delete(key)

    def _deny(self, key: str) -> None:
        if self.denied[key] > 0:
            self.denied[key] -= 1
            raise NotFoundError(f"object {key}: does not exist, as the store says")


_: type[ObjectStore] = LyingStore
