"""Positions in the log are gapless and in commit order, whatever commits, fails or races."""

import random
from uuid import uuid4

import pytest

from libs.catalogdb.log import log
from libs.catalogdb.log.log import (
    LOG_CHANNEL,
    Entry,
    append,
    mark_published,
    read_log,
    unpublished_topics,
)
from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_compared
from libs.errors import BadInputError, InvariantViolation
from libs.events.codec import decode
from libs.events.notifications import NotificationRaised
from libs.events.packs import PackStored
from libs.events.topics import NOTIFICATIONS, PACKS
from libs.ids import new_generation
from tests.support.catalog import CatalogSite

NOTICE = NotificationRaised(kind="tracking-lost", severity="warning", message="look")


class LostConnectionError(Exception):
    """What makes a transaction roll back."""


def stored(size_bytes: int) -> Entry:
    event = PackStored(
        generation=new_generation(),
        domain=uuid4(),
        tenant="acme",
        session=uuid4(),
        size_bytes=size_bytes,
        chunk_count=1,
    )
    return Entry(event, "acme", event.generation.hex, event.session)


def write(catalog: Catalog, count: int, *, fails: bool = False) -> int:
    """How many events a transaction has appended."""
    try:
        with catalog.transaction() as tx:
            append(tx, "chunker", [stored(size_bytes) for size_bytes in range(count)])
            if fails:
                raise LostConnectionError
    except LostConnectionError:
        return 0
    return count


def test_a_life_that_is_compared_while_it_is_found_unknown_refuses_nothing(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog's service has compared it between two statements of the transaction."""
    ((life,),) = site.sql("SELECT life FROM incarnation")
    site.sql("UPDATE incarnation SET life = ''")

    def compare_first(tx: Tx) -> None:
        site.sql("UPDATE incarnation SET life = %s", life)
        require_compared(tx)

    monkeypatch.setattr(log, "require_compared", compare_first)
    assert write(site.chunker, 1) == 1
    assert positions(site.catalog, 0) == [1]


def positions(catalog: Catalog, after: int) -> list[int | None]:
    return [event.envelope.position for event in read_log(catalog, PACKS, after, 1000)]


def test_positions_are_gapless_under_concurrent_commits_and_rollbacks(site: CatalogSite) -> None:
    """Scenario 16: a reader that asks for what comes after the last it saw misses nothing."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    plans = [[(rng.randint(1, 3), rng.random() < 0.3) for _ in range(15)] for _ in range(4)]
    writing = [
        site.start(lambda plan: sum(write(site.chunker, n, fails=fails) for n, fails in plan), plan)
        for plan in plans
    ]
    read: list[int | None] = []
    while not all(one.done() for one in writing):
        read += positions(site.catalog, len(read))
    read += positions(site.catalog, len(read))
    assert read == list(range(1, sum(one.result() for one in writing) + 1))


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_writer_gets_its_position_when_the_first_has_ended(
    site: CatalogSite, fails: bool
) -> None:
    """Scenario 16: with a sequence, 2 would be seen before 1, and 1 never."""
    second = None
    try:
        with site.catalog.transaction() as tx:
            append(tx, "catalog", [stored(7)])
            second = site.start(write, site.chunker, 1)
            site.wait_until_waiting(1)
            assert positions(site.restore, 0) == []
            if fails:
                raise LostConnectionError
    except LostConnectionError:
        pass
    assert second is not None
    assert second.result() == 1
    events = [
        decode(event.envelope.type, event.envelope.version, event.value)
        for event in read_log(site.restore, PACKS, 0, 10)
    ]
    sizes = [event.size_bytes for event in events if isinstance(event, PackStored)]
    assert sizes == ([0] if fails else [7, 0])
    assert positions(site.restore, 0) == list(range(1, len(sizes) + 1))


def test_topics_have_positions_of_their_own_and_writers_of_both_do_not_deadlock(
    site: CatalogSite,
) -> None:
    packs_first = [stored(1), Entry(NOTICE, "acme", "vm")]

    def write_both(entries: list[Entry]) -> None:
        for _ in range(10):
            with site.catalog.transaction() as tx:
                append(tx, "catalog", entries)

    writing = [site.start(write_both, entries) for entries in (packs_first, packs_first[::-1])]
    assert [one.result() for one in writing] == [None, None]
    for topic in (PACKS, NOTIFICATIONS):
        assert len(read_log(site.catalog, topic, 0, 100)) == 20


def test_a_hole_in_the_log_stops_its_reader(site: CatalogSite) -> None:
    write(site.chunker, 3)
    site.sql("DELETE FROM event_log WHERE position = 2")
    with pytest.raises(InvariantViolation, match="expected position 2"):
        read_log(site.catalog, PACKS, 0, 10)
    assert positions(site.catalog, 2) == [3]


def test_an_event_comes_out_as_it_went_in(site: CatalogSite) -> None:
    raise_notification(site.chunker, "chunker", "acme", "vm", NOTICE)
    (logged,) = read_log(site.restore, NOTIFICATIONS, 0, 10)
    envelope = logged.envelope
    assert decode(envelope.type, envelope.version, logged.value) == NOTICE
    assert (envelope.tenant, envelope.subject, envelope.position) == ("acme", "vm", 1)


def test_an_event_out_of_bounds_takes_its_transaction_with_it(site: CatalogSite) -> None:
    with pytest.raises(BadInputError), site.chunker.transaction() as tx:
        append(tx, "chunker", [stored(1), stored(-1)])
    assert positions(site.catalog, 0) == []
    write(site.chunker, 1)
    assert positions(site.catalog, 0) == [1]


def test_what_is_published_never_goes_backwards(site: CatalogSite) -> None:
    for position in (5, 3):
        mark_published(site.catalog, PACKS, position)
    published = site.sql("SELECT topic, published FROM log_position WHERE published > 0")
    assert published == [(PACKS, 5)]


def test_topics_with_unpublished_events_are_told(site: CatalogSite) -> None:
    assert unpublished_topics(site.catalog) == {}
    write(site.chunker, 2)
    assert unpublished_topics(site.catalog) == {PACKS: 0}
    assert mark_published(site.catalog, PACKS, 1) is True
    assert unpublished_topics(site.catalog) == {PACKS: 1}
    assert mark_published(site.catalog, PACKS, 2) is False
    assert unpublished_topics(site.catalog) == {}


def test_a_commit_wakes_the_listener_and_a_rollback_does_not(site: CatalogSite) -> None:
    with site.catalog.listen(LOG_CHANNEL) as listener:
        write(site.chunker, 1, fails=True)
        write(site.chunker, 1)
        write(site.chunker, 1)
        woken = list(listener.notifies(timeout=20, stop_after=2))
        assert len(woken) == 2
        assert list(listener.notifies(timeout=0)) == []
