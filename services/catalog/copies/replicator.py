"""The replicator: gives the second store a copy of everything, and mends copies in both.

A round, in this order: wrapped keys → what is missing after a store was added or came back → packs
that the log tells of (`PackStored`, `PackRewritten`), each batch with its position in one
transaction → copies that are still wanted or damaged → manifests → which snapshots the store has
whole (`SnapshotReplicated`) → a checkpoint.

A crash after any step leaves objects that the next round finds or writes once more, and a position
before them. Two replicators at once only repeat each other.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.catalogdb.log.log import LoggedEvent, read_log
from libs.catalogdb.packs.copies import wanted_copies
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import read_incarnation
from libs.catalogdb.stores import (
    StoreState,
    domain_keys,
    end_refill,
    forget_copies,
    locate_lacking,
    read_store_figures,
    read_stores,
    record_replicated,
    review_snapshots,
    want_copies,
)
from libs.copies.stores import SECOND, STORE_NAMES, Stores
from libs.errors import DamagedDataError, NotFoundError
from libs.events.codec import decode
from libs.events.packs import PackRewritten, PackStored
from libs.events.registry import Event
from libs.events.topics import PACKS
from libs.runtime.signals import Stop
from services.catalog.copies.maker import CopyMaker
from services.catalog.copies.mirror import Mirror

log = logging.getLogger(__name__)

#: Events that are read at a time, and packs that are recorded in one transaction.
_EVENT_COUNT, _PACK_COUNT = 500, 16
#: Packs that are looked at in one statement where all are.
_LISTED_COUNT = 20_000
#: A copy that could not be made from any other one is tried again so much later.
_AGAIN_SECONDS = 3600.0


@dataclass(slots=True)
class Replicated:
    """What a round did."""

    keys: int = 0
    packs: int = 0
    pack_bytes: int = 0
    manifests: int = 0
    #: Snapshots that the second store has whole since this round, and no longer.
    whole: int = 0
    withdrawn: int = 0
    #: Copies that could not be made: no other copy is intact.
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _NoneIntact:
    """No other copy of a live pack is intact now."""


class ReplicationMetrics:
    """What was copied since the process started, and what each store still lacks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"backcast_catalog_{name}", text, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"backcast_catalog_{name}", text, ["store"], registry=registry)

        self._packs = counter("copied_packs", "Packs copied to another store, or made anew.")
        self._bytes = counter("copied_bytes", "Bytes of these packs.")
        self._failures = counter("copy_failures", "Copies that could not be made.")
        self._lag = gauge(
            "copy_lag_seconds", "Age of the oldest new pack whose copy was not made; 0: none."
        )
        self._wanted = gauge("wanted_copies", "Copies of live packs that are still to be made.")
        self._damaged = gauge("damaged_copies", "Copies of live packs that are damaged or gone.")

    def add(self, done: Replicated) -> None:
        """Count what a round did."""
        self._packs.inc(done.packs)
        self._bytes.inc(done.pack_bytes)
        self._failures.inc(done.failures)

    def show(self, catalog: Catalog, states: Sequence[StoreState]) -> None:
        """Tell what each store still lacks."""
        for state in states:
            figures = read_store_figures(catalog, state.store_no)
            self._lag.labels(state.name).set(figures.lag_seconds)
            self._wanted.labels(state.name).set(figures.wanted)
            self._damaged.labels(state.name).set(figures.damaged)


