"""Protected volumes for tests of the catalog's loops: real packs and maps in a folder or bucket."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.points import find_volume_at
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import SECOND, Stores
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.ranges import ByteRange
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders, chunks_of
from libs.store.folder import FolderStore
from libs.store.port import ObjectStore
from services.catalog.copies.mirror import Mirror
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.rewriter import RewritePolicy, Rewriter
from services.catalog.recovery.checkpoints import Checkpoints
from tests.support.catalog import CatalogSite
from tests.support.snapshots import SnapshotTaker

TENANT = "acme"
POLICY = RewritePolicy(
    live_share_max=0.5, again_seconds=3600, deadline_seconds=60, merge_young_seconds=3600
)


def chunk(number: int) -> bytes:
    """A chunk that does not compress, for good sizes; 0 is the zero chunk."""
    if number == 0:
        return bytes(CHUNK_SIZE_BYTES)
    return hashlib.shake_128(number.to_bytes(8, "big")).digest(CHUNK_SIZE_BYTES)


def content(*numbers: int) -> bytes:
    """A volume of these chunks."""
    return b"".join(map(chunk, numbers))


@dataclass
class Protected:
    """A catalog, a store, and what must be restorable from them."""

    site: CatalogSite
    store: ObjectStore
    kek: KeyEncryptionKey = field(default_factory=KeyEncryptionKey.generate)
    #: (volume, sequence) → content of every live snapshot.
    live: dict[tuple[str, int], bytes] = field(default_factory=dict)
    sessions: dict[tuple[str, int], UUID] = field(default_factory=dict)
    #: Owners of volumes that are not `TENANT`'s.
    tenants: dict[str, str] = field(default_factory=dict)
    #: Gets a copy of everything, if there is one.
    second: ObjectStore | None = None

    def __post_init__(self) -> None:
        self.stores = Stores(self.store, self.second)
        self.vault = KeyVault(self.stores.objects, self.kek)
        self.taker = SnapshotTaker(self.site, self.store, self.kek)
        shelf = CheckpointShelf(self.store, self.kek)
        self.checkpoints = Checkpoints(self.site.catalog, self.store, shelf, keep_count=10)

    def protect(self, *volumes: str, tenant: str = TENANT) -> None:
        """Volumes of a tenant, each in a group of its own."""
        for name in volumes:
            self.taker.protect(tenant, name, name)
            self.tenants[name] = tenant

    def tenant_of(self, volume: str) -> str:
        return self.tenants.get(volume, TENANT)

    def take(self, volume: str, *numbers: int, tags: Mapping[int, int] | None = None) -> int:
        """A snapshot of a volume of these chunks; its sequence.

        Args:
            volume: its name.
            numbers: its chunks.
            tags: chunk → domain tag, for those that are announced as another domain's.
        """
        known = {chunk(number): tag for number, tag in (tags or {}).items()}
        view = self.taker.take(
            self.tenant_of(volume),
            volume,
            {volume: content(*numbers)},
            lambda content: known.get(content, 0),
        )
        assert view.sequence is not None
        self.live[volume, view.sequence] = content(*numbers)
        self.sessions[volume, view.sequence] = view.session
        return view.sequence

    def expire(self, volume: str, sequence: int) -> bool:
        """Expire a snapshot; whether it may."""
        session = self.sessions[volume, sequence]
        ended = expire(self.site.catalog, self.tenant_of(volume), session, by="a test")
        if isinstance(ended, Expired):
            del self.live[volume, sequence]
        return isinstance(ended, Expired)

    def rewriter(self, policy: RewritePolicy = POLICY) -> Rewriter:
        return Rewriter(self.site.catalog, self.stores, self.vault, policy)

    def collect(self) -> int:
        """Delete everything that nothing needs; how many packs went."""
        collector = Collector(
            self.site.catalog,
            self.stores,
            self.vault,
            60,
            self.checkpoints.witness,
            self.witnesses(),
        )
        steps = Collection(collector.stages()).steps()
        return sum(step.freed.packs_deleted for step in steps)

    def witnesses(self) -> dict[int, Callable[[], None]]:
        """What lets the second store know what was decided."""
        if self.second is None:
            return {}

        def witness() -> None:
            self.checkpoints.witness()
            self.mirror().copy_checkpoint(SECOND)

        return {SECOND: witness}

    def mirror(self) -> Mirror:
        return Mirror(self.site.catalog, self.stores, self.kek, keep_count=10)

    def check(self) -> None:
        """Every live snapshot is restored byte for byte."""
        frames = FrameReader(self.stores, self.vault)
        readers = VolumeReaders(self.site.restore, self.vault, frames, frames, 60)
        for (volume, sequence), expected in self.live.items():
            tenant = self.tenant_of(volume)
            point = find_volume_at(self.site.restore, tenant, RecoveryPoint(volume, str(sequence)))
            with readers.open(point) as reader:
                wanted = ByteRange(0, len(expected))
                placed = reader.locate(chunks_of(wanted))
                assert reader.read(placed, wanted) == expected, f"{volume}@{sequence} differs"

    def packs(self, state: str = "l") -> list[int]:
        """Numbers of the packs in a state."""
        return [
            row[0]
            for row in self.site.sql(
                "SELECT pack_no FROM pack WHERE state = %s ORDER BY pack_no", state
            )
        ]

    def objects(self, prefix: str) -> list[str]:
        return [stat.key for stat in self.store.list(prefix)]


def in_folder(site: CatalogSite, folder: Path) -> Protected:
    """Protected volumes in a folder store."""
    return Protected(site, FolderStore(folder))
