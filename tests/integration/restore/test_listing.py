import json
import threading
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from libs.errors import BadInputError, ForbiddenError, NotFoundError, UnauthenticatedError
from tests.integration.restore.conftest import CATALOG_URL, COORDINATOR_URL, TENANT, RestoreSite


def test_anyone_with_a_token_learns_where_the_coordinator_is(site: RestoreSite) -> None:
    for token in ("restorer", "reader", "stranger"):
        assert site.client(token).get("/v1") == {
            "coordinator": COORDINATOR_URL,
            "catalog": CATALOG_URL,
        }
    with pytest.raises(UnauthenticatedError):
        site.client("expired").get("/v1")


def test_volumes_show_their_newest_point(site: RestoreSite) -> None:
    site.taker.protect(TENANT, "fresh", "fresh")
    volumes = {volume["name"]: volume for volume in site.get("/volumes", "reader")}
    assert volumes["fresh"]["latest"] is None
    assert volumes["disk"]["latest"]["sequence"] == 3
    assert volumes["disk"]["latest"]["size_bytes"] == len(site.disk[2])


def test_snapshots_come_newest_first_page_by_page(site: RestoreSite) -> None:
    site.taker.protect(TENANT, "pair", "left", "right")
    site.taker.take(TENANT, "pair", {"left": b"l", "right": b"r" * 70_000})
    pages, before = [], None
    while True:
        page = site.get("/snapshots", "reader", limit=1, before=before)
        pages.append(page["snapshots"])
        before = page["next"]
        if before is None:
            break
    pages = [page for page in pages if page]
    assert [row["volume"] for row in pages[0]] == ["left", "right"]
    sealed = [page[0]["sealed_at"] for page in pages]
    assert sealed == sorted(sealed, reverse=True)
    assert [row for page in pages for row in page] == site.get("/snapshots")["snapshots"]
    of_disk = site.get("/snapshots", name="disk")["snapshots"]
    assert [row["sequence"] for row in of_disk] == [3, 2, 1]
    assert [row["base"] for row in of_disk] == [
        of_disk[1]["session"],
        of_disk[2]["session"],
        None,
    ]
    one = site.get(f"/snapshots/{pages[0][0]['session']}")
    assert one["volumes"] == pages[0]
    assert [(node["node"], node["unbroken"]) for node in one["barrier"]] == [("node-1", True)]
    assert site.get(f"/snapshots/{of_disk[0]['session']}")["barrier"] == []
    assert site.get("/volumes/left/points/latest") == pages[0][0]
    with pytest.raises(NotFoundError, match="several volumes"):
        site.get("/volumes/pair/points/latest")
    with pytest.raises(NotFoundError):
        site.get(f"/snapshots/{uuid.uuid4()}")


def test_a_point_is_found_by_number_instant_and_age(site: RestoreSite) -> None:
    points = {n: site.get(f"/volumes/disk/points/{n}") for n in (1, 2, 3)}
    assert site.get("/volumes/disk/points/latest") == points[3]
    assert site.get("/volumes/disk/points/-0s") == points[3]
    sealed = {n: datetime.fromisoformat(point["sealed_at"]) for n, point in points.items()}
    instant = (sealed[3] - timedelta(microseconds=1)).isoformat()
    assert site.get(f"/volumes/disk/points/{instant}") == points[2]
    assert site.get(f"/volumes/disk/points/{sealed[2].isoformat()}") == points[2]


@pytest.mark.parametrize("path", ["/volumes", "/snapshots", "/events", "/keys"])
def test_a_tenant_that_does_not_exist_is_not_an_empty_one(site: RestoreSite, path: str) -> None:
    client = site.client("everyone")
    with pytest.raises(NotFoundError, match="tenant nobody: there is none of this name"):
        client.get(f"/v1/tenants/nobody{path}")


def test_a_name_or_point_that_does_not_exist_is_told_by_what_was_asked(site: RestoreSite) -> None:
    with pytest.raises(NotFoundError, match=f"nothing: tenant {TENANT} has no volume or group"):
        site.get("/snapshots", name="nothing")
    with pytest.raises(NotFoundError, match=f"disk@99: tenant {TENANT} has no such recovery"):
        site.get("/volumes/disk/points/99")


def test_listing_needs_a_token_of_the_tenant(site: RestoreSite) -> None:
    for path in ("/volumes", "/snapshots", "/events", "/keys", "/volumes/disk/points/1"):
        with pytest.raises(UnauthenticatedError):
            site.get(path, "expired")
        with pytest.raises(ForbiddenError):
            site.get(path, "stranger")


