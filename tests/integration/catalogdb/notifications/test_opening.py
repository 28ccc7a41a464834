"""A notification opens and is resolved with what it tells of, once, whoever comes in between."""

import pytest

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications import opening
from libs.catalogdb.notifications.damage import tell_damage
from libs.catalogdb.notifications.listing import list_notifications
from libs.catalogdb.notifications.opening import EVERYBODY, Finding, Kind, open_notification
from libs.catalogdb.notifications.reviewing import keep_found, review_damage
from libs.catalogdb.packs.damage import WHOLE_PACK, record_damage, withdraw_damage
from libs.catalogdb.sessions.session import read_session, reject_overdue, reject_session
from libs.errors import NotReconciledError
from libs.events.notifications import NotificationOpened, NotificationResolved
from libs.events.topics import NOTIFICATIONS, SNAPSHOTS
from tests.integration.catalogdb.notifications.telling import told, told_of
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    condemn,
    expire_anyway,
    item,
    open_on,
    protect,
    take_snapshot,
)


def found(about: str, message: str = "it is broken") -> Finding:
    return Finding(
        kind=Kind.STORE_UNREACHABLE,
        about=about,
        tenant=EVERYBODY,
        severity="error",
        message=message,
        names={"store": about},
    )


def open_(site: CatalogSite, finding: Finding) -> None:
    with site.catalog.transaction() as tx:
        append(tx, "catalog", open_notification(tx, finding))


def test_a_rejected_session_is_told_until_the_next_one_is_sealed(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    view = open_on(site, "db")
    assert reject_session(site.chunker, "chunker", view.session, "out-of-space", "bucket is full")
    (one,) = list_notifications(site.restore, TENANT)
    assert (one.kind, one.tenant, one.severity) == ("session-rejected", TENANT, "error")
    assert (one.about, one.group, one.session) == (str(view.group_id), "db", str(view.session))
    assert "bucket is full" in one.message
    assert list_notifications(site.restore, "other") == []
    workers = [Worker(site, open_on(site, "db"), 0)]
    workers.append(Worker(site, workers[0].view, 1))
    for number, worker in enumerate(workers):
        worker.finish_storing(item(number))
    assert list_notifications(site.catalog) == [one]
    workers[0].seal()
    assert list_notifications(site.catalog) == []
    opened, resolved = told(site)
    assert isinstance(opened, NotificationOpened)
    assert isinstance(resolved, NotificationResolved)
    assert opened.notification == resolved.notification == str(one.notification)
    assert resolved.reason == "snapshot db@1 was sealed"


def test_every_way_to_reject_a_session_tells_of_it(site: CatalogSite) -> None:
    protect(site, "vm")
    open_on(site, "vm", deadline_seconds=-1)
    assert len(reject_overdue(site.catalog)) == 1
    (first,) = list_notifications(site.catalog)
    view = open_on(site, "vm")
    reject_session(site.coordinator, "coordinator", view.session, "source", "the disk is gone")
    (second,) = list_notifications(site.catalog)
    assert second.notification == first.notification
    assert (second.opened_at, second.session) == (first.opened_at, str(view.session))
    assert "the disk is gone" in second.message
    assert told_of(site) == ["opened session-rejected", "changed session-rejected"]


def test_rejecting_it_twice_tells_it_once(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    for _ in range(2):
        reject_session(site.chunker, "chunker", view.session, "source", "the disk is gone")
    assert told_of(site) == ["opened session-rejected"]


@pytest.mark.parametrize("topic", [NOTIFICATIONS, SNAPSHOTS])
def test_a_session_is_rejected_and_told_at_one_moment(site: CatalogSite, topic: str) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    with site.holding_log(topic):
        rejecting = site.start(
            reject_session, site.chunker, "chunker", view.session, "source", "the disk is gone"
        )
        site.wait_until_waiting(1)
        assert list_notifications(site.catalog) == []
        assert read_session(site.catalog, view.session).state == "open"
    assert rejecting.result()
    assert len(list_notifications(site.catalog)) == 1
    assert read_session(site.catalog, view.session).state == "rejected"


def test_a_snapshot_is_sealed_and_told_at_one_moment(site: CatalogSite) -> None:
    protect(site, "vm")
    reject_session(site.chunker, "chunker", open_on(site, "vm").session, "source", "gone")
    worker = Worker(site, open_on(site, "vm"))
    worker.finish_storing(item(1))
    with site.holding_log(SNAPSHOTS):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        assert len(list_notifications(site.catalog)) == 1
    sealing.result()
    assert list_notifications(site.catalog) == []


def test_damage_is_told_until_all_of_a_pack_is_repaired(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2))
    record_damage(site.chunker, pack_no, [item(1)], "a bit flipped")
    record_damage(site.restore, pack_no, [item(2)], "another bit flipped")
    (one,) = list_notifications(site.restore, TENANT)
    assert (one.kind, one.volume) == ("damage", "vm")
    assert "a bit flipped" in one.message
    withdraw_damage(site.catalog, pack_no, [item(1)])
    assert list_notifications(site.catalog) == [one]
    withdraw_damage(site.catalog, pack_no, [item(2)])
    assert list_notifications(site.catalog) == []
    assert told_of(site) == ["opened damage", "resolved damage"]


def test_damage_that_is_met_again_is_told_anew(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1))
    for _ in range(2):
        record_damage(site.catalog, pack_no, [item(1)], "a bit flipped")
        withdraw_damage(site.catalog, pack_no, [item(1)])
    assert told_of(site) == ["opened damage", "resolved damage"] * 2


