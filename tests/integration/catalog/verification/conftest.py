"""A bucket with snapshots to spoil, and what verifies them: what the tests of this folder share."""

import contextlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.deletion.condemning import condemn_unused
from libs.catalogdb.migrate import migrate
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.points import SnapshotVolume, read_snapshot
from libs.copies.stores import Stores
from libs.events.codec import decode
from libs.events.fields import VerificationLevel
from libs.events.snapshots import SnapshotDamaged, SnapshotVerified
from libs.events.topics import SNAPSHOTS
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange
from libs.reading.frames import FrameReader
from libs.reading.volume import PlacedChunk, VolumeReaders, chunks_of
from libs.runtime.signals import Stop
from libs.store.buckets import make_bucket
from libs.store.layout import pack_object
from libs.store.s3 import S3Store
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.support.buckets import bucket_at
from tests.support.catalog import CatalogSite, create_logins
from tests.support.snapshots import SnapshotTaker

TENANT = "acme"
SEED = 20261122


@dataclass
class VerifySite:
    """Snapshots, the bucket that they lie in, and a verifier."""

    catalog: CatalogSite
    store: S3Store
    kek: KeyEncryptionKey
    taker: SnapshotTaker
    verifier: Verifier
    readers: VolumeReaders

    def take(self, group: str, **contents: bytes) -> uuid.UUID:
        return self.taker.take(TENANT, group, contents).session

    def verify(self, session: uuid.UUID, level: VerificationLevel = "full") -> str:
        """ "intact", or "damaged"."""
        verdict = self.verifier.verify(TENANT, session, Thoroughness(level, sample=1.0))
        return type(verdict).__name__.lower()

    def volume(self, session: uuid.UUID, name: str) -> SnapshotVolume:
        points = read_snapshot(self.catalog.catalog, TENANT, session)
        return next(point for point in points if point.name == name)

    def place(self, session: uuid.UUID, name: str, chunk_index: int) -> PlacedChunk:
        """Where a chunk is stored."""
        point = self.volume(session, name)
        with self.readers.open(point) as volume:
            at = chunk_index * CHUNK_SIZE_BYTES
            (placed,) = volume.locate(chunks_of(ByteRange(at, at + 1)))
        return placed

    def read(self, session: uuid.UUID, name: str) -> bytes:
        """A whole volume."""
        readers = VolumeReaders(
            self.readers.catalog,
            self.readers.vault,
            FrameReader(Stores(self.store), self.readers.vault),
            FrameReader(Stores(self.store), self.readers.vault),
            60,
        )
        point = self.volume(session, name)
        whole = ByteRange(0, point.size_bytes)
        with readers.open(point) as volume:
            return volume.read(volume.locate(chunks_of(whole)), whole)

    def flip(self, key: str, at: int) -> None:
        """Flip one bit of an object."""
        body = bytearray(self.store.get(key))
        body[at] ^= 1
        self.store.put(key, bytes(body))

    def flip_frame_of(self, placed: PlacedChunk) -> None:
        """Flip a bit in the frame that holds a chunk."""
        number = placed.place >> 20
        entry = placed.pack.frames[number * 12 : number * 12 + 4]
        self.flip(pack_object(placed.pack.generation), int.from_bytes(entry, "little") + 100)

    def verdicts(self) -> list[SnapshotVerified | SnapshotDamaged]:
        """Events of verification, in order."""
        rows = self.catalog.sql(
            """SELECT type, version, value FROM event_log WHERE topic = %s
               AND type IN ('backcast.snapshots.snapshot_verified',
                            'backcast.snapshots.snapshot_damaged') ORDER BY position""",
            SNAPSHOTS,
        )
        events = [decode(*row) for row in rows]
        return [one for one in events if isinstance(one, SnapshotVerified | SnapshotDamaged)]

    def damaged(self) -> dict[uuid.UUID, SnapshotDamaged]:
        """The snapshots whose last verdict is that they are damaged."""
        last = {event.session: event for event in self.verdicts()}
        return {s: event for s, event in last.items() if isinstance(event, SnapshotDamaged)}

    def expire_and_collect(self, session: uuid.UUID) -> None:
        """Let a snapshot go, and delete what nothing needs then."""
        assert isinstance(expire(self.catalog.catalog, TENANT, session, "test"), Expired)
        while condemn_unused(self.catalog.catalog, 0, 1000).packs:
            pass
        for (generation,) in self.catalog.sql("SELECT generation FROM pack WHERE state = 'c'"):
            self.store.delete(pack_object(generation))


@pytest.fixture(scope="session")
def lasting_catalog(servers: LocalCluster) -> Iterator[CatalogSite]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        dsn = servers.postgres.dsn.rpartition("/")[0] + f"/{name}"
        migrate(dsn)
        create_logins(dsn)
        with contextlib.closing(CatalogSite(dsn)) as catalog:
            yield catalog
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def site(servers: LocalCluster, lasting_catalog: CatalogSite) -> VerifySite:
    lasting_catalog.empty()
    bucket = bucket_at(servers.s3, f"test-{uuid.uuid4().hex}")
    make_bucket(bucket)
    store, kek = S3Store(bucket), KeyEncryptionKey.generate()
    vault = KeyVault(store, kek)
    frames = FrameReader(Stores(store), vault)
    return VerifySite(
        lasting_catalog,
        store,
        kek,
        SnapshotTaker(lasting_catalog, store, kek),
        Verifier(lasting_catalog.catalog, Stores(store), vault, 60, 0, Stop()),
        VolumeReaders(lasting_catalog.restore, vault, frames, frames, 60),
    )


def random_chunks(seed: int, count: int) -> bytes:
    """Chunks that occur nowhere else."""
    return random.Random(f"{SEED} {seed}").randbytes(count * CHUNK_SIZE_BYTES)