def test_events_are_decoded_and_paged_in_order(site: RestoreSite) -> None:
    everything = _all_events(site, limit=1000)
    assert _ids(_all_events(site, limit=2)) == _ids(everything)
    sealed = [e for e in everything if e["type"] == "backcast.snapshots.snapshot_sealed"]
    assert [e["data"]["sequence"] for e in sealed][:3] == [1, 2, 3]
    topic = "backcast.snapshots"
    ours = [e for e in everything if e["topic"] == topic]
    after = site.get("/events", topic=topic, after=ours[1]["cursor"])["events"]
    assert _ids(after) == _ids(ours[2:])


def test_events_of_other_tenants_are_passed_over(site: RestoreSite) -> None:
    site.taker.protect("other", "theirs", "theirs")
    site.taker.take("other", "theirs", {"theirs": b"secret"})
    assert {event["tenant"] for event in _all_events(site, limit=1)} == {TENANT}
    theirs = site.client("stranger").get("/v1/tenants/other/events")["events"]
    assert {event["tenant"] for event in theirs} == {"other"}


def test_a_feed_shows_nothing_of_how_active_other_tenants_are(site: RestoreSite) -> None:
    """What a tenant sees before and after events of another one differs as two looks do anyway."""
    site.taker.protect("other", "busy", "busy")
    before, again = (site.get("/events", limit=1000) for _ in range(2))
    site.taker.take("other", "busy", {"busy": b"busy"})
    after = site.get("/events", limit=1000)
    assert [without_cursors(page) for page in (again, after)] == [without_cursors(before)] * 2
    cursors = [set(cursors_of(page)) for page in (before, again, after)]
    assert not cursors[0] & cursors[1]  # they tell nothing even where nothing has moved
    assert len({len(page["next"]) for page in (before, again, after)}) == 1
    waited = site.get("/events", after=before["next"])
    site.taker.take("other", "busy", {"busy": b"busier"})
    assert site.get("/events", after=waited["next"])["events"] == []
    assert waited["events"] == []
    assert not [name for name in before["events"][0] if "position" in name]


def test_a_cursor_of_another_tenant_is_refused(site: RestoreSite) -> None:
    page = site.client("everyone").get("/v1/tenants/other/events", {"limit": 1})
    for theirs in cursors_of(page):
        with pytest.raises(BadInputError, match=f"none that tenant {TENANT} was given"):
            site.get("/events", after=theirs)


def test_who_waits_for_an_event_is_told_when_it_happens(site: RestoreSite) -> None:
    cursor = site.get("/events", limit=1000)["next"]
    told: list[Any] = []
    waiter = threading.Thread(
        target=lambda: told.append(site.get("/events", after=cursor, wait_seconds=20))
    )
    waiter.start()
    site.taker.protect(TENANT, "late", "late")
    site.taker.take(TENANT, "late", {"late": b"late"})
    waiter.join()
    assert told[0]["events"][0]["type"] == "backcast.snapshots.snapshot_requested"
    end = site.get("/events", limit=1000)["next"]
    nothing = site.get("/events", after=end, wait_seconds=0.1)
    assert (nothing["events"], nothing["folded"]) == ([], [])


@pytest.mark.parametrize(
    "query", [{"topic": "nope"}, {"after": "x"}, {"after": "nope=1"}, {"after": "7"}]
)
def test_cursors_that_mean_nothing_are_refused(site: RestoreSite, query: dict[str, str]) -> None:
    with pytest.raises(BadInputError):
        site.get("/events", **query)


def test_keys_are_shown_without_secrets(site: RestoreSite) -> None:
    (key,) = site.get("/keys", "reader")
    assert key["kek_fingerprint"] == site.kek.fingerprint.hex()
    assert key["in_use"]
    assert site.kek.text().strip() not in json.dumps(key)
    assert set(key) == {
        *("domain", "key_id", "created_at", "wrapped_at", "in_use", "kek_fingerprint"),
    }


def cursors_of(page: dict[str, Any]) -> list[str]:
    return [*(event["cursor"] for event in page["events"]), page["next"]]


def without_cursors(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: event[name] for name in event if name != "cursor"} for event in page["events"]]


def _ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


def _all_events(site: RestoreSite, limit: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after = ""
    while True:
        page = site.get("/events", limit=limit, after=after)
        if not page["events"]:
            return events
        events += page["events"]
        after = page["next"]
