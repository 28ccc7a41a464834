"""The watch: looks for what is wrong and told by nobody, and keeps the notifications of it.

What a transaction decides is told by that transaction: a rejected session, damage, a halt. The rest
is a state in which nothing happens: an agent that says nothing, a store that does not answer. Here
each of those is looked for now and then, and opened or resolved by what is found.
"""

import logging
import time
from collections.abc import Callable

from libs.catalogdb.notifications.opening import EVERYBODY, Finding, Kind
from libs.catalogdb.notifications.reviewing import (
    keep_found,
    review_chunkers,
    review_damage,
    review_groups,
    review_nodes,
    review_relay,
)
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.chunkers import read_chunkers, why_none_reads
from libs.catalogdb.stores import StoreState, read_store_figures, read_stores
from libs.copies.stores import PRIMARY, STORE_NAMES, Stores
from libs.errors import BackcastError, OutOfSpaceError
from libs.runtime.signals import Stop
from services.catalog.copies.identity import store_id_of
from services.catalog.recovery.loop import RecoveryLoop

log = logging.getLogger(__name__)

#: How often everything is looked at.
WATCH_INTERVAL_SECONDS = 15.0
#: An agent announces itself every 15 s, so this is four times in a row.
NODE_SILENT_SECONDS = 60.0
#: Chunkers are started and replaced within seconds.
NO_CHUNKER_SECONDS = 60.0
#: The relay publishes within a second of a commit.
RELAY_LAG_SECONDS_MAX = 60.0
#: A checkpoint is due every 30 s if something has changed.
CHECKPOINT_OVERDUE_SECONDS = 300.0
#: A pack is copied seconds after it was stored, unless a store was away or is too slow.
COPY_LAG_SECONDS_MAX = 3600.0


class Watch:
    """For one loop; any number may run in other processes.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: those that the service is configured for.
        recovery: knows whether checkpoints are written.
    """

    def __init__(self, catalog: Catalog, stores: Stores, recovery: RecoveryLoop) -> None:
        self._catalog = catalog
        self._stores = stores
        self._recovery = recovery
        #: When a chunker that takes captures was last found, or the first look was made.
        self._chunker_found_at: float | None = None

    def round(self, _stop: Stop, progressed: Callable[[], None]) -> None:
        """Look at everything once.

        Raises:
            UnavailableError: the catalog does not answer.
        """
        review_nodes(self._catalog, NODE_SILENT_SECONDS)
        review_groups(self._catalog)
        self._look_at_chunkers()
        review_relay(self._catalog, RELAY_LAG_SECONDS_MAX)
        review_damage(self._catalog)
        progressed()
        self._look_at_stores(progressed)
        self._look_at_copies()
        self._look_at_checkpoints()

    def _look_at_chunkers(self) -> None:
        now = time.monotonic()
        if self._chunker_found_at is None or not why_none_reads(read_chunkers(self._catalog)):
            self._chunker_found_at = now
        is_missing = now - self._chunker_found_at > NO_CHUNKER_SECONDS
        review_chunkers(self._catalog, is_missing=is_missing)

    def _look_at_stores(self, progressed: Callable[[], None]) -> None:
        silent = []
        for store_no, store in sorted(self._stores.by_number.items()):
            try:
                store_id_of(store)
            except BackcastError as err:
                log.warning(
                    "store does not answer the watch",
                    extra={"store": STORE_NAMES[store_no], "detail": str(err)},
                )
                silent.append(_unreachable(STORE_NAMES[store_no], err))
            progressed()
        keep_found(self._catalog, Kind.STORE_UNREACHABLE, silent, "the store answers")

    def _look_at_copies(self) -> None:
        states = [one for one in read_stores(self._catalog) if one.state == "online"]
        behind, damaged = [], []
        if len(self._stores.by_number) > 1:
            for state in states:
                figures = read_store_figures(self._catalog, state.store_no)
                if figures.lag_seconds > COPY_LAG_SECONDS_MAX:
                    behind.append(_behind(state))
                if figures.damaged:
                    damaged.append(_damaged(state))
        keep_found(self._catalog, Kind.COPY_BEHIND, behind, "the store has caught up")
        keep_found(self._catalog, Kind.COPIES_DAMAGED, damaged, "every copy is made anew")

    def _look_at_checkpoints(self) -> None:
        err = self._recovery.overdue(CHECKPOINT_OVERDUE_SECONDS)
        overdue = [_overdue(err)] if err else []
        full = [_full()] if isinstance(self._recovery.failure, OutOfSpaceError) else []
        keep_found(self._catalog, Kind.CHECKPOINT_OVERDUE, overdue, "a checkpoint was written")
        keep_found(self._catalog, Kind.STORE_FULL, full, "the store takes what is written")


def _unreachable(store: str, err: BackcastError) -> Finding:
    return Finding(
        kind=Kind.STORE_UNREACHABLE,
        about=store,
        tenant=EVERYBODY,
        severity="error",
        message=(
            f"store {store}: does not answer the catalog service ({err.code}); its log says how. "
            f"Backups need the primary store, and restores need one of the stores"
        ),
        names={"store": store},
    )


def _behind(state: StoreState) -> Finding:
    return Finding(
        kind=Kind.COPY_BEHIND,
        about=state.name,
        tenant=EVERYBODY,
        severity="warning",
        message=(
            f"store {state.name}: packs that were stored more than "
            f"{COPY_LAG_SECONDS_MAX / 60:.0f} minutes ago have no copy there; "
            f"`backcast store list` says how much is missing"
        ),
        names={"store": state.name},
    )


def _damaged(state: StoreState) -> Finding:
    return Finding(
        kind=Kind.COPIES_DAMAGED,
        about=state.name,
        tenant=EVERYBODY,
        severity="warning",
        message=(
            f"store {state.name}: copies of live packs are damaged or gone there; they are made "
            f"anew from the other store by themselves. `backcast store list` says how many"
        ),
        names={"store": state.name},
    )


def _overdue(err: Exception) -> Finding:
    return Finding(
        kind=Kind.CHECKPOINT_OVERDUE,
        about="catalog",
        tenant=EVERYBODY,
        severity="error",
        message=(
            f"catalog: no checkpoint could be written for more than "
            f"{CHECKPOINT_OVERDUE_SECONDS:.0f} s ({getattr(err, 'code', type(err).__name__)}); "
            f"the store does not know what was decided since. `backcast catalog status` says why"
        ),
        names={},
    )


def _full() -> Finding:
    name = STORE_NAMES[PRIMARY]
    return Finding(
        kind=Kind.STORE_FULL,
        about=name,
        tenant=EVERYBODY,
        severity="error",
        message=(
            f"store {name}: has no room left, or its quota is used up: no checkpoint can be "
            f"written, so nothing is backed up and nothing expires. Enlarge it"
        ),
        names={"store": name},
    )
