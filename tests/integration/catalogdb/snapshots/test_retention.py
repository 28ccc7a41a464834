"""What retention keeps, and that a clock which jumps lets nothing expire."""

from datetime import timedelta

import msgspec
import pytest

from libs.catalogdb.deletion.brake import Kind, accept, read_halts
from libs.catalogdb.log.log import read_log
from libs.catalogdb.snapshots.expiry import Refused, expire_overdue
from libs.catalogdb.snapshots.holds import place_hold
from libs.catalogdb.snapshots.retention import (
    RetentionPolicy,
    observe_clock,
    overdue_snapshots,
    read_clock,
    read_retention,
    set_retention,
)
from libs.errors import NotFoundError
from libs.events.topics import NOTIFICATIONS
from services.catalog.deletion.retention import Retention
from tests.support.catalog import TENANT, CatalogSite, item, protect, take_snapshot

DAY = 86_400
#: Age of the five snapshots in days.
AGES = (40, 30, 20, 10, 0)


class Monotonic:
    """A clock that tests advance; the server's clock stands for the one that jumps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def vm(site: CatalogSite) -> CatalogSite:
    """A group with a snapshot of each age."""
    protect(site, "vm")
    for number, days in enumerate(AGES, start=1):
        take_snapshot(site, "vm", item(number))
        age(site, number, days)
    return site


def age(site: CatalogSite, sequence: int, days: float) -> None:
    site.sql(
        "UPDATE snapshot SET sealed_at = now() - make_interval(secs => %s) WHERE sequence = %s",
        days * DAY,
        sequence,
    )


def live(site: CatalogSite) -> list[int]:
    rows = site.sql("SELECT sequence FROM snapshot WHERE state = 'l' ORDER BY sequence")
    return [sequence for (sequence,) in rows]


def kept(site: CatalogSite, last: int, days: int) -> list[int]:
    set_retention(site.catalog, TENANT, "vm", RetentionPolicy(last, days * DAY), may_shorten=True)
    Retention(site.catalog).round()
    return live(site)


class TestWhatIsKept:
    def test_everything_without_a_rule(self, vm: CatalogSite) -> None:
        assert Retention(vm.catalog).round() == 0
        assert live(vm) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("last", "days", "expected"),
        [
            (1, 0, [5]),
            (3, 0, [3, 4, 5]),
            (1, 25, [3, 4, 5]),
            (4, 25, [2, 3, 4, 5]),
            (9, 0, [1, 2, 3, 4, 5]),
        ],
    )
    def test_the_newest_by_count_and_all_that_are_young(
        self, vm: CatalogSite, last: int, days: int, expected: list[int]
    ) -> None:
        assert kept(vm, last, days) == expected

    def test_damaged_ones_do_not_count(self, vm: CatalogSite) -> None:
        vm.sql(
            """INSERT INTO verification (session, level, damaged, damaged_bytes)
               SELECT session, 'full', true, 1 FROM snapshot WHERE sequence IN (4, 5)"""
        )
        assert kept(vm, 2, 0) == [2, 3, 4, 5]

    def test_what_is_held(self, vm: CatalogSite) -> None:
        ((session,),) = vm.sql("SELECT session FROM snapshot WHERE sequence = 2")
        place_hold(vm.catalog, TENANT, session, "legal", "case 17")
        assert kept(vm, 1, 0) == [2, 5]

    def test_what_was_sealed_while_the_clock_was_wrong(self, vm: CatalogSite) -> None:
        """It was set back for one seal: that snapshot looks old, but it is younger than another."""
        age(vm, 4, 400)
        assert kept(vm, 1, 25) == [3, 4, 5]

    def test_a_rule_that_changes_meanwhile_holds(self, vm: CatalogSite) -> None:
        set_retention(vm.catalog, TENANT, "vm", RetentionPolicy(1, 0), may_shorten=True)
        overdue = overdue_snapshots(vm.catalog, 10)
        assert [one.sequence for one in overdue] == [1, 2, 3, 4]
        assert overdue_snapshots(vm.catalog, 10, overdue[1]) == overdue[2:]
        set_retention(vm.catalog, TENANT, "vm", None, may_shorten=True)
        outcome = expire_overdue(vm.catalog, TENANT, overdue[0].session)
        assert isinstance(outcome, Refused)
        assert outcome.reason == "kept"

    def test_rules_are_read_and_changed(self, vm: CatalogSite) -> None:
        assert read_retention(vm.catalog, TENANT, "vm").rule is None
        for policy in (RetentionPolicy(1, 5), RetentionPolicy(7, 30 * DAY), None):
            set_retention(vm.catalog, TENANT, "vm", policy, may_shorten=True)
            assert read_retention(vm.catalog, TENANT, "vm").rule == policy
        with pytest.raises(NotFoundError):
            set_retention(vm.catalog, TENANT, "nobody", None, may_shorten=True)


class TestMostPointsOfAGroupAtOnce:
    """`--last 1` by mistake, or a catalog service that was away for long."""

    @pytest.fixture
    def many(self, vm: CatalogSite) -> CatalogSite:
        for number in range(6, 11):
            take_snapshot(vm, "vm", item(number))
        return vm

    def test_are_held_back(self, many: CatalogSite) -> None:
        for _ in range(2):
            assert kept(many, 1, 0) == list(range(1, 11))
        (halt,) = read_halts(many.catalog)
        assert (halt.kind, halt.suspects.count) == (Kind.OVERDUE, 9)
        assert "9 of acme/vm" in halt.message
        assert notices(many) == ["opened points-overdue"]

    def test_go_when_a_person_has_accepted_them(self, many: CatalogSite) -> None:
        kept(many, 1, 0)
        (halt,) = read_halts(many.catalog)
        accept(many.catalog, halt.name, "ops")
        take_snapshot(many, "vm", item(11))
        # Point 10 was kept when the others were accepted; by itself it is no large share.
        assert Retention(many.catalog).round() == 10
        assert notices(many) == ["opened points-overdue", "resolved points-overdue"]
        assert live(many) == [11]
        Retention(many.catalog).round()
        assert many.sql("SELECT FROM suspect") == []

    def test_stay_when_the_rule_is_changed_back(self, many: CatalogSite) -> None:
        kept(many, 1, 0)
        assert kept(many, 10, 0) == list(range(1, 11))
        assert read_halts(many.catalog) == []
        assert notices(many) == ["opened points-overdue", "resolved points-overdue"]

    def test_of_another_group_do_not_stop_this_one(self, many: CatalogSite) -> None:
        protect(many, "other")
        for number in range(12, 16):
            take_snapshot(many, "other", item(number))
        set_retention(many.catalog, TENANT, "other", RetentionPolicy(3, 0), may_shorten=True)
        assert kept(many, 1, 0) == [1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10]


class TestAClockThatJumps:
    """Scenario 19. The trusted time is set instead of the server's clock: only both count."""

    @pytest.fixture
    def running(self, vm: CatalogSite) -> tuple[Retention, Monotonic]:
        """Retention that has trusted the clock, and a rule by which a jump would cost something."""
        monotonic = Monotonic()
        retention = Retention(vm.catalog, monotonic)
        set_retention(vm.catalog, TENANT, "vm", RetentionPolicy(1, 45 * DAY), may_shorten=True)
        assert retention.round() == 0
        return retention, monotonic

    def jump(self, site: CatalogSite, retention: Retention, days: float) -> None:
        """The clock of Postgres jumps: as seen from it, all that was before lies further back."""
        step = f"interval '{days * DAY} s'"
        site.sql(f"UPDATE retention_clock SET trusted_at = trusted_at - {step}")
        site.sql(f"UPDATE snapshot SET sealed_at = sealed_at - {step}")
        if retention._seen:
            retention._seen -= timedelta(days=days)

    @pytest.mark.parametrize("days", [30, 0.5, -30])
    def test_lets_nothing_expire(
        self, vm: CatalogSite, running: tuple[Retention, Monotonic], days: float
    ) -> None:
        retention, monotonic = running
        set_retention(
            vm.catalog, TENANT, "vm", RetentionPolicy(1, 40 * DAY + 600), may_shorten=True
        )
        self.jump(vm, retention, days)
        monotonic.now += 60
        assert retention.round() == 0
        assert read_clock(vm.catalog).halted
        assert live(vm) == [1, 2, 3, 4, 5]
        assert notices(vm) == ["opened clock-jump"]

    def test_is_told_once(self, vm: CatalogSite, running: tuple[Retention, Monotonic]) -> None:
        retention, monotonic = running
        self.jump(vm, retention, 30)
        for _ in range(3):
            monotonic.now += 60
            retention.round()
        assert notices(vm) == ["opened clock-jump"]

    def test_ends_when_the_clock_is_back(
        self, vm: CatalogSite, running: tuple[Retention, Monotonic]
    ) -> None:
        retention, monotonic = running
        self.jump(vm, retention, 30)
        retention.round()
        self.jump(vm, retention, -30)
        monotonic.now += 60
        assert retention.round() == 0
        assert not read_clock(vm.catalog).halted
        assert notices(vm) == ["opened clock-jump", "resolved clock-jump"]

    def test_ends_when_a_person_accepts_it(
        self, vm: CatalogSite, running: tuple[Retention, Monotonic]
    ) -> None:
        retention, monotonic = running
        self.jump(vm, retention, 30)
        retention.round()
        (halt,) = read_halts(vm.catalog)
        assert accept(vm.catalog, halt.name, "a person") is Kind.CLOCK
        assert not read_clock(vm.catalog).halted
        monotonic.now += 60
        assert retention.round() == 3
        assert live(vm) == [4, 5]

    def test_is_noticed_by_a_service_that_starts(self, vm: CatalogSite) -> None:
        set_retention(vm.catalog, TENANT, "vm", RetentionPolicy(1, 45 * DAY), may_shorten=True)
        retention = Retention(vm.catalog)
        self.jump(vm, retention, 30)
        assert retention.round() == 0
        assert read_clock(vm.catalog).halted
        assert Retention(vm.catalog).round() == 0, "another start is no reason to trust it"
        assert read_clock(vm.catalog).halted

    def test_maintenance_of_some_hours_is_none(self, vm: CatalogSite) -> None:
        retention = Retention(vm.catalog)
        self.jump(vm, retention, 0.5)
        retention.round()
        assert not read_clock(vm.catalog).halted

    def test_time_that_passed_is_none(
        self, vm: CatalogSite, running: tuple[Retention, Monotonic]
    ) -> None:
        retention, monotonic = running
        self.jump(vm, retention, 30)
        monotonic.now += 30 * DAY
        assert retention.round() == 3

    def test_an_observer_that_knows_nothing_newer_does_not_trust_it(self, vm: CatalogSite) -> None:
        """Another process has moved the trusted time since: how long ago is not known."""
        seen = observe_clock(vm.catalog, None, 0).trusted_at
        observe_clock(vm.catalog, seen, 60)
        vm.sql("UPDATE retention_clock SET trusted_at = trusted_at - interval '1 day'")
        assert observe_clock(vm.catalog, seen, 2 * DAY).halted


def notices(site: CatalogSite) -> list[str]:
    rows = site.sql("SELECT min(position) FROM event_log WHERE topic = %s", NOTIFICATIONS)
    first = rows[0][0]
    if first is None:
        return []
    events = read_log(site.catalog, NOTIFICATIONS, first - 1, 100)
    return [
        f"{event.envelope.type.rpartition('.')[2]} {msgspec.msgpack.decode(event.value)['about']}"
        for event in events
    ]
