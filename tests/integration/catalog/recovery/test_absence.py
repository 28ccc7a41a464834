"""What a store does not show is asked for twice, and a large share waits for a person."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.deletion.brake import Kind, accept, read_halts
from libs.catalogdb.recovery.incarnation import read_incarnation
from libs.catalogdb.recovery.references import VolumeToCount
from libs.catalogdb.verification import Intact
from libs.errors import HaltedError, NotFoundError, UnavailableError
from libs.runtime.signals import Stop
from libs.store.folder import FolderStore
from libs.store.layout import CHECKPOINTS_PREFIX, MANIFESTS_PREFIX, PACKS_PREFIX
from libs.store.memory import MemoryStore
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from services.catalog.recovery import absence
from services.catalog.recovery.checkpoints import Standing
from services.catalog.recovery.references import DamagedPoint, ReferenceCounter
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.integration.catalog.protected import TENANT
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.support.lying_store import LyingStore

SHOWS_ALL = LyingStore(MemoryStore()).unlisted


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    with timeline(servers.postgres.dsn, LyingStore(FolderStore(tmp_path))) as made:
        made.protected.protect("disk", "other")
        yield made


@pytest.fixture
def lying(line: Timeline) -> LyingStore:
    assert isinstance(line.store, LyingStore)
    return line.store


def fall_back(line: Timeline) -> None:
    """The same state, but nobody knows that: everything is compared with the store."""
    line.checkpoints.write()
    line.go_back(line.dump())


def everything_is_there(line: Timeline) -> None:
    """Every live snapshot restores, after all that ever deletes has been there."""
    line.protected.check()
    Sweeper(line.site.catalog, line.store, SweepPolicy(0, 60)).run()
    line.protected.collect()
    line.protected.check()


class TestAListingThatLeavesOut:
    @pytest.mark.parametrize("prefix", [PACKS_PREFIX, MANIFESTS_PREFIX])
    def test_everything_is_an_error_and_buries_nothing(
        self, line: Timeline, lying: LyingStore, prefix: str
    ) -> None:
        line.protected.take("disk", 1, 2, 3)
        line.protected.take("other", 4)
        before = line.generations("l")
        fall_back(line)
        lying.unlisted = lambda _, key: key.startswith(prefix)
        with pytest.raises(UnavailableError, match="which HEAD shows"):
            line.reconcile()
        assert line.generations("l") == before
        assert line.generations("d") == set()
        assert not read_incarnation(line.site.catalog).reconciled
        lying.unlisted = SHOWS_ALL
        line.reconcile()
        assert line.live() == set(line.protected.live)
        everything_is_there(line)

    def test_the_newest_manifests_is_an_error(self, line: Timeline, lying: LyingStore) -> None:
        """Beyond the heads nothing of the catalog says what must be there."""
        line.protected.take("disk", 1)
        line.checkpoints.write()
        yesterday = line.dump()
        for number in (2, 3, 4):
            line.protected.take("disk", number)
        keys = [stat.key for stat in lying.truth.list(MANIFESTS_PREFIX)]
        line.go_back(yesterday)
        for hidden in (keys[1:2], keys[2:3], keys[1:], keys[2:]):
            # The listing of all manifests leaves them out, that of one sequence does not.
            lying.unlisted = lambda prefix, key, hidden=hidden: (  # type: ignore[misc] # bound now
                prefix == MANIFESTS_PREFIX and key in hidden
            )
            with pytest.raises(UnavailableError, match="which is listed by itself"):
                line.reconcile()
        lying.unlisted = SHOWS_ALL
        report = line.reconcile()
        assert line.live() == {("disk", n) for n in (1, 2, 3, 4)}
        assert report.recovered == ["disk@2", "disk@3", "disk@4"]
        everything_is_there(line)

    def test_the_newest_checkpoint_is_an_error(self, line: Timeline, lying: LyingStore) -> None:
        line.checkpoints.write()
        older = {stat.key for stat in lying.truth.list(CHECKPOINTS_PREFIX)}
        line.protected.take("disk", 1)
        line.checkpoints.write()
        for shown in (older, set[str]()):
            lying.unlisted = lambda prefix, key, shown=shown: (  # type: ignore[misc] # bound now
                prefix == CHECKPOINTS_PREFIX and key not in shown
            )
            with pytest.raises(UnavailableError, match="leaves out that of checkpoint"):
                line.checkpoints.compare()
        lying.unlisted = SHOWS_ALL
        assert line.checkpoints.compare().standing is Standing.CURRENT

    def test_packs_that_the_catalog_does_not_know_are_found_by_the_next_listing(
        self, line: Timeline, lying: LyingStore
    ) -> None:
        """Nothing shows that they are left out, but that another listing has them."""
        yesterday = line.dump()
        line.protected.take("disk", 1, 2, 3)
        line.checkpoints.write()
        line.go_back(yesterday)
        packs = {stat.key for stat in lying.truth.list(PACKS_PREFIX)}
        shown = dict.fromkeys(packs, 0)

        def left_out_once(_prefix: str, key: str) -> bool:
            if key in shown:
                shown[key] += 1
            return shown.get(key) == 1

        lying.unlisted = left_out_once
        report = line.reconcile()
        assert (report.damaged, report.packs_found) == ([], len(packs))
        everything_is_there(line)


class TestAPackThatIsMissing:
    def test_by_one_answer_is_not_given_up(self, line: Timeline, lying: LyingStore) -> None:
        line.protected.take("disk", 1, 2, 3)
        fall_back(line)
        (key,) = {stat.key for stat in lying.truth.list(PACKS_PREFIX)}
        lying.unlisted = lambda _, one: one == key
        lying.denied[key] = 1
        with pytest.raises(UnavailableError, match="leaves out"):
            line.reconcile()
        assert len(line.generations("l")) == 1
        assert line.site.sql("SELECT item FROM suspect") == []
        lying.unlisted = SHOWS_ALL
        line.reconcile()
        everything_is_there(line)

    def test_by_one_answer_is_no_damage(self, line: Timeline, lying: LyingStore) -> None:
        line.protected.take("disk", 1, 2, 3)
        keys = [stat.key for stat in lying.truth.list(PACKS_PREFIX)]
        lying.denied.update(keys)
        line.protected.check()
        assert lying.denied.total() == 0
        lying.denied.update(keys)
        verifier = Verifier(
            line.site.catalog, line.protected.stores, line.protected.vault, 60, 0, Stop()
        )
        session = line.protected.sessions["disk", 1]
        assert isinstance(verifier.verify(TENANT, session, Thoroughness("full")), Intact)
        assert lying.denied.total() == 0
        assert line.site.sql("SELECT FROM damage") == []

    def test_by_one_answer_of_a_later_look_is_not_given_up(
        self, line: Timeline, lying: LyingStore
    ) -> None:
        line.protected.take("disk", 1, 2, 3)
        fall_back(line)
        (key,) = {stat.key for stat in lying.truth.list(PACKS_PREFIX)}
        listed = 0

        def left_out_the_second_time(_prefix: str, one: str) -> bool:
            nonlocal listed
            listed += one == key
            return one == key and listed == 2

        lying.unlisted = left_out_the_second_time
        lying.denied[key] = 1
        assert line.reconcile().packs_lost == 0
        assert listed == 3
        everything_is_there(line)

    @pytest.mark.parametrize("step", ["note_missing", "hold_back_missing", "bury_missing"])
    @pytest.mark.parametrize("after_effect", [False, True])
    def test_is_given_up_by_whoever_goes_on_after_a_crash(
        self, line: Timeline, lying: LyingStore, step: str, after_effect: bool
    ) -> None:
        line.protected.take("disk", 1)
        line.protected.take("disk", 2)
        fall_back(line)
        (key, _) = [stat.key for stat in lying.truth.list(PACKS_PREFIX)]
        lying.truth.delete(key)
        right = getattr(absence, step)

        def dies(*arguments: object) -> None:
            if after_effect:
                right(*arguments)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as killed:
            killed.setattr(absence, step, dies)
            with pytest.raises(KeyboardInterrupt):
                line.reconcile()
        assert not read_incarnation(line.site.catalog).reconciled
        report = line.reconcile()
        assert len(report.damaged) == 1
        assert len(line.generations("d")) == 1
        assert line.site.sql("SELECT FROM suspect") == []

    def test_is_asked_for_again_after_a_pause(self, line: Timeline, lying: LyingStore) -> None:
        line.protected.take("disk", 1)
        fall_back(line)
        (key,) = {stat.key for stat in lying.truth.list(PACKS_PREFIX)}
        lying.truth.delete(key)
        waited: list[float] = []

        class Passing(Stop):
            """Time passes at once, and the catalog's clock with it."""

            def wait(self, timeout_seconds: float | None = None) -> bool:
                waited.append(timeout_seconds or 0)
                line.site.sql(
                    "UPDATE suspect SET noted_at = noted_at - make_interval(secs => %s)",
                    timeout_seconds,
                )
                return False

        reconciler = line.reconciler(apart_seconds=60, stop=Passing())
        report = reconciler.run("a test")
        assert (report.packs_lost, lying.asked[key]) == (1, 2)
        assert 60 in waited  # once before the second pass, however many are missing
        assert waited.count(60) == 2, "and once before what lacks the pack is counted for good"
        assert [point.label for point in report.damaged] == ["disk@1"]

    def test_a_large_share_waits_for_a_person(self, line: Timeline, lying: LyingStore) -> None:
        for number in range(1, 7):
            line.protected.take("disk", number)
        before = line.generations("l")
        assert len(before) == 6
        fall_back(line)
        packs = {stat.key: lying.truth.get(stat.key) for stat in lying.truth.list(PACKS_PREFIX)}
        for key in packs:
            lying.truth.delete(key)
        for _ in range(2):
            with pytest.raises(HaltedError, match="gc --dry-run"):
                line.reconcile()
        assert line.generations("l") == before
        (halt,) = read_halts(line.site.catalog)
        assert (halt.kind, halt.suspects.count) == (Kind.MISSING, 6)
        # They were only away: nothing is to be accepted, and nothing is lost.
        for key, body in packs.items():
            lying.truth.put(key, body)
        report = line.reconcile()
        assert (report.packs_lost, read_halts(line.site.catalog)) == (0, [])
        everything_is_there(line)

    def test_that_is_not_live_waits_for_nobody(self, line: Timeline, lying: LyingStore) -> None:
        """Condemned packs that a collector has deleted, uploads that never came."""
        for number in range(1, 8):
            line.protected.take("disk", number)
        fall_back(line)
        line.site.sql("UPDATE pack SET state = CASE WHEN pack_no % 2 = 0 THEN 'c' ELSE 'u' END")
        for stat in list(lying.truth.list(PACKS_PREFIX)):
            lying.truth.delete(stat.key)
        assert line.reconcile().packs_lost == 0
        assert len(line.generations("d")) == 7

    def test_a_large_share_goes_when_a_person_has_accepted_it(
        self, line: Timeline, lying: LyingStore
    ) -> None:
        for number in range(1, 7):
            line.protected.take("disk", number)
        line.protected.take("other", 11, 12)
        fall_back(line)
        disk = line.site.sql(
            """SELECT DISTINCT p.generation FROM pack p JOIN pack_use USING (pack_no)
               JOIN volume v USING (volume_no) WHERE v.name = 'disk'"""
        )
        lost = [f"{PACKS_PREFIX}{name.hex[:2]}/{name.hex}" for (name,) in disk]
        for key in lost[1:]:
            lying.truth.delete(key)
        with pytest.raises(HaltedError):
            line.reconcile()
        (halt,) = read_halts(line.site.catalog)
        lying.truth.delete(lost[0])  # what is lost since was not shown
        with pytest.raises(HaltedError):
            line.reconcile()
        with pytest.raises(NotFoundError, match="other suspects by now"):
            accept(line.site.catalog, halt.name, "ops")
        (halt,) = read_halts(line.site.catalog)
        accept(line.site.catalog, halt.name, "ops")
        report = line.reconcile()
        assert report.packs_lost == 6
        assert len(report.damaged) == 6
        assert line.site.sql("SELECT item FROM suspect") == []
        line.protected.live = {
            point: content for point, content in line.protected.live.items() if point[0] == "other"
        }
        everything_is_there(line)


def test_a_node_that_cannot_be_read_once_costs_no_reference(
    line: Timeline, lying: LyingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies below it would be counted no more, and be collected."""
    line.checkpoints.write()
    yesterday = line.dump()
    line.protected.take("disk", *range(1, 9))
    line.go_back(yesterday)
    keys = [stat.key for stat in lying.truth.list(PACKS_PREFIX)]
    count = ReferenceCounter.recount
    counted = 0

    def denied_once(
        self: ReferenceCounter, volume: VolumeToCount, **how: bool
    ) -> list[DamagedPoint]:
        nonlocal counted
        counted += 1
        lying.denied.update(dict.fromkeys(keys, 1) if counted == 1 else {})
        damaged = count(self, volume, **how)
        assert bool(damaged) == (counted == 1)
        lying.denied.clear()
        return damaged

    monkeypatch.setattr(ReferenceCounter, "recount", denied_once)
    assert line.reconcile().damaged == []
    assert counted == 2
    everything_is_there(line)
