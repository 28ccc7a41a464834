"""The loop that writes checkpoints, notices that the catalog fell back, and has it reconciled.

Looks at the catalog's own row every second, because after a restart of Postgres nothing is decided
until it was compared with the store.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import Incarnation, read_incarnation
from libs.errors import ConflictError
from services.catalog.recovery.adoption import Report
from services.catalog.recovery.checkpoints import Checkpoints, Standing
from services.catalog.recovery.manifests import Decisions
from services.catalog.recovery.reconciler import Reconciler

log = logging.getLogger(__name__)

#: How often the catalog's row is looked at.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a person has asked for."""

    reason: str
    #: Reads what a surviving log says; None: the store decides alone.
    decisions: Callable[[], Decisions] | None


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """How the catalog stands."""

    own: Incarnation
    standing: Standing | None
    reason: str
    report: Report
    #: Why the last look failed, if it did.
    error: str


class RecoveryLoop:
    """Keeps the catalog and the store of one mind; for one loop.

    Args:
        catalog: the catalog.
        checkpoints: compares, and writes checkpoints.
        reconciler: reconciles.
    """

    def __init__(self, catalog: Catalog, checkpoints: Checkpoints, reconciler: Reconciler) -> None:
        self._catalog = catalog
        self._checkpoints = checkpoints
        self._reconciler = reconciler
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._standing: Standing | None = None
        self._reason = ""
        self._error: Exception | None = None
        self._due_at = 0.0
        self._worked_at = time.monotonic()

    def round(self, interval_seconds: float) -> None:
        """A look, after which `state` tells whether it failed."""
        try:
            self.look(interval_seconds)
        except Exception as err:
            self._error = err
            raise
        self._error = None
        self._worked_at = time.monotonic()

    @property
    def failure(self) -> Exception | None:
        """Why the last look failed; None: it worked."""
        return self._error

    def overdue(self, seconds_max: float) -> Exception | None:
        """Why no look has worked for so long; None: one has."""
        is_overdue = time.monotonic() - self._worked_at > seconds_max
        return self._error if is_overdue else None

    def look(self, interval_seconds: float) -> None:
        """One look: reconcile if need be, else write a checkpoint if one is due."""
        with self._lock:
            order, self._order = self._order, None
        own = read_incarnation(self._catalog)
        if order:
            self._standing, self._reason = None, ""
            decisions = order.decisions() if order.decisions else None
            self._reconciler.run(order.reason, decisions)
        elif not own.reconciled:
            self._reconciler.run("continued after an interruption")
        elif own.compared and self._standing and time.monotonic() < self._due_at:
            return
        found = self._checkpoints.compare()
        self._standing, self._reason = found.standing, found.reason
        match found.standing:
            case Standing.BEHIND:
                self._reconciler.run(found.reason)
                self._standing = Standing.CURRENT
            case Standing.CURRENT:
                self._checkpoints.write()
            case Standing.LOST | Standing.FOREIGN:
                log.error("catalog waits for a person", extra={"reason": found.reason})
        self._due_at = time.monotonic() + interval_seconds

    def order(self, order: Order, *, empty_only: bool) -> None:
        """Have the catalog reconciled at the next look.

        Args:
            order: why, and with which log.
            empty_only: refuse if anything was ever decided in the catalog.

        Raises:
            ConflictError: it is not empty, or is being reconciled.
        """
        own = read_incarnation(self._catalog)
        if empty_only and not own.empty:
            raise ConflictError(
                "catalog: is not empty, so it is not rebuilt; `backcast catalog reconcile` brings "
                "a catalog that fell back to what the store proves"
            )
        with self._lock:
            if self._order or not own.reconciled:
                raise ConflictError("catalog: is being reconciled; `backcast catalog status`")
            self._order = order

    def waits_for_person(self) -> str:
        """Why the catalog does nothing until a person does something; empty: it does not wait."""
        is_waiting = self._standing in (Standing.LOST, Standing.FOREIGN)
        return self._reason if is_waiting else ""

    def state(self) -> RecoveryState:
        """How the catalog stands now."""
        own = read_incarnation(self._catalog)
        err = self._error
        text = f"{getattr(err, 'code', type(err).__name__)}: {err}" if err else ""
        return RecoveryState(own, self._standing, self._reason, self._reconciler.report, text)
