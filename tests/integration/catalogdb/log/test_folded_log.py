"""Old events leave the catalog when Kafka has them; whoever asks for them is told."""

import asyncio
import json

import pytest

from libs.catalogdb.log.log import (
    fold_events,
    folded_positions,
    last_position,
    mark_published,
    read_log,
    unpublished_topics,
)
from libs.errors import EventsFoldedError
from libs.events.topics import PACKS, SNAPSHOTS
from libs.keys.kek import KeyEncryptionKey
from libs.runtime.groups import KafkaSettings
from services.catalog.relay import Relay
from services.restore.events.feed import EventPage, Feed
from tests.support.catalog import TENANT, CatalogSite, item, protect, take_snapshot

DAYS_30 = 30 * 86_400.0


def page_after(site: CatalogSite, position: int) -> EventPage:
    feed = Feed(site.restore, KeyEncryptionKey.generate())
    return asyncio.run(feed.look(TENANT, {SNAPSHOTS: position}, 10))


@pytest.fixture
def aged(site: CatalogSite) -> CatalogSite:
    """A log of two snapshots; the events of the first are old and published."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    site.sql("UPDATE event_log SET occurred_at = now() - interval '31 days'")
    mark_published(site.catalog, SNAPSHOTS, last_position(site.catalog, SNAPSHOTS))
    take_snapshot(site, "vm", item(2))
    return site


def test_old_events_go_and_positions_go_on(aged: CatalogSite) -> None:
    last = last_position(aged.catalog, SNAPSHOTS)
    kept = read_log(aged.catalog, SNAPSHOTS, 2, 10)
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 2
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 0
    assert folded_positions(aged.catalog)[SNAPSHOTS] == 2
    assert last_position(aged.catalog, SNAPSHOTS) == last
    assert read_log(aged.catalog, SNAPSHOTS, 2, 10) == kept
    assert read_log(aged.catalog, SNAPSHOTS, 0, 10) == kept
    take_snapshot(aged, "vm", item(3))
    assert last_position(aged.catalog, SNAPSHOTS) == last + 2


def test_a_cursor_among_folded_events_is_answered_and_the_beginning_says_where_it_is(
    aged: CatalogSite,
) -> None:
    fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10)
    with pytest.raises(EventsFoldedError, match="after position 1 up to 2"):
        read_log(aged.catalog, SNAPSHOTS, 1, 10)
    with pytest.raises(EventsFoldedError) as err:
        page_after(aged, 1)
    assert not any(character.isdecimal() for character in str(err.value))
    page = page_after(aged, 0)
    assert page.folded == {SNAPSHOTS: 2}
    kept = [str(event.envelope.event_id) for event in read_log(aged.catalog, SNAPSHOTS, 2, 10)]
    assert [json.loads(event)["id"] for event in page.events] == kept
    assert page.positions == {SNAPSHOTS: 4}
    assert page_after(aged, 2).folded == {}


def test_what_kafka_has_not_or_what_follows_a_young_event_stays(aged: CatalogSite) -> None:
    aged.sql("UPDATE log_position SET published = 1")
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 1
    aged.sql("UPDATE log_position SET published = last")
    aged.sql("UPDATE event_log SET occurred_at = now() WHERE position = 2")
    aged.sql("UPDATE event_log SET occurred_at = now() - interval '31 days' WHERE position = 3")
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 0


def test_a_clock_that_jumps_makes_no_event_old(aged: CatalogSite) -> None:
    aged.sql("UPDATE retention_clock SET trusted_at = now() - interval '10 days'")
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 0


def test_what_a_second_store_has_not_followed_stays(site: CatalogSite) -> None:
    protect(site, "vm")
    for number in (1, 2, 3):
        take_snapshot(site, "vm", item(number))
    site.sql("UPDATE event_log SET occurred_at = now() - interval '31 days'")
    last = last_position(site.catalog, PACKS)
    mark_published(site.catalog, PACKS, last)
    site.sql("INSERT INTO store (store_no, name, position) VALUES (2, 'second', 1)")
    assert fold_events(site.catalog, PACKS, DAYS_30, 10) == 1
    site.sql("UPDATE store SET state = 'l' WHERE store_no = 2")  # lost: nothing waits for it
    assert fold_events(site.catalog, PACKS, DAYS_30, 10) == last - 1


class Published:
    """A publisher that only counts."""

    def __init__(self) -> None:
        self.count = 0

    async def publish(self, _record: object) -> None:
        self.count += 1

    async def flush(self) -> None:
        pass


def publish(site: CatalogSite, after: int, published: Published) -> bool:
    """Let a relay publish that has read long ago how far Kafka is."""
    relay = Relay(site.catalog, KafkaSettings(bootstrap="in-memory:1"), 3, 0)
    return asyncio.run(relay._publish_topic(published, SNAPSHOTS, after))  # type: ignore[arg-type]  # the same two methods


def test_a_relay_that_slept_until_its_events_were_folded_goes_on(aged: CatalogSite) -> None:
    published = Published()
    assert fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10) == 2
    assert publish(aged, 1, published)
    assert published.count == 0
    publish(aged, unpublished_topics(aged.catalog)[SNAPSHOTS], published)
    assert published.count == 2


def test_a_relay_whose_events_are_gone_and_nowhere_says_so(aged: CatalogSite) -> None:
    fold_events(aged.catalog, SNAPSHOTS, DAYS_30, 10)
    aged.sql("UPDATE log_position SET published = 1")
    with pytest.raises(EventsFoldedError):
        publish(aged, 1, Published())
