"""After a lost answer the same call is made again, and says what the first one would have said."""

from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import uuid4

import pytest

from libs.catalogdb.log.log import mark_published
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import add_volume, create_tenant, find_node
from libs.catalogdb.sessions.attempts import PackUse, Taken, take_part
from libs.catalogdb.sessions.positions import start_offset, store_offsets
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import SessionView, open_session, read_session, reject_session
from libs.errors import UnavailableError
from libs.events.topics import BLOCK_CHANGES, PACKS
from libs.ids import new_generation, uuid7
from tests.support.catalog import (
    BOOT,
    NODE,
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)
from tests.support.lossy_link import LossyLink

T = TypeVar("T")


@pytest.fixture
def link(site: CatalogSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyLink]:
    """Every service reaches the catalog through it."""
    with LossyLink(site.dsn) as link:
        catalog = Catalog(link.dsn)
        catalog.open()
        for service in ("coordinator", "chunker", "catalog"):
            monkeypatch.setattr(site, service, catalog)
        yield link
        catalog.close()


def called_again(link: LossyLink, call: Callable[[], T]) -> T:
    """What the second call answers, after the first one was lost."""
    link.lose_next_answer()
    with pytest.raises(UnavailableError):
        call()
    assert link.lost, "the first call has committed"
    return call()


def events(site: CatalogSite) -> list[str]:
    rows = site.sql("SELECT type FROM event_log ORDER BY topic, position")
    return [name.rpartition(".")[2] for (name,) in rows]


def test_inventory(site: CatalogSite, link: LossyLink) -> None:
    domain, key_id = uuid4(), uuid4()
    tenant = called_again(link, lambda: create_tenant(site.coordinator, TENANT, domain, key_id))
    assert (tenant.domain, tenant.key_id) == (domain, key_id)
    called_again(link, lambda: announce_node(site.coordinator, NODE))
    assert find_node(site.coordinator, NODE.name) == NODE
    volume = called_again(
        link, lambda: add_volume(site.coordinator, TENANT, "vm", "vm", NODE.name, "/dev/vm")
    )
    assert volume.name == "vm"
    assert site.sql("SELECT count(*) FROM volume") == [(1,)]


def test_opening_a_session(site: CatalogSite, link: LossyLink) -> None:
    protect(site, "vm")
    session = uuid7()
    view = called_again(link, lambda: open_session(site.coordinator, TENANT, "vm", session, 60))
    assert isinstance(view, SessionView)
    assert (view.session, view.state, len(view.parts)) == (session, "open", 1)
    assert events(site) == ["snapshot_requested"]


def test_rejecting_a_session(site: CatalogSite, link: LossyLink) -> None:
    """The second call has not rejected it, as it says; whoever calls wants it to have ended."""
    protect(site, "vm")
    session = open_on(site, "vm").session
    assert not called_again(
        link, lambda: reject_session(site.coordinator, "coordinator", session, "x", "y")
    )
    assert read_session(site.coordinator, session).state == "rejected"
    assert events(site) == ["opened", "snapshot_requested", "snapshot_rejected"]


def test_taking_a_part(site: CatalogSite, link: LossyLink) -> None:
    """The attempt that nobody heard of is closed; the next one works."""
    protect(site, "vm")
    capture = open_on(site, "vm").parts[0].capture
    taken = called_again(link, lambda: take_part(site.chunker, capture, BOOT, "chunker-1", 0, 0))
    assert isinstance(taken, Taken)
    assert site.sql("SELECT attempt, number FROM attempt WHERE open") == [
        (taken.attempt, taken.number)
    ]


def test_renewing(site: CatalogSite, link: LossyLink) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    assert called_again(link, worker.renew)


def test_looking_up(site: CatalogSite, link: LossyLink) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1))
    worker = Worker(site, open_on(site, "vm"))
    assert called_again(link, lambda: worker.look_up(item(1), item(2))) == [pack_no, 0]
    assert worker.pinned == {pack_no}


def test_storing_a_pack(site: CatalogSite, link: LossyLink) -> None:
    protect(site, "a")
    protect(site, "b")
    winner = Worker(site, open_on(site, "a")).store(item(1))
    worker, generation = Worker(site, open_on(site, "b")), new_generation()
    pack = called_again(link, lambda: worker.begin(generation))
    assert isinstance(pack, PackRecord)
    assert site.sql("SELECT pack_no, state::text FROM pack ORDER BY 1") == [
        (winner, "l"),
        (winner + 1, "u"),
    ]
    winners = called_again(link, lambda: worker.register(pack, item(1), item(2)))
    assert winners == {0: winner}
    assert worker.look_up(item(2)) == [pack.pack_no]
    assert events(site).count("pack_stored") == 2


def test_finishing_and_sealing(site: CatalogSite, link: LossyLink) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack_no = worker.store(item(1))
    assert called_again(link, lambda: worker.finish({pack_no: PackUse(entered=1)})) is True
    assert called_again(link, worker.seal) == Sealed(worker.view.session, 1)
    assert site.sql("SELECT pack_no, addresses FROM pack_use") == [(pack_no, 1)]
    assert events(site).count("snapshot_sealed") == 1


def test_positions(site: CatalogSite, link: LossyLink) -> None:
    called_again(link, lambda: store_offsets(site.chunker, {(BLOCK_CHANGES, 0): 5}))
    assert start_offset(site.chunker, BLOCK_CHANGES, 0) == 5
    called_again(link, lambda: mark_published(site.catalog, PACKS, 5))
    assert site.sql("SELECT published FROM log_position WHERE topic = %s", PACKS) == [(5,)]
