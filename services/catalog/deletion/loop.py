"""The loop that collects, pass after pass, and what it tells of it."""

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.catalogdb.deletion.condemning import read_collection_state
from libs.catalogdb.notifications.opening import EVERYBODY, Finding, Kind
from libs.catalogdb.notifications.reviewing import keep_found
from libs.catalogdb.pool import Catalog
from libs.errors import BackcastError
from libs.runtime.signals import Stop
from libs.runtime.threads import is_expected
from services.catalog.deletion.passes import Collection, Freed

log = logging.getLogger(__name__)


class CollectionMetrics:
    """What collection has freed since the process started, and what it has still to do."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"backcast_catalog_{name}", text, registry=registry)

        self._condemned = counter("packs_condemned", "Packs that nothing needed any more.")
        self._deleted = counter("packs_deleted", "Packs whose objects were deleted.")
        self._freed_bytes = counter("freed_bytes", "Bytes of the packs deleted.")
        self._manifests = counter("manifests_deleted", "Manifests of expired snapshots deleted.")
        self._failures = counter("delete_failures", "Objects that the store did not delete.")
        self._tombstones = Gauge(
            "backcast_catalog_tombstones",
            "Condemned packs whose objects are not deleted for certain.",
            registry=registry,
        )

    def add(self, freed: Freed) -> None:
        """Count what a step freed."""
        self._condemned.inc(freed.packs_condemned)
        self._deleted.inc(freed.packs_deleted)
        self._freed_bytes.inc(freed.freed_bytes)
        self._manifests.inc(freed.manifests_deleted)
        self._failures.inc(freed.failures)

    def show_tombstones(self, count: int) -> None:
        """Tell how many there are."""
        self._tombstones.set(count)


@dataclass(slots=True)
class Chore:
    """Something besides passes that is done now and then, first when the process has started."""

    name: str
    interval_seconds: float
    #: Does it, and calls its argument while it makes progress.
    run: Callable[[Callable[[], None]], object]
    #: By the monotonic clock.
    due_at: float = -math.inf


class CollectionLoop:
    """Passes of collection, and chores between them, for one loop.

    Args:
        collection: what each pass does.
        chores: what else belongs to keeping the store small.
        catalog: asked what is left.
        metrics: told what was freed.
    """

    def __init__(
        self,
        collection: Collection,
        chores: Sequence[Chore],
        catalog: Catalog,
        metrics: CollectionMetrics,
    ) -> None:
        self._collection = collection
        self._chores = chores
        self._catalog = catalog
        self._metrics = metrics

    def round(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """A pass, and what chores are due; what is put off does not keep the others back.

        Raises:
            Exception: the last thing that failed with an error that nobody foresaw.
        """
        broken: Exception | None = None
        works: dict[str, Callable[[], object]] = {
            "collection": functools.partial(self._pass, stop, progressed)
        }
        for chore in self._chores:
            works[chore.name] = functools.partial(self._do, chore, progressed)
        for name, work in works.items():
            if stop.requested:
                break
            try:
                work()
            except BackcastError as err:
                log.warning("work put off", extra={"work": name, "detail": str(err)})
                broken = broken if is_expected(err) else err
            except Exception as err:  # raised below, when the others have had their turn
                log.exception("work failed", extra={"work": name})
                broken = err
        if broken:
            raise broken

    def _do(self, chore: Chore, progressed: Callable[[], None]) -> None:
        if time.monotonic() < chore.due_at:
            return
        chore.due_at = time.monotonic() + chore.interval_seconds
        chore.run(progressed)

    def _pass(self, stop: Stop, progressed: Callable[[], None]) -> None:
        freed, is_whole = Freed(), True
        for step in self._collection.steps():
            freed += step.freed
            self._metrics.add(step.freed)
            progressed()
            if stop.requested:
                is_whole = False
                break
        if freed.failures or is_whole:
            self._tell(freed)
        if freed != Freed():
            log.info("collected", extra={"freed": str(freed)})
        self._metrics.show_tombstones(read_collection_state(self._catalog).tombstones)

    def _tell(self, freed: Freed) -> None:
        """Open or resolve what a pass has found: nothing else knows what resists being deleted."""
        failed = Finding(
            kind=Kind.DELETION_FAILED,
            about="collection",
            tenant=EVERYBODY,
            severity="warning",
            message=(
                "objects that nothing needs could not be deleted; the catalog service's log has "
                'which and why ("pack not deleted", "manifest not deleted", "store is away"). '
                "Each pass tries it again; until then they take up room"
            ),
            names={},
        )
        found = [failed] if freed.failures else []
        keep_found(self._catalog, Kind.DELETION_FAILED, found, "a pass had no failure")
