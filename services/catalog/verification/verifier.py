"""Verifying a snapshot: is everything that it needs there, and is it what it was?

In this order: manifest → block maps, which pins every pack that they name → those packs, each
once → if damage is known in one of them, the maps of all live snapshots that may contain it →
verdicts.

What is written, and what a crash after it leaves: `libs.catalogdb.verification`.
"""

import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from libs.blockmap.node import NodeId
from libs.blockmap.tree import MapRoot
from libs.catalogdb.packs.damage import WHOLE_PACK, record_damage, withdraw_damage
from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots.leases import close_lease, open_lease
from libs.catalogdb.snapshots.points import SnapshotVolume, read_snapshot
from libs.catalogdb.verification import (
    Damaged,
    Intact,
    PackToCheck,
    expected_items,
    has_damage,
    keep_leases,
    mark_assessed,
    measure_pinned,
    new_damage,
    packs_to_check,
    read_manifest_record,
    record_verdict,
    snapshots_with,
    verified_before,
)
from libs.copies.stores import Stores
from libs.errors import ConflictError, DamagedDataError, NotFoundError
from libs.events.fields import VerificationLevel
from libs.ids import uuid7
from libs.keys.opening import open_manifest_object
from libs.keys.vault import KeyVault
from libs.packs.manifest import Manifest, manifest_mac, parse_manifest_header
from libs.reading.frames import FrameReader
from libs.runtime.retries import tried_again
from libs.runtime.signals import Stop
from services.catalog.verification.copies import CopiesCheck, CopiesFindings
from services.catalog.verification.maps import CleanSubtrees, DamagedExtents, MapWalk

log = logging.getLogger(__name__)
#: Packs that are asked for at a time.
_PACKS_AT_ONCE = 100
#: Frames of map nodes that are remembered, up to 1 MiB each.
_NODE_FRAMES_MAX = 32


@dataclass(frozen=True, slots=True)
class Thoroughness:
    """How much a verification looks at."""

    level: VerificationLevel
    #: Share of frames that level "sampled" reads.
    sample: float = 0.0
    #: Packs that were found intact at this level (sampled counts as structural) so recently are not
    #: looked at again; 0: all are.
    skip_checked_seconds: float = 0.0
    #: Only what the group's last verified snapshot does not share.
    only_new: bool = False


@dataclass(slots=True)
class VerificationProgress:
    """How far a verification is. Read by other threads while it runs."""

    #: Called with every step.
    moved: Callable[[], None] = lambda: None

    #: Chunks of the volumes that were located.
    chunks: int = 0
    packs_done: int = 0
    packs_total: int = 0
    packs_skipped: int = 0
    #: Sizes of the packs that are done, and of all of them.
    pack_bytes_done: int = 0
    pack_bytes_total: int = 0
    frames: int = 0
    fetched_bytes: int = 0
    #: Copies that were damaged while another one was intact, and those of them that were mended.
    copies_damaged: int = 0
    copies_repaired: int = 0

    @property
    def packs_checked(self) -> int:
        """Packs whose objects were looked at."""
        return self.packs_done - self.packs_skipped


class StoppedError(Exception):
    """The process was asked to stop in the middle; nothing was decided."""


@dataclass(slots=True)
class Pace:
    """Holds a verification back to a number of fetched bytes per second; 0: does not."""

    bytes_per_second_max: float
    stop: Stop
    _ahead_until: float = field(default_factory=time.monotonic)

    def spent(self, fetched_bytes: int) -> None:
        """Wait as long as fetching so much may take.

        Raises:
            StoppedError: the process was asked to stop.
        """
        if self.bytes_per_second_max:
            now = time.monotonic()
            seconds = fetched_bytes / self.bytes_per_second_max
            self._ahead_until = max(self._ahead_until, now) + seconds
            self.stop.wait(self._ahead_until - now)
        if self.stop.requested:
            raise StoppedError


