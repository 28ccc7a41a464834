"""Compares the live catalog with one that is rebuilt from the store, row by row.

The rebuilt one lies beside the live one while it is compared (`libs.catalogdb.recovery.scratch`).
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from libs.catalogdb.log.log import last_position
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.dump import TABLES, DumpLine, dump
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.recovery.scratch import scratch_catalog
from libs.copies.stores import Stores
from libs.errors import BackcastError, ConflictError, InvariantViolation
from libs.events.topics import PACKS, SNAPSHOTS
from libs.keys.vault import KeyVault
from libs.runtime.threads import start_thread
from services.catalog.recovery.adoption import Adoption, Report
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.manifests import Decisions

log = logging.getLogger(__name__)

#: Differences that are told; all are counted.
_TOLD_MAX = 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that the two catalogs do not have alike; None: one does not have it."""

    table: str
    key: str
    live: str | None
    rebuilt: str | None


@dataclass(slots=True)
class CheckResult:
    """How a comparison stands."""

    running: bool = True
    step: str = "rebuilding"
    rows: int = 0
    differences: int = 0
    told: list[Difference] = field(default_factory=list)
    #: Whether something was decided meanwhile: differences may come from it.
    changed_meanwhile: bool = False
    error: str = ""


class CatalogCheck:
    """Comparisons that were asked for, one at a time.

    Args:
        catalog: the live catalog.
        dsn: how to reach it, to make the other one beside it.
        stores: where the objects lie.
        vault: the domains' keys.
        checkpoints: the catalog's checkpoints.
    """

    def __init__(
        self,
        catalog: Catalog,
        dsn: str,
        stores: Stores,
        vault: KeyVault,
        checkpoints: Checkpoints,
    ) -> None:
        self.result: CheckResult | None = None
        self._catalog = catalog
        self._dsn = dsn
        self._stores = stores
        self._vault = vault
        self._checkpoints = checkpoints
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin a comparison in a thread of its own.

        Raises:
            ConflictError: one is under way.
            NotReconciledError: the catalog is not yet of one mind with the store.
        """
        with self._lock:
            if self.result and self.result.running:
                raise ConflictError("catalog: is being checked already; wait for that")
            with self._catalog.transaction() as tx:
                require_reconciled(tx)
            result = self.result = CheckResult()
        start_thread("check", self._run, result, daemon=True)

    def check(self) -> CheckResult:
        """Compare now; returns when it is done."""
        result = CheckResult()
        self._compare(result)
        result.running = False
        return result

    def _run(self, result: CheckResult) -> None:
        try:
            self._compare(result)
        except BackcastError as err:
            log.warning("catalog not checked", extra={"detail": str(err)})
            result.error = f"{err.code}: {err}"
        except Exception as err:
            log.exception("catalog not checked")
            result.error = f"{InvariantViolation.code}: {type(err).__name__}; see the log"
        finally:
            result.running = False

    def _compare(self, result: CheckResult) -> None:
        shelf = self._checkpoints.shelf
        self._checkpoints.write()
        before = self._positions()
        with scratch_catalog(self._dsn) as rebuilt:
            # The other catalog knows nothing that could be missing, and sessions go on meanwhile.
            recovery = Adoption(
                rebuilt, self._stores, self._vault, shelf, Report(), 0, lambda _: None, alone=False
            )
            recovery.run(shelf.newest_state(), Decisions())
            result.step = "comparing"
            for live, other in _paired(dump(self._catalog), dump(rebuilt)):
                result.rows += 1
                line = live or other
                assert line is not None
                if live != other:
                    result.differences += 1
                    if len(result.told) < _TOLD_MAX:
                        result.told.append(_difference(line, live, other))
        result.changed_meanwhile = self._positions() != before
        result.step = "done"

    def _positions(self) -> tuple[int, int]:
        return last_position(self._catalog, SNAPSHOTS), last_position(self._catalog, PACKS)


def _paired(
    left: Iterator[DumpLine], right: Iterator[DumpLine]
) -> Iterator[tuple[DumpLine | None, DumpLine | None]]:
    """Lines of two dumps by their keys; both are in order, so one line of each is in memory."""
    one, other = next(left, None), next(right, None)
    while one or other:
        if other is None or (one is not None and _order(one) < _order(other)):
            yield one, None
            one = next(left, None)
        elif one is None or _order(other) < _order(one):
            yield None, other
            other = next(right, None)
        else:
            yield one, other
            one, other = next(left, None), next(right, None)


def _difference(line: DumpLine, live: DumpLine | None, rebuilt: DumpLine | None) -> Difference:
    return Difference(
        line.table, line.key, live.values if live else None, rebuilt.values if rebuilt else None
    )


def _order(line: DumpLine) -> tuple[int, str]:
    return TABLES.index(line.table), line.key
