"""Brings a catalog that fell back, or an empty one, to what the store proves (scenarios 12, 17).

Order, each step repeatable after a crash, because `reconciled` stays false until the last:

1. the number of the new incarnation is claimed in the store;
2. the incarnation begins: new positions, attempts of chunkers closed;
3. deletions that a collector of the forgotten time had under way come to their end;
4. the rows of the newest checkpoint are applied;
5. manifests beyond the heads are taken back (`manifests` has the rules);
6. the catalog's packs are compared with a listing: what is gone is dead, what is unknown is
   registered from its trailer;
7. lineages that changed are counted anew, which finds snapshots that lack something;
8. sessions that are still open are rejected, a checkpoint is written, the catalog is reconciled.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from libs.catalogdb.incarnation import Incarnation, read_incarnation
from libs.catalogdb.incarnations import (
    begin_incarnation,
    finish_reconciling,
    reject_forgotten,
)
from libs.catalogdb.notices import raise_notification
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recounting import (
    FoundPack,
    bury_lost,
    lineages_to_count,
    packs_between,
    register_found,
)
from libs.catalogdb.recovering import (
    apply_rows,
    expire_known,
    forget_holds,
    group_heads,
    recover_snapshot,
    undecided_sessions,
)
from libs.checkpoints.checkpoint import Head
from libs.checkpoints.shelf import Checkpoint
from libs.errors import DamagedDataError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.notifications import NotificationRaised
from libs.keys.vault import KeyVault
from libs.packs.frame import FrameCipher
from libs.packs.manifest import manifest_mac, open_manifest, parse_manifest_header
from libs.packs.trailer import PackHeader, encode_frame_table, read_pack_index
from libs.reading.frames import FrameReader
from libs.runtime.retries import retried
from libs.runtime.signals import Stop
from libs.store.layout import (
    KEYS_PREFIX,
    MANIFESTS_PREFIX,
    PACKS_PREFIX,
    CheckpointName,
    pack_object,
    parse_domain_key_object,
    parse_manifest_object,
    parse_pack_object,
)
from libs.store.port import ObjectStat, ObjectStore
from services.catalog.checkpoints import Checkpoints
from services.catalog.found import found_snapshot
from services.catalog.manifests import Candidate, Decisions, continuation
from services.catalog.recount import DamagedPoint, Recounter

log = logging.getLogger(__name__)

#: Rows of a checkpoint that are applied in one transaction.
_ROWS = 500
#: Trailers that are read at once.
_THREADS = 8


@dataclass(slots=True)
class Report:
    """What a reconciliation has found so far."""

    incarnation: int = 0
    step: str = "waiting"
    #: Labels of snapshots that came back although only the store knows them.
    recovered: list[str] = field(default_factory=list)
    damaged: list[DamagedPoint] = field(default_factory=list)
    packs_found: int = 0
    packs_lost: int = 0
    lineages: int = 0
    sessions_rejected: int = 0
    #: Objects that could not be read.
    unreadable: list[str] = field(default_factory=list)


class Reconciler:
    """Reconciles the catalog with the store; one at a time.

    Args:
        catalog: the catalog, in the catalog service's role.
        store: the bucket.
        vault: the domains' keys.
        checkpoints: the catalog's checkpoints.
        settle_seconds: how long deletions of a collector of the forgotten time may still arrive:
            longer than a request to the store lasts.
        stop: ends the waiting.
    """

    def __init__(  # noqa: PLR0913 -- wired in __main__
        self,
        catalog: Catalog,
        store: ObjectStore,
        vault: KeyVault,
        checkpoints: Checkpoints,
        settle_seconds: float,
        stop: Stop,
    ) -> None:
        self.report = Report()
        self._catalog = catalog
        self._store = store
        self._vault = vault
        self._checkpoints = checkpoints
        self._settle_seconds = settle_seconds
        self._stop = stop
        self._domains: dict[UUID, UUID] = {}

    def run(self, reason: str, decisions: Decisions | None = None) -> Report:
        """Reconcile.

        Args:
            reason: why, for the notification.
            decisions: what a surviving log says; None if there is only the store.
        """
        self.report = Report()
        decisions = decisions or Decisions()
        own = read_incarnation(self._catalog)
        newest = self._checkpoints.shelf.newest_state()
        self._begin(own)
        log.warning("reconciling", extra={"reason": reason})
        if not own.empty:
            self._step("settling")
            self._stop.wait(self._settle_seconds)
        self._domains = {
            name.key_id: name.domain
            for name in (parse_domain_key_object(s.key) for s in self._store.list(KEYS_PREFIX))
        }
        if newest and not _is_later(own, newest):
            self._step("checkpoint")
            self._apply(newest)
        self._step("manifests")
        self._take_back(decisions)
        expire_known(self._catalog, list(decisions.expired))
        self._step("packs")
        self._compare_packs()
        self._step("references")
        self._recount()
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
            claim = Head(kind="claim", made_at=datetime.now(UTC), positions={}, parts=())
            shelf.put_head(CheckpointName(number, 0), claim)
        begin_incarnation(self._catalog, number)
        self.report.incarnation = number

    def _apply(self, newest: Checkpoint) -> None:
        forget_holds(self._catalog)
        rows = self._checkpoints.shelf.rows(newest)
        while batch := list(itertools.islice(rows, _ROWS)):
            apply_rows(self._catalog, batch, newest.head.made_at)

    def _take_back(self, decisions: Decisions) -> None:
        """Manifests beyond the heads, group by group; those of one group are in memory."""
        heads = {head.group: head for head in group_heads(self._catalog)}
        listing = self._store.list(MANIFESTS_PREFIX)
        for _, stats in itertools.groupby(listing, lambda stat: stat.key.rpartition("/")[0]):
            candidates = []
            head = None
            for stat in stats:
                name = parse_manifest_object(stat.key)
                head = heads.get(name.group)
                if head is None or name.sequence > head.sequence:
                    candidates += self._candidate(stat)
            undecided = set(
                undecided_sessions(self._catalog, [c.manifest.session for c in candidates])
            )
            taken = continuation(
                (head.sequence, head.mac) if head else None,
                candidates,
                decisions,
                lambda session, undecided=undecided: session not in undecided,  # type: ignore[misc] # bound now
            )
            for candidate in taken:
                proved = candidate.manifest.session in decisions.sealed
                domain = self._domains[candidate.key_id]
                recover_snapshot(self._catalog, found_snapshot(candidate, domain, proved=proved))
                manifest = candidate.manifest
                self.report.recovered.append(f"{manifest.group_name}@{manifest.sequence}")

    def _candidate(self, stat: ObjectStat) -> list[Candidate]:
        try:
            data = self._store.get(stat.key)
            header = parse_manifest_header(data)
            domain = self._domains.get(header.key_id)
            if domain is None:
                raise DamagedDataError(f"its key {header.key_id} is not in the bucket")
            keys = self._vault.get(domain, header.key_id)
            manifest = open_manifest(data, header.key_id, keys.manifest_key())
        except DamagedDataError as err:
            self._unreadable(stat.key, err)
            return []
        return [Candidate(stat.key, header.key_id, manifest_mac(data), manifest)]

    def _compare_packs(self) -> None:
        """Folder by folder, so that the names of a 256th of all packs are in memory."""
        with ThreadPoolExecutor(_THREADS, "trailers") as threads:
            for folder in range(256):
                prefix = f"{PACKS_PREFIX}{folder:02x}/"
                stored = {
                    parse_pack_object(stat.key): stat.size_bytes
                    for stat in self._store.list(prefix)
                }
                first = UUID(bytes=bytes([folder]) + bytes(15))
                last = UUID(bytes=bytes([folder]) + b"\xff" * 15)
                known = packs_between(self._catalog, first, last)
                lost = [
                    name for name, state in known.items() if state != "d" and name not in stored
                ]
                if lost:
                    self.report.packs_lost += bury_lost(self._catalog, lost)
                unknown = [
                    (name, size) for name, size in stored.items() if known.get(name, "u") == "u"
                ]
                self.report.packs_found += sum(threads.map(self._register, unknown))

    def _register(self, pack: tuple[UUID, int]) -> bool:
        generation, size_bytes = pack
        key = pack_object(generation)

        def cipher_of(header: PackHeader) -> FrameCipher:
            if header.generation != generation:
                raise DamagedDataError(f"{key}: says to be pack {header.generation.hex}")
            keys = self._vault.get(header.domain, header.key_id)
            return FrameCipher(generation, keys.pack_key(generation))

        try:
            index = read_pack_index(
                size_bytes, lambda wanted: self._store.get_range(key, wanted), cipher_of
            )
        except DamagedDataError as err:
            self._unreadable(key, err)
            return False
        found = FoundPack(
            domain=index.header.domain,
            generation=generation,
            key_id=index.header.key_id,
            size_bytes=size_bytes,
            frames=encode_frame_table(index.frames),
            ids=[item.id for item in index.items],
            places=[item.place for item in index.items],
        )
        return retried(lambda: register_found(self._catalog, found))

    def _recount(self) -> None:
        recounter = Recounter(self._catalog, self._vault, FrameReader(self._store, self._vault))
        for lineage in lineages_to_count(self._catalog):
            self.report.damaged += recounter.recount(lineage)
            self.report.lineages += 1

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

    def _unreadable(self, key: str, err: Exception) -> None:
        log.error("object cannot be read", extra={"key": key, "detail": str(err)})
        self.report.unreadable.append(key)


def _is_later(own: Incarnation, newest: Checkpoint) -> bool:
    """Whether the catalog is of a later moment than the checkpoint, which it knows as durable."""
    return (own.number, own.durable) >= (newest.name.incarnation, newest.name.number)


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:20])
    return shown if len(labels) <= 20 else f"{shown} and {len(labels) - 20} more"