class Verifier:
    """Verifies snapshots. Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where packs and manifests lie.
        vault: gives the keys of domains.
        deadline_seconds: a verification that is stuck for so long loses its pins.
        bytes_per_second_max: fetched by one verification; 0: as fast as it goes.
        stop: ends verifications.
    """

    def __init__(  # noqa: PLR0913 -- a verification's surroundings
        self,
        catalog: Catalog,
        stores: Stores,
        vault: KeyVault,
        deadline_seconds: float,
        bytes_per_second_max: float,
        stop: Stop,
    ) -> None:
        self.catalog = catalog
        self.stop = stop
        self._stores = stores
        self._copies = CopiesCheck(catalog, stores, vault)
        self._vault = vault
        self._deadline_seconds = deadline_seconds
        self._bytes_per_second_max = bytes_per_second_max

    def verify(
        self,
        tenant: str,
        session: UUID,
        how: Thoroughness,
        progress: VerificationProgress | None = None,
    ) -> Intact | Damaged:
        """Verify a snapshot and record the verdict, also on others that share what is damaged.

        Raises:
            NotFoundError: the tenant has no such live snapshot.
            WrongKeyError: the keys at hand are not those of its domain.
            UnavailableError: the catalog or the store does not answer.
            StoppedError: the process is stopping.
        """
        progress = progress or VerificationProgress()
        begun = time.monotonic()
        points = read_snapshot(self.catalog, tenant, session)
        manifest = self._check_manifest(points)
        known = (
            verified_before(self.catalog, session, how.skip_checked_seconds) if how.only_new else {}
        )
        with self._leases(points) as leases:
            extents, clean = DamagedExtents(), CleanSubtrees()
            for point in points:
                root, level = known.get(point.volume_no, (None, 0))
                walk = self._walk(point, leases[point.volume_no], clean, extents, progress)
                walk.run(MapRoot(NodeId(root), level) if root else None)
            self._check_packs(list(leases.values()), how, progress)
            damaged = extents.count or has_damage(self.catalog, list(leases.values()))
        if damaged:
            extents = self._extents(points)
        verdict: Intact | Damaged
        if extents.count or manifest:
            verdict = _damaged(extents, how.level, manifest)
        else:
            seconds = time.monotonic() - begun
            verdict = Intact(how.level, progress.packs_checked, progress.fetched_bytes, seconds)
        record_verdict(self.catalog, session, verdict)
        self.assess(but=session)
        return verdict

    def assess(self, but: UUID | None = None) -> None:
        """Find the snapshots that contain newly recorded damage, and record it with them.

        Args:
            but: a snapshot whose verdict is fresh.
        """
        packs = new_damage(self.catalog)
        if not packs:
            return
        clean = CleanSubtrees()
        for tenant, session in snapshots_with(self.catalog, list(packs)):
            if session == but:
                continue
            # It expires meanwhile: nobody needs to know.
            with contextlib.suppress(NotFoundError, ConflictError):
                points = read_snapshot(self.catalog, tenant, session)
                extents = self._extents(points, clean)
                if extents.count:
                    record_verdict(self.catalog, session, _damaged(extents, None, None))
        mark_assessed(self.catalog, packs)

    @tried_again()
    def _get(self, key: str) -> bytes:
        return self._stores.objects.get(key)

    def _check_manifest(self, points: Sequence[SnapshotVolume]) -> str | None:
        """What is wrong with the snapshot's manifest; None: nothing."""
        point = points[0]
        record = read_manifest_record(self.catalog, point.session)
        self._vault.get(point.domain, point.key_id)  # a wrong key-encryption key is no damage
        try:
            body = self._get(record.key)
            sealed_under = parse_manifest_header(body).key_id  # perhaps an earlier data key
            keys = self._vault.get(point.domain, sealed_under)
            manifest = open_manifest_object(record.key, body, keys)
        except (DamagedDataError, NotFoundError) as err:
            return str(err)
        if not hmac.compare_digest(manifest_mac(body), record.mac):
            return f"object {record.key}: is not the manifest that was sealed"
        return _contradiction(manifest, points, record.previous_mac)

    @contextlib.contextmanager
    def _leases(self, points: Sequence[SnapshotVolume]) -> Iterator[dict[int, UUID]]:
        """A lease for each volume while the context lasts."""
        leases = {point.volume_no: uuid7() for point in points}
        try:
            for point in points:
                lease = leases[point.volume_no]
                open_lease(self.catalog, lease, point, self._deadline_seconds, announce=False)
            yield leases
        finally:
            for lease in leases.values():
                close_lease(self.catalog, lease)

    def _walk(
        self,
        point: SnapshotVolume,
        lease: UUID,
        clean: CleanSubtrees,
        extents: DamagedExtents,
        progress: VerificationProgress,
    ) -> MapWalk:
        frames = FrameReader(self._stores, self._vault, _NODE_FRAMES_MAX)
        pace, fetched_bytes = self._pace(), 0

        def looked_at(chunks: int) -> None:
            nonlocal fetched_bytes
            progress.chunks += chunks
            progress.moved()
            step, fetched_bytes = (
                frames.fetched.stored_bytes - fetched_bytes,
                frames.fetched.stored_bytes,
            )
            progress.fetched_bytes += step
            pace.spent(step)

        id_key = self._vault.get(point.domain, point.key_id).id_key
        return MapWalk(
            self.catalog,
            frames,
            id_key,
            point,
            lease,
            self._deadline_seconds,
            clean,
            extents,
            looked_at,
        )

    def _extents(
        self, points: Sequence[SnapshotVolume], clean: CleanSubtrees | None = None
    ) -> DamagedExtents:
        """What of a snapshot is known not to be readable now."""
        extents, clean = DamagedExtents(), clean or CleanSubtrees()
        with self._leases(points) as leases:
            for point in points:
                self._walk(
                    point, leases[point.volume_no], clean, extents, VerificationProgress()
                ).run()
        return extents

    def _check_packs(
        self, leases: Sequence[UUID], how: Thoroughness, progress: VerificationProgress
    ) -> None:
        """Check each pack that the leases have pinned, once, in order of their numbers."""
        progress.packs_total, progress.pack_bytes_total = measure_pinned(self.catalog, leases)
        pace, after = self._pace(), 0
        while batch := packs_to_check(self.catalog, leases, after, _PACKS_AT_ONCE):
            for one in batch:
                keep_leases(self.catalog, leases, self._deadline_seconds)
                if _is_fresh(one, how):
                    progress.packs_skipped += 1
                else:
                    found = self._check_pack(one, how)
                    progress.frames += found.frames
                    progress.fetched_bytes += found.fetched_bytes
                    progress.copies_damaged += found.copies_damaged
                    progress.copies_repaired += found.copies_repaired
                    pace.spent(found.fetched_bytes)
                progress.packs_done += 1
                progress.pack_bytes_done += one.pack.size_bytes
                progress.moved()
            after = batch[-1].pack.pack_no

    def _check_pack(self, one: PackToCheck, how: Thoroughness) -> CopiesFindings:
        found = self._copies.check(one.pack, one.copies, how.level, how.sample)
        number, ids = one.pack.pack_no, [item.id for item in found.items]
        expected = expected_items(self.catalog, one.domain_no, number, ids) if ids else {}
        for item in found.items:
            if expected.get(item.id, item.place) != item.place:
                found.damaged[item.id] = "the catalog expects it at another place of the pack"
        # What was repaired is read elsewhere, and is as damaged here as it was. To record it anew
        # would make whoever is counted in the pack count anew, after each look at the pack.
        for reason in dict.fromkeys(found.damaged.values()):
            items = [
                item
                for item, why in found.damaged.items()
                if why == reason and (item == WHOLE_PACK or item in expected)
            ]
            if items:
                record_damage(self.catalog, number, items, reason)
        if WHOLE_PACK not in found.damaged:
            intact = [id_ for id_ in found.intact if id_ not in found.damaged]
            withdraw_damage(self.catalog, number, [WHOLE_PACK, *intact])
        if not found.damaged:
            self._copies.record_intact(one.pack, found)
        return found

    def _pace(self) -> Pace:
        return Pace(self._bytes_per_second_max, self.stop)


