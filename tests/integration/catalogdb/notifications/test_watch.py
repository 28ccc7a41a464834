"""The watch of the catalog service: stores that are away or full, and objects that resist."""

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from libs.catalogdb.notifications.listing import list_notifications
from libs.catalogdb.sessions.chunkers import announce_chunker
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import Stores
from libs.errors import OutOfSpaceError, UnavailableError
from libs.ids import uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.runtime.signals import Stop
from libs.store.memory import MemoryStore
from libs.store.port import Body, ObjectStat
from services.catalog import watch as watch_module
from services.catalog.deletion.loop import CollectionLoop, CollectionMetrics
from services.catalog.deletion.passes import Collection, Freed
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.loop import RecoveryLoop
from services.catalog.watch import Watch
from tests.integration.catalogdb.notifications.telling import told_of
from tests.support.catalog import CatalogSite, protect


class BrokenStore(MemoryStore):
    """Away, or full, while it is told to be: an outage of the network, a quota."""

    away = False
    full = False

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        if self.away:
            raise UnavailableError("store: no answer in time")
        return super().list(prefix, start_after)

    def put(self, key: str, body: Body) -> None:
        if self.full:
            raise OutOfSpaceError("store: its quota is used up")
        super().put(key, body)


class Watched:
    """A catalog service's watch, and what it looks at."""

    def __init__(self, site: CatalogSite) -> None:
        self.store = BrokenStore()
        shelf = CheckpointShelf(self.store, KeyEncryptionKey.generate())
        no_reconciler: Any = None
        self.recovery = RecoveryLoop(
            site.catalog, Checkpoints(site.catalog, self.store, shelf, 50), no_reconciler
        )
        self.watch = Watch(site.catalog, Stores(self.store), self.recovery)

    def look(self) -> None:
        self.watch.round(Stop(), lambda: None)


def kinds(site: CatalogSite) -> list[str]:
    return [one.kind for one in list_notifications(site.catalog)]


def test_a_store_that_is_away_is_told_until_it_answers(site: CatalogSite) -> None:
    watched = Watched(site)
    watched.look()
    assert kinds(site) == []
    watched.store.away = True
    for _ in range(2):
        watched.look()
    (one,) = list_notifications(site.catalog)
    assert (one.kind, one.store, one.severity) == ("store-unreachable", "primary", "error")
    watched.store.away = False
    watched.look()
    assert told_of(site) == ["opened store-unreachable", "resolved store-unreachable"]


def test_that_no_chunker_takes_captures_is_told_until_one_does(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(site, "vm")
    watched = Watched(site)
    watched.look()
    watched.look()
    assert kinds(site) == [], "chunkers have a minute to start"
    monkeypatch.setattr(watch_module, "NO_CHUNKER_SECONDS", 0.0)
    for _ in range(2):
        watched.look()
    assert kinds(site) == ["no-chunker"]
    announce_chunker(site.chunker, uuid7(), "one", 0, "")
    site.sql("UPDATE chunker SET idle_since = now() - interval '1 minute'")
    watched.look()
    assert kinds(site) == ["no-chunker"], "it reads nothing"
    announce_chunker(site.chunker, uuid7(), "two", 8, "")
    watched.look()
    assert told_of(site) == ["opened no-chunker", "resolved no-chunker"]


def test_where_nothing_is_protected_no_chunker_is_missed(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "NO_CHUNKER_SECONDS", 0.0)
    watched = Watched(site)
    watched.look()
    watched.look()
    assert kinds(site) == []


def test_a_store_without_room_for_a_checkpoint_is_told(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(site, "vm")
    watched = Watched(site)
    watched.store.full = True
    with pytest.raises(OutOfSpaceError):
        watched.recovery.round(0)
    watched.look()
    assert kinds(site) == ["store-full"]
    monkeypatch.setattr("services.catalog.watch.CHECKPOINT_OVERDUE_SECONDS", -1.0)
    watched.look()
    assert sorted(kinds(site)) == ["checkpoint-overdue", "store-full"]
    watched.store.full = False
    watched.recovery.round(0)
    watched.look()
    assert kinds(site) == []


def test_what_could_not_be_deleted_is_told_until_a_whole_pass_had_no_failure(
    site: CatalogSite,
) -> None:
    failures = [2, 1, 0]
    collection = Collection({"delete": lambda _position: (Freed(failures=failures.pop(0)), None)})
    loop = CollectionLoop(collection, [], site.catalog, CollectionMetrics(CollectorRegistry()))
    for _ in range(2):
        loop.round(Stop(), lambda: None)
        assert kinds(site) == ["deletion-failed"]
    loop.round(Stop(), lambda: None)
    assert told_of(site) == ["opened deletion-failed", "resolved deletion-failed"]
