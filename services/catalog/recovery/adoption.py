"""Takes back what the store proves, into a catalog that has forgotten it or never knew.

Each step may be repeated; `services.catalog.recovery.reconciler` says what comes before and after.
In memory are the manifests beyond one group's head, the names of a 256th of all packs, and the
counts of one lineage.
"""

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.adoption import (
    apply_rows,
    expire_known,
    forget_holds,
    group_heads,
    recover_snapshot,
    undecided_sessions,
)
from libs.catalogdb.recovery.references import (
    FoundPack,
    bury_lost,
    lineages_to_count,
    packs_between,
    register_found,
)
from libs.checkpoints.shelf import Checkpoint, CheckpointShelf
from libs.errors import DamagedDataError
from libs.keys.vault import KeyVault
from libs.packs.frame import FrameCipher
from libs.packs.manifest import manifest_mac, open_manifest, parse_manifest_header
from libs.packs.trailer import PackHeader, encode_frame_table, read_pack_index
from libs.reading.frames import FrameReader
from libs.runtime.retries import retried
from libs.store.layout import (
    KEYS_PREFIX,
    MANIFESTS_PREFIX,
    PACKS_PREFIX,
    pack_object,
    parse_domain_key_object,
    parse_manifest_object,
    parse_pack_object,
)
from libs.store.port import ObjectStat, ObjectStore
from services.catalog.recovery.found import found_snapshot
from services.catalog.recovery.manifests import Candidate, Decisions, continuation
from services.catalog.recovery.references import DamagedPoint, ReferenceCounter

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


class Adoption:
    """Takes back what a store proves; for one run.

    Args:
        catalog: what has forgotten it.
        store: the bucket.
        vault: the domains' keys.
        shelf: the checkpoints in the bucket.
        report: told what was found, and which step is being done.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        vault: KeyVault,
        shelf: CheckpointShelf,
        report: Report,
    ) -> None:
        self.report = report
        self._catalog = catalog
        self._store = store
        self._vault = vault
        self._shelf = shelf
        #: Key id → its domain, and domain → the newest of its keys, of all wrapped keys.
        self._domains: dict[UUID, UUID] = {}
        self._newest_keys: dict[UUID, UUID] = {}

    def run(self, newest: Checkpoint | None, decisions: Decisions) -> None:
        """Do all steps.

        Args:
            newest: the checkpoint whose rows are applied; None if the catalog knows them.
            decisions: what a surviving log says.
        """
        wrapped = sorted(self._store.list(KEYS_PREFIX), key=lambda stat: stat.modified_at)
        names = [parse_domain_key_object(stat.key) for stat in wrapped]
        self._domains = {name.key_id: name.domain for name in names}
        self._newest_keys = {name.domain: name.key_id for name in names}
        if newest:
            self._step("checkpoint")
            self._apply(newest)
        self._step("manifests")
        self._take_back(decisions)
        expire_known(self._catalog, list(decisions.expired))
        self._step("packs")
        self._compare_packs()
        self._step("references")
        self._recount()

    def _step(self, step: str) -> None:
        self.report.step = step
        log.info("taking back", extra={"step": step})

    def _apply(self, newest: Checkpoint) -> None:
        forget_holds(self._catalog)
        rows = self._shelf.rows(newest)
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
                self._recover(candidate, proved=candidate.manifest.session in decisions.sealed)

    def _recover(self, candidate: Candidate, *, proved: bool) -> None:
        domain, manifest = self._domains[candidate.key_id], candidate.manifest
        found = found_snapshot(candidate, domain, self._newest_keys, proved=proved)
        try:
            recover_snapshot(self._catalog, found)
        except DamagedDataError as err:
            self._unreadable(candidate.key, err)
            return
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
        recounter = ReferenceCounter(
            self._catalog, self._vault, FrameReader(self._store, self._vault)
        )
        for lineage in lineages_to_count(self._catalog):
            self.report.damaged += recounter.recount(lineage)
            self.report.lineages += 1

    def _unreadable(self, key: str, err: Exception) -> None:
        log.error("object cannot be read", extra={"key": key, "detail": str(err)})
        self.report.unreadable.append(key)