def _is_fresh(one: PackToCheck, how: Thoroughness) -> bool:
    oldest = datetime.now(UTC) - timedelta(seconds=how.skip_checked_seconds)
    checked = [
        copy.checked_in_full_at if how.level == "full" else copy.checked_at for copy in one.copies
    ]
    return bool(checked) and all(
        at is not None and at > oldest and not copy.is_damaged
        for at, copy in zip(checked, one.copies, strict=True)
    )


def _damaged(
    extents: DamagedExtents, level: VerificationLevel | None, manifest: str | None
) -> Damaged:
    return Damaged(level, extents.damaged_bytes, extents.count, tuple(extents.first), manifest)


def _contradiction(
    manifest: Manifest, points: Sequence[SnapshotVolume], previous_mac: bytes | None
) -> str | None:
    """Where a manifest says something else than the catalog; None: nowhere."""
    point = points[0]
    said = (manifest.tenant, manifest.group, manifest.sequence, manifest.session)
    if said != (point.tenant, point.group_id, point.sequence, point.session):
        return f"the manifest is of another snapshot: {manifest.group_name}@{manifest.sequence}"
    if manifest.previous_mac != previous_mac:
        return "the manifest does not continue the group's previous one"
    # The group's list may have grown since.
    if manifest.domains != tuple(point.domains)[: len(manifest.domains)]:
        return "the manifest's domain tags mean other domains than the catalog's"
    volumes = {one.volume: (one.root, one.root_level, one.size_bytes) for one in manifest.volumes}
    if volumes != {one.volume: (one.root, one.root_level, one.size_bytes) for one in points}:
        return "the manifest names other volumes, sizes or map roots than the catalog"
    return None