def test_the_next_snapshot_that_repairs_it_resolves_it(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2))
    record_damage(site.catalog, pack_no, [item(1), item(2)], "a bit flipped")
    worker = Worker(site, open_on(site, "vm"))
    worker.store(item(1))
    assert told_of(site) == ["opened damage"]
    worker.store(item(2))
    assert told_of(site) == ["opened damage", "resolved damage"]
    assert list_notifications(site.catalog) == []


def test_a_pack_that_goes_takes_its_notification_along(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1))
    record_damage(site.catalog, pack_no, [WHOLE_PACK], "its object is gone")
    expire_anyway(site, "vm", 1)
    assert condemn(site, pack_no)
    assert told_of(site) == ["opened damage", "resolved damage"]


def test_damage_that_is_recorded_while_it_is_repaired_stays_told(
    site: CatalogSite,
) -> None:
    """Who records it last finds the notification gone, and opens another one."""
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2))
    record_damage(site.catalog, pack_no, [item(1)], "a bit flipped")
    with (
        site.holding_log(NOTIFICATIONS) as _,
        site.holding("SELECT FROM notification WHERE kind = 'damage' FOR UPDATE"),
    ):
        repairing = site.start(withdraw_damage, site.catalog, pack_no, [item(1)])
        site.wait_until_waiting(1)
        recording = site.start(record_damage, site.restore, pack_no, [item(2)], "another")
        site.wait_until_waiting(2)
    assert repairing.result() == 1
    assert recording.result() == [item(2)]
    assert [one.kind for one in list_notifications(site.catalog)] == ["damage"]


def test_who_repairs_waits_for_who_records_damage_and_leaves_it_told(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2))
    record_damage(site.catalog, pack_no, [item(1)], "a bit flipped")
    with site.restore.transaction() as tx:
        tx.execute(
            "INSERT INTO damage (pack_no, item, reason) VALUES (%s, %s, 'another')",
            [pack_no, item(2)],
        )
        assert tell_damage(tx, pack_no, "another") == []
        repairing = site.start(withdraw_damage, site.catalog, pack_no, [item(1)])
        site.wait_until_waiting(1)
    assert repairing.result() == 1
    assert told_of(site) == ["opened damage"]
    assert len(list_notifications(site.catalog)) == 1


def test_damage_is_recorded_while_nothing_may_be_told_and_told_later(site: CatalogSite) -> None:
    """A restore goes on while the catalog was not compared with the store."""
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1))
    site.sql("UPDATE incarnation SET life = 'an earlier one'")
    try:
        assert record_damage(site.restore, pack_no, [item(1)], "a bit flipped") == [item(1)]
        with pytest.raises(NotReconciledError):
            reject_session(site.catalog, "catalog", open_on(site, "vm").session, "x", "y")
        review_damage(site.catalog)
        assert list_notifications(site.catalog) == []
    finally:
        site.sql("UPDATE incarnation SET life = catalog_life()")
    review_damage(site.catalog)
    assert told_of(site) == ["opened damage"]


def test_damage_without_bound_is_told_within_bounds(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "OPEN_COUNT_MAX", 2)
    monkeypatch.setattr("libs.catalogdb.notifications.reviewing.OPEN_COUNT_MAX", 2)
    protect(site, "vm")
    packs = [take_snapshot(site, "vm", item(number))[1] for number in range(3)]
    for pack_no in packs:
        record_damage(site.catalog, pack_no, [WHOLE_PACK], "gone")
    assert len(list_notifications(site.catalog)) == 2
    withdraw_damage(site.catalog, packs[0], [WHOLE_PACK])
    review_damage(site.catalog)
    review_damage(site.catalog)
    assert told_of(site) == ["opened damage"] * 2 + ["resolved damage", "opened damage"]


def test_what_is_said_anew_is_told_and_what_is_merely_seen_again_is_not(site: CatalogSite) -> None:
    open_(site, found("primary"))
    (first,) = list_notifications(site.catalog)
    open_(site, found("primary"))
    (again,) = list_notifications(site.catalog)
    assert (again.notification, again.opened_at) == (first.notification, first.opened_at)
    assert again.seen_at > first.seen_at
    open_(site, found("primary", "it is broken otherwise"))
    assert told_of(site) == ["opened store-unreachable", "changed store-unreachable"]


def test_two_who_find_the_same_at_once_tell_it_once(site: CatalogSite) -> None:
    with site.holding_log(NOTIFICATIONS):
        finding = [site.start(open_, site, found("primary")) for _ in range(2)]
        site.wait_until_waiting(2)
    for one in finding:
        one.result()
    assert told_of(site) == ["opened store-unreachable"]


def test_what_a_look_does_not_find_any_more_is_over(site: CatalogSite) -> None:
    over = "the store answers"
    keep_found(site.catalog, Kind.STORE_UNREACHABLE, [found("second"), found("primary")], over)
    keep_found(site.catalog, Kind.STORE_UNREACHABLE, [found("second")], over)
    assert [one.about for one in list_notifications(site.catalog)] == ["second"]
    keep_found(site.catalog, Kind.COPY_BEHIND, [], "nothing of that kind was open")
    assert [one.about for one in list_notifications(site.catalog)] == ["second"]
    *_, resolved = told(site)
    assert isinstance(resolved, NotificationResolved)
    assert (resolved.about, resolved.reason, resolved.store) == ("primary", over, "primary")


def test_a_message_that_is_too_long_is_cut(site: CatalogSite) -> None:
    open_(site, found("primary", "x" * 10_000))
    (one,) = list_notifications(site.catalog)
    assert len(one.message) == 2000
