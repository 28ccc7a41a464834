"""Brings a catalog that fell back, or an empty one, to what the store proves (scenarios 12, 17).

Order, each step repeatable after a crash, because `reconciled` stays false until the last:

1. the number of the new incarnation is claimed in the store;
2. the incarnation begins: new positions, attempts of chunkers closed;
3. deletions that a collector of the forgotten time had under way come to their end;
4. the rows of the newest checkpoint are applied;
5. manifests beyond the heads are taken back (`manifests` has the rules);
6. the catalog's packs are compared with listings: what is gone, as two looks apart in time say, is
   dead, unless so much is that a person must look (`absence`); what is unknown is registered from
   its trailer; then manifests are looked for once more;
7. volumes that changed are counted anew, which finds snapshots that lack something;
8. sessions that are still open are rejected, a checkpoint is written, the catalog is reconciled.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.adoption import group_heads
from libs.catalogdb.recovery.beginning import (
    begin_incarnation,
    finish_reconciling,
    reject_forgotten,
)
from libs.catalogdb.recovery.incarnation import Incarnation, read_incarnation
from libs.checkpoints.checkpoint import Head
from libs.checkpoints.shelf import Checkpoint
from libs.copies.stores import Stores
from libs.errors import UnavailableError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.notifications import NotificationRaised
from libs.keys.vault import KeyVault
from libs.runtime.signals import Stop
from libs.store.layout import CheckpointName
from services.catalog.recovery.adoption import Adoption, Report
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.manifests import Decisions

log = logging.getLogger(__name__)


class Reconciler:
    """Reconciles the catalog with the store; one at a time.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where the objects lie.
        vault: the domains' keys.
        checkpoints: the catalog's checkpoints.
        settle_seconds: how long deletions of a collector of the forgotten time may still arrive:
            longer than a request to the store lasts.
        apart_seconds: time between two looks at what is missing in the store.
        stop: ends the waiting.
    """

    def __init__(  # noqa: PLR0913 -- wired in __main__
        self,
        catalog: Catalog,
        stores: Stores,
        vault: KeyVault,
        checkpoints: Checkpoints,
        settle_seconds: float,
        apart_seconds: float,
        stop: Stop,
    ) -> None:
        self.report = Report()
        self._catalog = catalog
        self._stores = stores
        self._vault = vault
        self._checkpoints = checkpoints
        self._settle_seconds = settle_seconds
        self._apart_seconds = apart_seconds
        self._stop = stop

    def run(self, reason: str, decisions: Decisions | None = None) -> Report:
        """Reconcile.

        Args:
            reason: why, for the notification.
            decisions: what a surviving log says; None if there is only the store.
        """
        self.report = Report()
        decisions = decisions or Decisions()
        own = read_incarnation(self._catalog)
        newest = self._checkpoints.newest_state(own)
        self._begin(own)
        log.warning("reconciling", extra={"reason": reason})
        if not own.empty:
            self._step("settling")
            self._stop.wait(self._settle_seconds)
        recovery = Adoption(
            self._catalog,
            self._stores,
            self._vault,
            self._checkpoints.shelf,
            self.report,
            self._apart_seconds,
            self._stop.wait,
        )
        recovery.run(None if newest and _is_later(own, newest) else newest, decisions)
        self._finish(reason)
        return self.report

    def _step(self, step: str) -> None:
        self.report.step = step
        log.info("reconciling", extra={"step": step})

    def _begin(self, own: Incarnation) -> None:
        shelf = self._checkpoints.shelf
        taken = {name.incarnation for name in shelf.names()}
        number = max(taken, default=0)
        if own.reconciled or own.number < number:
            number = max(number, own.number) + 1
            if shelf.has_head(CheckpointName(number, 0)):
                raise UnavailableError(
                    f"LIST checkpoints: expected all objects that there are; it leaves out those "
                    f"of incarnation {number}, which HEAD shows; nothing is concluded"
                )
            claim = Head(kind="claim", made_at=datetime.now(UTC), positions={}, parts=())
            shelf.put_head(CheckpointName(number, 0), claim)
        begin_incarnation(self._catalog, number)
        self.report.incarnation = number

    def _finish(self, reason: str) -> None:
        self.report.sessions_rejected = len(reject_forgotten(self._catalog))
        for tenant, message, severity in self._notices(reason):
            notice = NotificationRaised(
                kind="catalog-went-back",
                severity=severity,  # type: ignore[arg-type] # one of the literals below
                message=message[:MESSAGE_LENGTH_MAX],
            )
            raise_notification(self._catalog, "catalog", tenant, "catalog", notice)
        self._checkpoints.write()
        finish_reconciling(self._catalog)
        self._step("reconciled")

    def _notices(self, reason: str) -> Iterator[tuple[str, str, str]]:
        report = self.report
        for tenant in sorted({head.tenant for head in group_heads(self._catalog)}):
            damaged = [point.label for point in report.damaged if point.tenant == tenant]
            if damaged:
                labels = _some(damaged)
                yield tenant, f"snapshots lack bytes that the store has lost: {labels}", "error"
            message = (
                f"the catalog was reconciled with the store ({reason}): "
                f"{len(report.recovered)} snapshots came back, {report.packs_found} packs were "
                f"found, {report.packs_lost} are gone"
            )
            yield tenant, message, "warning"


def _is_later(own: Incarnation, newest: Checkpoint) -> bool:
    """Whether the catalog is of a later moment than the checkpoint, which it knows as durable."""
    return (own.number, own.durable) >= (newest.name.incarnation, newest.name.number)


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:20])
    return shown if len(labels) <= 20 else f"{shown} and {len(labels) - 20} more"
