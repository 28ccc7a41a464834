"""Takes back what the store proves, into a catalog that has forgotten it or never knew.

Each step may be repeated; `services.catalog.recovery.reconciler` says what comes before and after.
In memory are the manifests beyond one group's head, the names of a 256th of all packs, and the
counts of one volume.

What is not taken back is swept or collected as an orphan later. So manifests are listed a second
time after the packs, a listing that leaves out what HEAD shows is an error, and a volume with
something missing is counted again before its count replaces its references.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.adoption import (
    GroupHead,
    expire_known,
    group_heads,
    live_manifests,
    recover_snapshot,
    undecided_sessions,
)
from libs.catalogdb.recovery.applying import apply_rows, forget_holds
from libs.catalogdb.recovery.references import (
    FoundPack,
    VolumeToCount,
    register_found,
    volumes_to_count,
)
from libs.checkpoints.shelf import Checkpoint, CheckpointShelf
from libs.copies.stores import Stores
from libs.errors import DamagedDataError, UnavailableError, WrongKeyError
from libs.keys.opening import open_manifest_object, read_found_pack
from libs.keys.vault import KeyVault
from libs.packs.manifest import manifest_mac, parse_manifest_header
from libs.packs.trailer import encode_frame_table
from libs.reading.frames import FrameReader
from libs.store.layout import (
    KEYS_PREFIX,
    MANIFESTS_PREFIX,
    ManifestName,
    manifest_folder,
    parse_domain_key_object,
    parse_manifest_object,
)
from libs.store.port import ObjectStat
from services.catalog.recovery.absence import PackComparison
from services.catalog.recovery.found import found_snapshot
from services.catalog.recovery.manifests import Candidate, Decisions, continuation
from services.catalog.recovery.references import DamagedPoint, ReferenceCounter

log = logging.getLogger(__name__)

#: Rows of a checkpoint that are applied in one transaction.
_ROWS = 500


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
    volumes: int = 0
    sessions_rejected: int = 0
    #: Objects that could not be read.
    unreadable: list[str] = field(default_factory=list)


class Adoption:
    """Takes back what a store proves; for one run.

    Args:
        catalog: what has forgotten it.
        stores: where the objects lie.
        vault: the domains' keys.
        shelf: the checkpoints in the bucket.
        report: told what was found, and which step is being done.
        apart_seconds: time between two looks at what is missing.
        wait: waits so long, or until the process is to stop.
        alone: whether nobody else writes to the store, so that what a listing leaves out and
            another one shows is no news, but an error.
    """

    def __init__(  # noqa: PLR0913 -- a recovery's surroundings
        self,
        catalog: Catalog,
        stores: Stores,
        vault: KeyVault,
        shelf: CheckpointShelf,
        report: Report,
        apart_seconds: float,
        wait: Callable[[float], object],
        *,
        alone: bool = True,
    ) -> None:
        self.report = report
        self._catalog = catalog
        self._stores = stores
        self._store = stores.objects
        self._vault = vault
        self._shelf = shelf
        self._apart_seconds = apart_seconds
        self._wait = wait
        self._alone = alone
        #: Key id → its domain, and domain → the newest of its keys, of all wrapped keys.
        self._domains: dict[UUID, UUID] = {}
        self._newest_keys: dict[UUID, UUID] = {}

    def run(self, newest: Checkpoint | None, decisions: Decisions) -> None:
        """Do all steps.

        Args:
            newest: the checkpoint whose rows are applied; None if the catalog knows them.
            decisions: what a surviving log says.
        """
        if newest:
            self._step("checkpoint")
            self._apply(newest)
        self._step("manifests")
        self._take_back(decisions)
        self._step("packs")
        self._compare_packs()
        if self._alone:
            self._step("manifests, again")
            self._take_back(decisions)
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
        wrapped = sorted(self._store.list(KEYS_PREFIX), key=lambda stat: stat.modified_at)
        names = [parse_domain_key_object(stat.key) for stat in wrapped]
        for key in names:  # else all that one of them opens would be given up as damaged
            self._vault.get(key.domain, key.key_id)
        self._domains = {name.key_id: name.domain for name in names}
        self._newest_keys = {name.domain: name.key_id for name in names}
        heads = {head.group: head for head in group_heads(self._catalog)}
        unlisted = set(heads)
        listing = self._store.list(MANIFESTS_PREFIX)
        for _, stats in itertools.groupby(listing, lambda stat: stat.key.rpartition("/")[0]):
            candidates = []
            head = None
            listed = set()
            for stat in stats:
                name = parse_manifest_object(stat.key)
                listed.add(stat.key)
                head = heads.get(name.group)
                if head is None or name.sequence > head.sequence:
                    candidates += self._candidate(stat)
            self._check_gaps(name, head, listed)
            if head:
                unlisted.discard(head.group)
                self._check_listed(head.group, listed)
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
        for group in unlisted:
            head = heads[group]
            folder = manifest_folder(head.tenant, group)
            self._check_left_out(self._store.list(f"{folder}{head.sequence + 1:010d}-"))
            self._check_listed(group, set())
        expire_known(self._catalog, list(decisions.expired))

    def _recover(self, candidate: Candidate, *, proved: bool) -> None:
        domain, manifest = self._domains[candidate.key_id], candidate.manifest
        found = found_snapshot(candidate, domain, self._newest_keys, proved=proved)
        try:
            recover_snapshot(self._catalog, found)
        except DamagedDataError as err:
            self._unreadable(candidate.key, err)
            return
        self.report.recovered.append(f"{manifest.group_name}@{manifest.sequence}")

    def _check_gaps(self, last: ManifestName, head: GroupHead | None, listed: set[str]) -> None:
        """Ask for each sequence that was not listed, and for the next one, by itself.

        A sequence without a manifest is taken for that of a snapshot that has expired.
        """
        sequences = {parse_manifest_object(key).sequence for key in listed}
        first = head.sequence + 1 if head else min(sequences)
        folder = manifest_folder(last.tenant, last.group)
        for sequence in range(first, max(first, last.sequence + 1) + 1):
            if sequence not in sequences:
                self._check_left_out(self._store.list(f"{folder}{sequence:010d}-"))

    def _check_left_out(self, found: Iterator[ObjectStat]) -> None:
        for stat in found if self._alone else ():
            raise UnavailableError(
                f"LIST {MANIFESTS_PREFIX}: expected all objects that there are; it leaves out "
                f"{stat.key}, which is listed by itself; nothing is concluded"
            )

    def _check_listed(self, group: UUID, listed: set[str]) -> None:
        """A listing without a manifest that is there leaves out others, perhaps beyond the head."""
        for key in live_manifests(self._catalog, group):
            if key not in listed and self._store.stat(key):
                raise UnavailableError(
                    f"LIST {MANIFESTS_PREFIX}: expected all objects that there are; it leaves out "
                    f"{key}, which HEAD shows; nothing is concluded"
                )

    def _candidate(self, stat: ObjectStat) -> list[Candidate]:
        try:
            data = self._store.get(stat.key)
            header = parse_manifest_header(data)
            domain = self._domains.get(header.key_id)
            if domain is None:
                raise DamagedDataError(f"its key {header.key_id} is not in the bucket")
            keys = self._vault.get(domain, header.key_id)
            manifest = open_manifest_object(stat.key, data, keys)
        except WrongKeyError:  # it was listed a moment ago
            raise
        except DamagedDataError as err:
            self._unreadable(stat.key, err)
            return []
        self._was_read(stat.key)
        return [Candidate(stat.key, header.key_id, manifest_mac(data), manifest)]

    def _compare_packs(self) -> None:
        comparison = PackComparison(
            self._catalog, self._stores, self._register, self._apart_seconds, self._wait
        )
        try:
            self.report.packs_lost += comparison.run(once=not self._alone)
        finally:
            self.report.packs_found += comparison.found

    def _register(self, pack: tuple[UUID, int, int]) -> bool:
        generation, store_no, size_bytes = pack
        copy = self._stores.copy(generation, store_no)

        try:
            index = read_found_pack(generation, size_bytes, copy.get_range, self._vault)
        except DamagedDataError as err:
            self._unreadable(copy.key, err)
            return False
        self._was_read(copy.key)
        found = FoundPack(
            domain=index.header.domain,
            generation=generation,
            key_id=index.header.key_id,
            size_bytes=size_bytes,
            frames=encode_frame_table(index.frames),
            ids=[item.id for item in index.items],
            places=[item.place for item in index.items],
        )
        return register_found(self._catalog, found)

    def _recount(self) -> None:
        doubtful = self._count(volumes_to_count(self._catalog), replace_damaged=False)
        if doubtful:
            self._wait(self._apart_seconds)
            self._count(doubtful, replace_damaged=True)

    def _count(
        self, volumes: Sequence[VolumeToCount], *, replace_damaged: bool
    ) -> list[VolumeToCount]:
        """Count volumes anew; those of which something is missing."""
        recounter = ReferenceCounter(
            self._catalog, self._vault, FrameReader(self._stores, self._vault)
        )
        doubtful = []
        for volume in volumes:
            damaged = recounter.recount(volume, replace_damaged=replace_damaged)
            if damaged and not replace_damaged:
                doubtful.append(volume)
                continue
            self.report.damaged += damaged
            self.report.volumes += 1
        return doubtful

    def _unreadable(self, key: str, err: Exception) -> None:
        log.error("object cannot be read", extra={"key": key, "detail": str(err)})
        if key not in self.report.unreadable:
            self.report.unreadable.append(key)

    def _was_read(self, key: str) -> None:
        """It was damaged on its way only, if it ever was."""
        with contextlib.suppress(ValueError):
            self.report.unreadable.remove(key)
