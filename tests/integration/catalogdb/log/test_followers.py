"""Many follow the log over one connection to Postgres, without a thread each, and miss nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from psycopg import sql

from libs.catalogdb.listening import Listener
from libs.catalogdb.log.log import LOG_CHANNEL, last_position, read_log
from libs.events.topics import SNAPSHOTS
from libs.keys.kek import KeyEncryptionKey
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import start_loops
from libs.runtime.signals import Stop
from services.restore.events import feed as feed_module
from services.restore.events.endpoints import add_event_routes
from services.restore.events.feed import Feed
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    item,
    login_of,
    open_on,
    protect,
    take_snapshot,
)
from tests.support.polling import Poll, application, served
from tests.support.running import eventually

FOLLOWERS = 500
TOKENS = tuple(f"token-{number}" for number in range(10))
WAIT_SECONDS = 30
#: Far below the time that a follower waits: who is answered sooner was woken.
SOON_SECONDS = 12
#: The pool's connections, and the one that listens.
CONNECTION_COUNT_MAX = 8 + 1


class FollowedLog:
    """A restore service's event endpoint, and those who follow the log there."""

    def __init__(self, site: CatalogSite, feed: Feed, url: str, stack: ExitStack) -> None:
        self.site = site
        self.feed = feed
        self.polls: list[Poll] = []
        self._url = url
        self._stack = stack

    def follow(self, count: int, tenant: str = TENANT) -> None:
        """So many more wait for what is appended from here on."""
        last = last_position(self.site.catalog, SNAPSHOTS)
        after = self.feed.cursors(tenant).seal({SNAPSHOTS: last})
        query = f"topic={SNAPSHOTS}&after={after}&wait_seconds={WAIT_SECONDS}"
        for number in range(count):
            token = TOKENS[number % len(TOKENS)]
            poll = Poll(self._url, f"/v1/tenants/{tenant}/events?{query}", token)
            self.polls.append(self._stack.enter_context(poll))
            if len(self.polls) % 50 == 0:  # no more at once than may be in line
                self.wait_for_followers()
        self.wait_for_followers()

    def wait_for_followers(self) -> None:
        eventually("they wait", lambda: self.feed.follower_count == len(self.polls))

    def answers(self) -> list[list[dict[str, Any]]]:
        """What each of them was told."""
        answers = [poll.answer() for poll in self.polls]
        self.polls.clear()
        assert {status for status, _ in answers} == {200}
        return [page["events"] for _, page in answers]

    def listeners(self) -> list[int]:
        """Connections that listen."""
        rows = self.site.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND usename = %s AND query LIKE 'LISTEN%%'",
            login_of("restore"),
        )
        return [row[0] for row in rows]

    def connection_count(self) -> int:
        rows = self.site.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND usename = %s",
            login_of("restore"),
        )
        return int(rows[0][0])

    def kill_listener(self) -> None:
        (pid,) = self.listeners()
        self.site.sql("SELECT pg_terminate_backend(%s, 5000)", pid)


@pytest.fixture
def followed(site: CatalogSite) -> Iterator[FollowedLog]:
    for tenant in (TENANT, "other"):
        protect(site, f"vm-{tenant}", tenant=tenant)
    feed, stop, health = Feed(site.restore, KeyEncryptionKey.generate()), Stop(), Health()
    listener = Listener(site.restore, LOG_CHANNEL, lambda _: feed.wake(), feed.wake)
    app = application(2048, *TOKENS)
    add_event_routes(app, feed)
    stop.call(feed.close)
    loops = start_loops([listener.loop()], health, stop)
    try:
        with served(app) as url, ExitStack() as stack:
            log = FollowedLog(site, feed, url, stack)
            eventually("it listens", lambda: len(log.listeners()) == 1)
            yield log
    finally:
        stop.request()
        for loop in loops:
            loop.join()


def thread_counts() -> tuple[int, int]:
    """Threads that work on requests, and all others."""
    names = [thread.name for thread in threading.enumerate()]
    workers = sum("AnyIO" in name for name in names)
    return workers, len(names) - workers


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


