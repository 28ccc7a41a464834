"""Collection over a real catalog and a real S3 server: what goes, what stays, and who shares it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.deletion.condemning import condemn_unused, list_unused
from libs.catalogdb.deletion.tombstones import claim_tombstones
from libs.catalogdb.log.log import LoggedEvent, read_log
from libs.copies.stores import PRIMARY, Stores
from libs.errors import BadInputError, NotReconciledError, UnavailableError
from libs.events.topics import PACKS
from libs.ranges import ByteRange
from libs.store.buckets import make_bucket
from libs.store.layout import MANIFESTS_PREFIX, PACKS_PREFIX, pack_object
from libs.store.port import Body, ObjectStore
from libs.store.s3 import S3Store
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.passes import Collection, Freed
from tests.integration.catalog.protected import Protected, chunk
from tests.support.buckets import bucket_at
from tests.support.catalog import SECONDS_MAX, CatalogSite


class BrokenStore:
    """A store whose DELETE fails, before or after its effect.

    Stands for a server that is restarted or cut off while it deletes: the caller cannot know
    whether the object is still there.
    """

    def __init__(self, store: ObjectStore, *, after_effect: bool) -> None:
        self._store = store
        self._after_effect = after_effect

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        return self._store.get_range(key, wanted)

    def delete(self, key: str) -> None:
        if self._after_effect:
            self._store.delete(key)
        raise UnavailableError(f"{key}: cut off")

    def put(self, key: str, body: Body) -> None:
        self._store.put(key, body)


@pytest.fixture
def protected(site: CatalogSite, servers: LocalCluster) -> Iterator[Protected]:
    """A volume with three snapshots; each has chunks of its own, and they share chunk 1."""
    bucket = bucket_at(servers.s3, f"test-{uuid4().hex}")
    make_bucket(bucket)
    made = Protected(site, S3Store(bucket))
    made.protect("vm")
    made.take("vm", 1, 2, 3)
    made.take("vm", 1, 4, 3)
    made.take("vm", 1, 4, 5)
    yield made
    made.check()


def collector_of(
    protected: Protected,
    store: ObjectStore | None = None,
    witness: Callable[[], None] | None = None,
) -> Collection:
    collector = Collector(
        protected.site.catalog,
        Stores(store or protected.store),
        protected.vault,
        60,
        witness or protected.checkpoints.witness,
    )
    return Collection(collector.stages())


def total(collection: Collection) -> Freed:
    freed = Freed()
    for step in collection.steps():
        freed += step.freed
    return freed


def index_rows(protected: Protected) -> int:
    ((domain_no,),) = protected.site.sql("SELECT domain_no FROM domain")
    ((count,),) = protected.site.sql(f"SELECT count(*) FROM chunk_{domain_no}")
    return int(count)


def orphaned_rows(protected: Protected) -> list[tuple[object, ...]]:
    """Rows of the index that name a pack which is not live."""
    ((domain_no,),) = protected.site.sql("SELECT domain_no FROM domain")
    return protected.site.sql(
        f"SELECT 1 FROM chunk_{domain_no} JOIN pack USING (pack_no) WHERE state <> 'l'"
    )


def expire_tombstones(protected: Protected) -> None:
    """As if the deadline of whoever claimed them had passed."""
    protected.site.sql("UPDATE tombstone SET deadline = '-infinity'")


class TestAPass:
    def test_frees_nothing_that_is_needed(self, protected: Protected) -> None:
        before = protected.objects("")
        assert total(collector_of(protected)) == Freed()
        assert protected.objects("") == before

    def test_deletes_the_objects_and_rows_of_what_expired(self, protected: Protected) -> None:
        """Snapshot 2 keeps pack 1 (chunk 3), and the head keeps it (chunk 1)."""
        rows = index_rows(protected)
        assert protected.expire("vm", 1)
        assert protected.expire("vm", 2)
        freed = total(collector_of(protected))
        assert freed.manifests_deleted == 2
        assert len(protected.objects(MANIFESTS_PREFIX)) == 1
        assert freed.failures == 0
        assert len(protected.objects(PACKS_PREFIX)) == len(protected.packs())
        assert orphaned_rows(protected) == []
        assert index_rows(protected) <= rows
        assert protected.packs("c") == []

    def test_deletes_everything_of_a_volume_that_began_anew(self, protected: Protected) -> None:
        protected.site.sql("UPDATE volume SET counted_damage = -1")  # the next session has no base
        protected.take("vm", 11, 12, 13)
        old = protected.packs()[:-1]
        for sequence in (1, 2, 3):
            assert protected.expire("vm", sequence)
        freed = total(collector_of(protected))
        assert freed.packs_deleted == freed.packs_condemned == len(old)
        assert freed.freed_bytes > 5 * len(chunk(1))
        assert protected.packs("d") == old
        assert len(protected.objects(PACKS_PREFIX)) == 1
        assert orphaned_rows(protected) == []
        assert protected.site.sql("SELECT 1 FROM tombstone UNION ALL SELECT 1 FROM leans") == []
        types = [event.envelope.type for event in packs_log(protected)]
        assert types.count("backcast.packs.pack_condemned") == len(old)
        assert types.count("backcast.packs.pack_deleted") == len(old)

    def test_what_was_deleted_is_stored_again(self, protected: Protected) -> None:
        protected.expire("vm", 1)
        protected.expire("vm", 2)
        protected.collect()
        protected.take("vm", 1, 2, 3)
        protected.check()

    def test_does_nothing_while_the_catalog_is_not_reconciled(self, protected: Protected) -> None:
        """Scenario 12."""
        protected.expire("vm", 1)
        before = protected.objects("")
        protected.site.sql("UPDATE incarnation SET reconciled = false")
        try:
            with pytest.raises(NotReconciledError):
                total(collector_of(protected))
            with pytest.raises(NotReconciledError):
                protected.expire("vm", 2)
        finally:
            protected.site.sql("UPDATE incarnation SET reconciled = true")
        assert protected.objects("") == before

    @pytest.mark.parametrize(
        "cursor", ["elsewhere:1", "condemn:x", "delete:-1", "condemn:" + "9" * 50]
    )
    def test_refuses_a_cursor_that_no_step_gave(self, protected: Protected, cursor: str) -> None:
        with pytest.raises(BadInputError):
            collector_of(protected).step(cursor)


@pytest.fixture
def dying(protected: Protected) -> list[int]:
    """Packs that nothing needs any more; one snapshot is left."""
    protected.site.sql("UPDATE volume SET counted_damage = -1")
    protected.take("vm", 11, 12, 13)
    dying = protected.packs()[:-1]
    for sequence in (1, 2, 3):
        protected.expire("vm", sequence)
    return dying


class TestFaults:
    def test_nothing_is_deleted_before_the_store_knows_why(
        self, protected: Protected, dying: list[int]
    ) -> None:
        """Scenario 12: a catalog that falls back must learn what it had given up."""

        def fails() -> None:
            raise UnavailableError("no checkpoint")

        before = protected.objects(PACKS_PREFIX) + protected.objects(MANIFESTS_PREFIX)
        with pytest.raises(UnavailableError):
            total(collector_of(protected, witness=fails))
        assert protected.objects(PACKS_PREFIX) + protected.objects(MANIFESTS_PREFIX) == before
        expire_tombstones(protected)
        assert total(collector_of(protected)).packs_deleted == len(dying)

    def test_a_collector_that_slept_through_a_fall_back_deletes_nothing(
        self, protected: Protected, dying: list[int]
    ) -> None:
        """Postgres goes back to before the condemning between its claim and its DELETE."""
        before, rows = protected.objects(PACKS_PREFIX), index_rows(protected)

        def falls_back() -> None:
            protected.site.sql("UPDATE pack SET state = 'l' WHERE state = 'c'")

        total(collector_of(protected, witness=falls_back))
        assert protected.objects(PACKS_PREFIX) == before
        assert index_rows(protected) == rows
        protected.site.sql("UPDATE pack SET state = 'c' WHERE pack_no = ANY(%s)", dying)
        expire_tombstones(protected)
        assert total(collector_of(protected)).packs_deleted == len(dying)

    @pytest.mark.parametrize("after_effect", [False, True])
    def test_a_delete_without_an_answer_is_repeated(
        self, protected: Protected, dying: list[int], after_effect: bool
    ) -> None:
        broken = BrokenStore(protected.store, after_effect=after_effect)
        freed = total(collector_of(protected, broken))  # type: ignore[arg-type]  # deletes only
        assert freed == Freed(packs_condemned=len(dying), failures=len(dying) + 3)
        assert protected.packs("c") == dying
        expire_tombstones(protected)
        freed = total(collector_of(protected))
        assert (freed.packs_deleted, freed.manifests_deleted) == (len(dying), 3)
        assert len(protected.objects(PACKS_PREFIX)) == 1
        assert orphaned_rows(protected) == []

    def test_what_another_collector_has_buried_meanwhile_is_no_failure(
        self, protected: Protected, dying: list[int]
    ) -> None:
        """A collector sleeps past the deadline of its claim. People are told of failures."""
        others: list[Freed] = []

        def sleeps() -> None:
            if not others:
                expire_tombstones(protected)
                others.append(total(collector_of(protected)))

        freed = total(collector_of(protected, witness=sleeps))
        assert others[0].packs_deleted == len(dying)
        assert freed == Freed(packs_condemned=len(dying))

    def test_tombstones_of_a_collector_that_died_are_taken_over_at_their_deadline(
        self, protected: Protected, dying: list[int]
    ) -> None:
        condemn_unused(protected.site.catalog, 0, 1000)
        assert [
            dead.pack_no for dead in claim_tombstones(protected.site.catalog, PRIMARY, 0, 99, 60)
        ] == dying
        assert total(collector_of(protected)).packs_deleted == 0
        expire_tombstones(protected)
        assert total(collector_of(protected)).packs_deleted == len(dying)

    @pytest.mark.parametrize("how", ["gone", "cut off", "altered"])
    def test_a_pack_that_does_not_say_what_is_in_it_leaves_no_rows(
        self, protected: Protected, dying: list[int], how: str
    ) -> None:
        for key in [
            pack_object(generation)
            for (generation,) in protected.site.sql(
                "SELECT generation FROM pack WHERE pack_no = ANY(%s)", dying
            )
        ]:
            body = bytearray(protected.store.get(key))
            protected.store.delete(key)
            body[-100] ^= 1
            if how != "gone":
                protected.store.put(key, body[:-50] if how == "cut off" else body)
        assert total(collector_of(protected)).packs_deleted == len(dying)
        assert orphaned_rows(protected) == []
        assert len(protected.objects(PACKS_PREFIX)) == 1

    def test_packs_that_nobody_listed_are_found_slowly(
        self, protected: Protected, dying: list[int]
    ) -> None:
        protected.site.sql("DELETE FROM candidate")
        assert total(collector_of(protected)).packs_deleted == 0
        after: int | None = 0
        while after is not None:
            after = list_unused(protected.site.catalog, after, 2)
        assert total(collector_of(protected)).packs_deleted == len(dying)


def test_collectors_at_once_share_the_work(protected: Protected, dying: list[int]) -> None:
    """Each pack is condemned and buried once, whoever does it, while snapshots are taken."""
    deadline = time.monotonic() + SECONDS_MAX

    def collect() -> Freed:
        freed = Freed()
        while protected.packs("d") != dying:
            assert time.monotonic() < deadline
            freed += total(collector_of(protected))
        return freed

    with ThreadPoolExecutor(3) as threads:
        collecting = [threads.submit(collect) for _ in range(3)]
        protected.take("vm", 11, 12, 20)
        shares = [one.result() for one in collecting]
    assert sum(share.packs_condemned for share in shares) == len(dying)
    assert sum(share.packs_deleted for share in shares) == len(dying)
    types = [event.envelope.type for event in packs_log(protected)]
    assert types.count("backcast.packs.pack_deleted") == len(dying)


def packs_log(protected: Protected) -> list[LoggedEvent]:
    ((first,),) = protected.site.sql("SELECT min(position) FROM event_log WHERE topic = %s", PACKS)
    return read_log(protected.site.catalog, PACKS, first - 1, 1000)
