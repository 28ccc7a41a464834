"""Protected volumes in two stores, and what copies from one to the other."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from libs.catalogdb.packs.copies import mark_copy_damaged
from libs.catalogdb.snapshots.points import read_snapshot
from libs.copies.stores import Stores
from libs.errors import UnavailableError
from libs.ranges import ByteRange
from libs.store.layout import PACKS_PREFIX
from libs.store.port import Body, ObjectStat, ObjectStore
from services.catalog.copies.identity import identify_stores
from services.catalog.copies.maker import CopyMaker
from services.catalog.copies.replicator import Replicated, ReplicationMetrics, Replicator
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from tests.integration.catalog.protected import TENANT, Protected
from tests.support.catalog import CatalogSite


class Breakable(ObjectStore):
    """A store that can be away, or slow to answer a PUT."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.is_away = False
        #: What others do, once, after the PUT of a pack and before whoever made it has the answer.
        self.after_pack: Callable[[str], object] | None = None

    def _there(self) -> ObjectStore:
        if self.is_away:
            raise UnavailableError("object store: away")
        return self.inner

    def put(self, key: str, body: Body) -> None:
        self._there().put(key, body)
        if self.after_pack and key.startswith(PACKS_PREFIX):
            then, self.after_pack = self.after_pack, None
            then(key)

    def get(self, key: str) -> bytes:
        return self._there().get(key)

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        return self._there().get_range(key, wanted)

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        self._there().get_into(key, wanted, buffer)

    def stat(self, key: str) -> ObjectStat | None:
        return self._there().stat(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        return self._there().list(prefix, start_after)

    def delete(self, key: str) -> None:
        self._there().delete(key)


@dataclass
class Pair(Protected):
    """A catalog with two stores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.store, Breakable)
        assert isinstance(self.second, Breakable)
        self.one, self.two = self.store, self.second

        def report(generation: uuid.UUID, store_no: int, reason: str) -> None:
            mark_copy_damaged(self.site.restore, generation, store_no, reason)

        self.stores = Stores(self.store, self.second, report=report)
        identify_stores(self.site.catalog, self.stores)
        self.replicator = self.make_replicator()

    def make_replicator(self) -> Replicator:
        """Another process that replicates."""
        return Replicator(
            self.site.catalog,
            self.stores,
            CopyMaker(self.site.catalog, self.stores, self.vault),
            self.mirror(),
            ReplicationMetrics(CollectorRegistry()),
        )

    def replicate(self) -> Replicated:
        return self.replicator.replicate()

    def sweep(self, store_no: int) -> int:
        """Sweep one store, for which nothing is too young; how many packs went."""
        self.site.sql("UPDATE sweep SET after = '', swept_at = '-infinity'")
        policy = SweepPolicy(young_seconds=0, claim_seconds=60)
        store = self.stores.by_number[store_no]
        return Sweeper(self.site.catalog, store, policy, store_no=store_no).run().packs

    def states(self, store_no: int) -> list[str]:
        """States of the copies at a store, by the numbers of their packs."""
        rows = self.site.sql(
            "SELECT state::text FROM copy WHERE store_no = %s ORDER BY pack_no", store_no
        )
        return [state for (state,) in rows]

    def copies(self, volume: str, sequence: int) -> int:
        """How many stores have a snapshot whole, as people are told."""
        session = self.sessions[volume, sequence]
        return read_snapshot(self.site.restore, TENANT, session)[0].copies

    def keys(self, store_no: int, prefix: str = "") -> list[str]:
        return [stat.key for stat in self.stores.by_number[store_no].list(prefix)]

    def empty(self, store_no: int) -> None:
        """The bucket loses everything."""
        store = self.stores.by_number[store_no]
        for key in self.keys(store_no):
            store.delete(key)

    def expire_tombstones(self) -> None:
        self.site.sql("UPDATE tombstone SET deadline = '-infinity'")


def pair_of(site: CatalogSite, primary: ObjectStore, second: ObjectStore) -> Pair:
    """A catalog that knows two empty stores; no volumes yet."""
    site.sql("UPDATE store SET store_id = NULL, state = 'o', refill = false, position = 0")
    site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
    return Pair(site, Breakable(primary), second=Breakable(second))