def logged_ids(site: CatalogSite, after: int) -> list[str]:
    return [str(one.envelope.event_id) for one in read_log(site.catalog, SNAPSHOTS, after, 100)]


def test_500_followers_are_one_connection_and_no_thread(followed: FollowedLog) -> None:
    site = followed.site
    followed.follow(1)
    take_snapshot(site, f"vm-{TENANT}", item(0))  # all pools of this test are there
    followed.answers()
    _, threads = thread_counts()
    followed.follow(FOLLOWERS)
    assert len(followed.listeners()) == 1
    assert followed.connection_count() <= CONNECTION_COUNT_MAX
    workers, others = thread_counts()
    assert others <= threads
    # Probes have two of their own.
    assert workers <= ServiceSettings().request_thread_count_max + 2
    reads, after = followed.feed.reads.read_count, last_position(site.catalog, SNAPSHOTS)
    take_snapshot(site, f"vm-{TENANT}", item(1))
    told = followed.answers()
    expected = logged_ids(site, after)
    for events in told:
        assert events
        assert ids(events) == expected[: len(events)]
    # Those who are in work at the same time share a read.
    reads = followed.feed.reads.read_count - reads
    print(f"{FOLLOWERS} followers were told by {reads} reads of the log")
    assert reads <= FOLLOWERS / 4


def test_followers_get_their_own_events_in_order_however_often_they_ask(
    followed: FollowedLog,
) -> None:
    site = followed.site
    after = last_position(site.catalog, SNAPSHOTS)
    followed.follow(20)
    followed.follow(20, "other")
    open_on(site, "vm-other", tenant="other")
    eventually("the others' followers were told", lambda: followed.feed.follower_count == 20)
    take_snapshot(site, f"vm-{TENANT}", item(1))
    told = followed.answers()
    assert {event["tenant"] for events in told[:20] for event in events} == {TENANT}
    assert {event["tenant"] for events in told[20:] for event in events} == {"other"}
    logged = logged_ids(site, after)
    for events in told:
        assert ids(events) == [one for one in logged if one in ids(events)]


def test_who_waits_misses_nothing_when_the_listening_connection_is_killed(
    followed: FollowedLog,
) -> None:
    for number in range(3):
        followed.follow(20)
        followed.kill_listener()
        begun = time.monotonic()
        take_snapshot(followed.site, f"vm-{TENANT}", item(number))
        assert all(followed.answers())
        assert time.monotonic() - begun < SOON_SECONDS
        eventually("it listens again", lambda: len(followed.listeners()) == 1)


def test_who_waits_is_told_while_nobody_can_listen(followed: FollowedLog) -> None:
    followed.follow(20)
    with no_more_connections(followed.site):
        followed.kill_listener()
        begun = time.monotonic()
        eventually("nobody listens", lambda: not followed.listeners())
        take_snapshot(followed.site, f"vm-{TENANT}", item(1))
        assert all(followed.answers())
        assert time.monotonic() - begun < SOON_SECONDS
        assert not followed.listeners()
    eventually("it listens again", lambda: len(followed.listeners()) == 1)


def test_a_page_is_short_where_events_are_long(
    followed: FollowedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = followed.site
    take_snapshot(site, f"vm-{TENANT}", item(1))
    monkeypatch.setattr(feed_module, "PAGE_SIZE_BYTES_MAX", 1)
    found: list[str] = []
    after = ""
    while True:
        followed.polls.append(
            Poll(
                followed._url,
                f"/v1/tenants/{TENANT}/events?topic={SNAPSHOTS}&after={after}",
                TOKENS[0],
            )
        )
        (events,) = followed.answers()
        if not events:
            break
        assert len(events) == 1
        found += ids(events)
        after = events[-1]["cursor"]
    assert found == logged_ids(site, 0)


@contextmanager
def no_more_connections(site: CatalogSite) -> Iterator[None]:
    """Postgres refuses new connections of the restore service; those that it has work on."""
    login = sql.Identifier(login_of("restore")).as_string()
    site.sql(f"ALTER ROLE {login} CONNECTION LIMIT 1")
    try:
        yield
    finally:
        site.sql(f"ALTER ROLE {login} CONNECTION LIMIT -1")