class Replicator:
    """For one thread; any number may run in other processes.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: both stores.
        maker: makes copies of packs.
        mirror: copies everything else.
        metrics: told what was done.
        thread_count: packs that are copied at once.
    """

    def __init__(  # noqa: PLR0913 -- wired in __main__
        self,
        catalog: Catalog,
        stores: Stores,
        maker: CopyMaker,
        mirror: Mirror,
        metrics: ReplicationMetrics,
        thread_count: int = 2,
    ) -> None:
        self._catalog = catalog
        self._stores = stores
        self._maker = maker
        self._mirror = mirror
        self._metrics = metrics
        self._thread_count = thread_count
        #: When a copy that could not be made is tried again, by the monotonic clock.
        self._again_at: dict[tuple[int, UUID], float] = {}
        #: Keys and checkpoint that the second store has for certain; a process begins with none.
        self._copied_keys: set[UUID] = set()
        self._copied_checkpoint: tuple[int, int] | None = None

    def round(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """Copy everything that is to be copied now; ``progressed`` is called after each batch.

        Raises:
            BackcastError: a store or the catalog fails for longer than retries last.
        """
        done = self.replicate(lambda: stop.requested, progressed)
        if done != Replicated():
            log.info("replicated", extra={"done": str(done)})

    def replicate(
        self,
        stopping: Callable[[], bool] = lambda: False,
        progressed: Callable[[], None] = lambda: None,
    ) -> Replicated:
        """Copy everything that is to be copied now.

        Args:
            stopping: asked between batches.
            progressed: called after each batch.

        Raises:
            BackcastError: a store or the catalog fails for longer than retries last; what was done
                until then is recorded.
        """
        done = Replicated()
        own = read_incarnation(self._catalog)
        if not (own.compared and own.reconciled):
            return done  # what such a catalog wants to be copied means nothing
        states = read_stores(self._catalog)
        try:
            for state in states:
                if state.state == "lost":
                    while forget_copies(self._catalog, state.store_no, _LISTED_COUNT):
                        progressed()
                elif state.store_no in self._stores.by_number:
                    self._complete(state, done, stopping, progressed)
            if not stopping():
                done.whole, done.withdrawn = review_snapshots(self._catalog)
        finally:
            self._metrics.add(done)
            self._metrics.show(self._catalog, states)
        return done

    def _complete(
        self,
        state: StoreState,
        done: Replicated,
        stopping: Callable[[], bool],
        progressed: Callable[[], None],
    ) -> None:
        """Give a store what it lacks."""
        store_no = state.store_no
        keys = domain_keys(self._catalog)
        if state.refill or (store_no == SECOND and not keys <= self._copied_keys):
            done.keys += self._mirror.copy_keys(store_no)
            self._copied_keys = keys
        if state.refill:
            after: int | None = 0
            while after is not None:
                after = want_copies(self._catalog, store_no, after, _LISTED_COUNT)
                progressed()
        if store_no == SECOND:
            self._follow(state, done, stopping, progressed)
        self._make_wanted(store_no, done, stopping, progressed)
        if stopping():
            return
        if store_no == SECOND:
            done.manifests += self._mirror.copy_manifests(progressed)
        elif state.refill:
            done.manifests += self._mirror.restore_manifests(progressed)
        own = read_incarnation(self._catalog)
        checkpoint = (own.number, own.durable)
        if state.refill or (store_no == SECOND and checkpoint != self._copied_checkpoint):
            self._mirror.copy_checkpoint(store_no)
            self._copied_checkpoint = checkpoint
        if state.refill:
            end_refill(self._catalog, store_no)

    def _follow(
        self,
        state: StoreState,
        done: Replicated,
        stopping: Callable[[], bool],
        progressed: Callable[[], None],
    ) -> None:
        """Copy the packs that the log tells of, up to its end."""
        position = state.position
        while not stopping():
            events = read_log(self._catalog, PACKS, position, _EVENT_COUNT)
            if not events:
                return
            for at in range(0, len(events), _PACK_COUNT):
                batch = events[at : at + _PACK_COUNT]
                generations = [
                    value.generation
                    for value in map(_event_of, batch)
                    if isinstance(value, PackStored | PackRewritten)
                ]
                last = batch[-1].envelope.position
                assert last is not None
                self._copy(state.store_no, generations, last, done)
                position = last
                progressed()
                if stopping():
                    return

    def _make_wanted(
        self,
        store_no: int,
        done: Replicated,
        stopping: Callable[[], bool],
        progressed: Callable[[], None],
    ) -> None:
        """Make what is wanted or damaged, whoever wants it."""
        after = 0
        while not stopping():
            page = wanted_copies(self._catalog, store_no, after, _PACK_COUNT)
            if not page:
                return
            now = time.monotonic()
            due = [
                one.generation
                for one in page
                if self._again_at.get((store_no, one.generation), 0.0) <= now
            ]
            if due:
                self._copy(store_no, due, None, done)
            after = page[-1].pack_no
            progressed()

    def _copy(
        self, store_no: int, generations: Sequence[UUID], position: int | None, done: Replicated
    ) -> None:
        """Copy packs and record them, and the position in the log, in one transaction."""
        lacking = locate_lacking(self._catalog, store_no, generations) if generations else []
        write = functools.partial(self._write, store_no)
        with ThreadPoolExecutor(self._thread_count, "copy") as threads:
            made = list(threads.map(write, lacking))
        written = {
            pack.pack_no: size
            for pack, size in zip(lacking, made, strict=True)
            if isinstance(size, int)
        }
        live = record_replicated(self._catalog, store_no, list(written), position)
        done.packs += len(live)
        done.pack_bytes += sum(written[pack_no] for pack_no in live)
        done.failures += sum(isinstance(one, _NoneIntact) for one in made)

    def _write(self, store_no: int, pack: PackLocation) -> int | _NoneIntact | None:
        """Write a pack's object; its size, or None if the pack is no longer live."""
        try:
            size = self._maker.write(pack, store_no)
        except (DamagedDataError, NotFoundError) as err:
            self._again_at[store_no, pack.generation] = time.monotonic() + _AGAIN_SECONDS
            log.warning(
                "copy not made",
                extra={
                    "pack": pack.generation.hex,
                    "store": STORE_NAMES[store_no],
                    "detail": str(err),
                },
            )
            return _NoneIntact()
        self._again_at.pop((store_no, pack.generation), None)
        return size


def _event_of(event: LoggedEvent) -> Event:
    return decode(event.envelope.type, event.envelope.version, event.value)
