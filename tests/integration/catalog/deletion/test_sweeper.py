"""The orphan sweep on a real catalog and a folder: what nobody needs goes, nothing else does."""

import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.deletion.brake import accept, read_halts
from libs.catalogdb.deletion.sweeping import begin_pass, bury_abandoned, bury_unknown, claim_prefix
from libs.catalogdb.sessions.attempts import PackUse, Stale
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.copies.stores import PRIMARY
from libs.errors import BadInputError, NotReconciledError
from libs.ids import new_generation, uuid7
from libs.store.folder import FolderStore
from libs.store.layout import ManifestName, manifest_object, pack_object
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from tests.integration.catalog.protected import Protected, in_folder
from tests.support.catalog import TENANT, CatalogSite, Worker, item, open_on, protect

AT_ONCE = SweepPolicy(young_seconds=0, claim_seconds=60)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def sweeper(site: CatalogSite, store: FolderStore) -> Sweeper:
    site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
    return Sweeper(site.catalog, store, AT_ONCE, store)


def test_an_unknown_pack_is_dead_before_its_object_goes(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    generation = new_generation()
    store.put(pack_object(generation), b"from nowhere")
    tally = sweeper.run()
    assert (tally.packs, tally.deleted_bytes) == (1, 12)
    assert list(store.list("packs/")) == []
    assert site.sql("SELECT state::text FROM pack WHERE generation = %s", generation) == [("d",)]


class TestTooManyUnknown:
    """An emptied catalog, or another one's bucket: every object looks like an orphan."""

    @pytest.fixture
    def orphans(self, store: FolderStore, sweeper: Sweeper) -> list[UUID]:
        made = [new_generation() for _ in range(6)]
        for generation in made:
            store.put(pack_object(generation), b"12")
        return made

    def test_are_left_until_a_person_accepts_them(
        self, site: CatalogSite, store: FolderStore, sweeper: Sweeper, orphans: list[UUID]
    ) -> None:
        for _ in range(2):
            tally = sweeper.run()
            assert (tally.packs, tally.held_back, tally.held_back_bytes) == (0, 6, 12)
        assert len(list(store.list(""))) == 6
        assert site.sql("SELECT FROM pack") == []
        (halt,) = read_halts(site.catalog)
        accept(site.catalog, halt.name, "ops")
        later = new_generation()
        store.put(pack_object(later), b"3")
        tally = sweeper.run()
        assert (tally.packs, tally.deleted_bytes, tally.held_back) == (7, 13, 0)
        assert list(store.list("")) == []
        assert site.sql("SELECT FROM suspect") == []

    def test_are_none_when_the_catalog_knows_them_again(
        self, site: CatalogSite, store: FolderStore, sweeper: Sweeper, orphans: list[UUID]
    ) -> None:
        sweeper.run()
        protect(site, "vm")
        worker = Worker(site, open_on(site, "vm"))
        worker.begin(orphans[0])
        for generation in orphans[1:3]:
            store.delete(pack_object(generation))
        tally = sweeper.run()
        assert (tally.packs, tally.held_back) == (0, 3)
        assert read_halts(site.catalog) == []
        assert sweeper.run().packs == 3
        assert [stat.key for stat in store.list("")] == [pack_object(orphans[0])]

    def test_go_on_after_a_crash(
        self, site: CatalogSite, store: FolderStore, sweeper: Sweeper, orphans: list[UUID]
    ) -> None:
        sweeper.run()
        (halt,) = read_halts(site.catalog)
        accept(site.catalog, halt.name, "ops")
        bury_unknown(site.catalog, orphans[:3])  # and died before it deleted them
        store.delete(pack_object(orphans[0]))
        assert sweeper.run().packs == 6  # that one again: nobody knows that it is gone
        assert list(store.list("")) == []
        assert site.sql("SELECT FROM suspect") == []


def test_a_young_unknown_pack_is_left_for_later(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    store.put(pack_object(new_generation()), b"x")
    tally = Sweeper(site.catalog, store, SweepPolicy(3600, 60)).run()
    assert (tally.packs, tally.young) == (0, 1)
    assert sweeper.run().packs == 1


def test_an_upload_of_an_open_attempt_stays_and_that_of_a_closed_one_cannot_be_registered(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    """Scenario 7."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    store.put(pack_object(pack.generation), b"pack")
    assert sweeper.run().packs == 0
    successor = Worker(site, worker.view)
    assert sweeper.run().packs == 1
    assert isinstance(worker.register(pack, item(1)), Stale)
    assert successor.look_up(item(1)) == [0]


def test_a_registration_that_waits_for_the_burial_is_refused(site: CatalogSite) -> None:
    """Scenario 7, should the check of the attempt ever fail: the state alone refuses."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    with site.holding("UPDATE pack SET state = 'd' WHERE pack_no = %s", pack.pack_no):
        registering = site.start(worker.register, pack, item(1))
        site.wait_until_waiting(1)
    assert registering.result() == Stale(worker.attempt)


def test_burying_leaves_a_pack_that_is_being_registered(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    site.sql("UPDATE attempt SET open = false")
    with site.holding("SELECT FROM pack WHERE pack_no = %s FOR UPDATE", pack.pack_no):
        assert bury_abandoned(site.catalog, 10) == 0
    assert bury_abandoned(site.catalog, 10) == 1


def test_a_put_that_lands_after_the_sweep_is_deleted_by_the_next_one(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    """Scenario 28."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")
    sweeper.run()
    store.put(pack_object(pack.generation), b"late")
    assert Sweeper(site.catalog, store, SweepPolicy(3600, 60)).run().packs == 1


def test_a_condemned_pack_is_left_to_the_collector(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    protect(site, "vm")
    pack = Worker(site, open_on(site, "vm")).claim()
    site.sql("UPDATE pack SET state = 'c' WHERE pack_no = %s", pack.pack_no)
    store.put(pack_object(pack.generation), b"x")
    assert sweeper.run().packs == 0


def test_a_generation_that_is_claimed_beside_the_sweep_is_not_buried(site: CatalogSite) -> None:
    protect(site, "vm")
    generation = new_generation()
    worker = Worker(site, open_on(site, "vm"))
    with site.holding(
        """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
           VALUES (%s, %s, %s, %s, 'u')""",
        generation,
        worker.view.domain_no,
        worker.view.key_id,
        worker.attempt,
    ):
        burying = site.start(bury_unknown, site.catalog, [generation])
        site.wait_until_waiting(1)
    assert burying.result() == set()


def test_manifests_of_open_sessions_and_of_live_snapshots_stay(
    site: CatalogSite, tmp_path: Path, sweeper: Sweeper
) -> None:
    protected = in_folder(site, tmp_path)
    protected.protect("disk")
    protected.take("disk", 1, 2)
    view = open_on(site, "disk")
    put_manifest(protected, view.session)
    before = protected.objects("")
    assert sweeper.run().manifests == 0
    assert protected.objects("") == before
    protected.check()


def test_manifests_that_no_snapshot_names_go(
    site: CatalogSite, tmp_path: Path, sweeper: Sweeper
) -> None:
    """Of a rejected session, of a sealed one under another name, of an expired one, of nobody."""
    protected = in_folder(site, tmp_path)
    protected.protect("disk")
    protected.take("disk", 1)
    sealed = protected.sessions["disk", 1]
    (expired_manifest,) = protected.objects("manifests/")
    protected.take("disk", 2)
    kept = set(protected.objects("manifests/")) - {expired_manifest}
    view = open_on(site, "disk")
    reject_session(site.chunker, "chunker", view.session, "cancelled", "by hand")
    strays = [
        put_manifest(protected, view.session),
        put_manifest(protected, sealed),
        put_manifest(protected, uuid7()),
    ]
    assert protected.expire("disk", 1)
    surveyed, _ = sweeper.survey()
    assert (surveyed.manifests, surveyed.unnamed) == (len(strays), 1)
    assert sweeper.run().manifests == len(strays)
    assert set(protected.objects("manifests/")) == kept | {expired_manifest}
    protected.collect()
    protected.store.put(expired_manifest, b"a late PUT")
    assert sweeper.run().manifests == 1
    assert set(protected.objects("manifests/")) == kept
    protected.check()


def test_a_seal_under_way_keeps_its_manifest(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    worker.finish({worker.store(item(1)): PackUse(entered=1)})
    key = manifest_object(ManifestName(TENANT, worker.view.group_id, 1, worker.view.session, "a"))
    store.put(key, b"manifest")
    with site.holding_log("backcast.snapshots"):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        assert sweeper.run().manifests == 0
    assert isinstance(sealing.result(), Sealed)
    assert store.stat(key) is not None


def test_nothing_is_swept_by_a_catalog_that_went_back_in_time(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    """Scenario 12: what it does not know may be what it has forgotten."""
    store.put(pack_object(new_generation()), b"x")
    site.sql("UPDATE incarnation SET reconciled = false")
    try:
        with pytest.raises(NotReconciledError):
            sweeper.run()
        with pytest.raises(NotReconciledError):
            sweeper.survey()
        with pytest.raises(NotReconciledError):
            bury_unknown(site.catalog, [new_generation()])
    finally:
        site.sql("UPDATE incarnation SET reconciled = true")
    assert len(list(store.list(""))) == 1


def test_a_survey_says_what_would_go_and_changes_nothing(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper
) -> None:
    """Of nobody, of a dead generation, of a session that ended before its uploads were buried."""
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    abandoned, dead = worker.claim(), worker.claim()
    reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")
    site.sql("UPDATE pack SET state = 'd' WHERE pack_no = %s", dead.pack_no)
    store.put(pack_object(new_generation()), b"12345")
    store.put(pack_object(abandoned.generation), b"1234")
    store.put(pack_object(dead.generation), b"123")
    rows = site.sql("SELECT * FROM pack ORDER BY pack_no")
    surveyed, cursor = sweeper.survey()
    assert (surveyed.packs, surveyed.deleted_bytes, surveyed.objects) == (3, 12, 3)
    assert (surveyed.unnamed, surveyed.unnamed_bytes, cursor) == (1, 5, None)
    assert site.sql("SELECT * FROM pack ORDER BY pack_no") == rows
    assert site.sql("SELECT FROM sweep WHERE claimed_until > '-infinity'") == []
    assert sweeper.run() == surveyed


def test_a_survey_tells_apart_what_cannot_be_judged_yet(
    site: CatalogSite, store: FolderStore
) -> None:
    store.put(pack_object(new_generation()), b"12345")
    surveyed, _ = Sweeper(site.catalog, store, SweepPolicy(3600, 60)).survey()
    assert (surveyed.packs, surveyed.young, surveyed.young_bytes) == (0, 1, 5)


def test_a_survey_goes_on_where_the_step_before_ended(
    store: FolderStore, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catalog.deletion.sweeper._PAGE_COUNT", 2)
    monkeypatch.setattr("services.catalog.deletion.sweeper._SURVEYED_PAGES_MAX", 2)
    for number in range(7):
        store.put(pack_object(UUID(int=number << 120 | number)), b"x")  # packs/00 to packs/06
    for number in range(7):
        store.put(pack_object(UUID(int=number)), b"x")
    for number in range(5):
        store.put(pack_object(UUID(int=(0x30 + number) << 120)), b"x")
    cursor, packs, steps = None, 0, 0
    while steps == 0 or cursor:
        tally, cursor = sweeper.survey(cursor)
        packs, steps = packs + tally.packs, steps + 1
        assert tally.objects <= 4
    assert packs == len(list(store.list(""))) == 18
    assert steps > 4


@pytest.mark.parametrize(
    "cursor", ["x", "packs/", "packs/0:packs/1", "packs/0:packs/0\0", "keys/:keys/a", ":"]
)
def test_a_survey_refuses_what_is_no_cursor(sweeper: Sweeper, cursor: str) -> None:
    with pytest.raises(BadInputError):
        sweeper.survey(cursor)


def test_foreign_objects_are_counted_and_kept(store: FolderStore, sweeper: Sweeper) -> None:
    store.put("packs/00/readme.txt", b"of an operator")
    store.put("manifests/note", b"of an operator")
    assert sweeper.run().foreign == 2
    assert len(list(store.list(""))) == 2


def test_a_pass_goes_on_where_one_before_it_was_stopped(
    site: CatalogSite, store: FolderStore, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catalog.deletion.sweeper._PAGE_COUNT", 2)
    bury_unknown(site.catalog, [UUID(int=last) for last in range(5)])
    for last in range(5):
        store.put(pack_object(UUID(int=last)), b"x")
    assert sweeper.run(stopping=lambda: True).packs == 2
    begun = begin_pass(site.catalog)
    claim = claim_prefix(site.catalog, PRIMARY, begun, 0)
    assert claim is not None
    assert (claim.prefix, claim.after) == ("packs/0", pack_object(UUID(int=1)))
    assert sweeper.run().objects == 3
    assert site.sql("SELECT FROM sweep WHERE after <> ''") == []


def test_two_sweepers_share_the_prefixes(site: CatalogSite, sweeper: Sweeper) -> None:
    begun = begin_pass(site.catalog)
    claims = [claim_prefix(site.catalog, PRIMARY, begun, 60) for _ in range(17)]
    assert len({claim.prefix for claim in claims if claim}) == 17
    assert claim_prefix(site.catalog, PRIMARY, begun, 60) is None


def test_temporary_files_of_dead_processes_go(
    store: FolderStore, sweeper: Sweeper, tmp_path: Path
) -> None:
    partial = tmp_path / ".partial" / "left"
    partial.write_bytes(b"half")
    old = time.time() - 60
    os.utime(partial, (old, old))
    assert sweeper.run().leftovers == 1
    assert not partial.exists()


def put_manifest(protected: Protected, session: UUID) -> str:
    key = manifest_object(ManifestName(TENANT, uuid4(), 7, session, "stray"))
    protected.store.put(key, b"manifest")
    return key
