"""What expiry, collection and a sweep cost in a catalog of many chunks and snapshots.

Ten volumes take snapshots in turn. Each snapshot stores packs of new random ids and gives up those
that the volume's last but one had stored, so a pack serves two snapshots. Everything goes through
the services' own transactions and the collector runs in a process of its own. The objects are real
packs with real trailers, whose chunks are a byte each: nobody reads the chunks. They are written to
a folder without waiting for the disk; the collector reads and deletes them through `FolderStore`.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from bench.catalog import CHUNKS_PER_FRAME, CHUNKS_PER_PACK, fresh_postgres
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.packs.registering import PackRecord, Registered, begin_pack, register
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node, add_volume, create_tenant
from libs.catalogdb.sessions.attempts import (
    CaptureBegun,
    FinishedPart,
    PackUse,
    PartProgress,
    Stale,
    Taken,
    finish_parts,
    take_part,
)
from libs.catalogdb.sessions.sealing import Sealed, seal
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.ids import new_generation, uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys
from libs.keys.vault import KeyVault
from libs.packs.frame import compress
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import ItemKind
from libs.store.folder import FolderStore
from libs.store.layout import pack_object

_TENANT = "bench"
_VOLUME_COUNT = 10
_BOOT = uuid4()
_DEADLINE_SECONDS = 24 * 3600.0
#: Packs that one snapshot still needs after the one that stored them.
_KEPT_FOR = 2


@dataclass(frozen=True)
class ExpiryCost:
    """What expiring one snapshot cost: medians of some."""

    chunks: int
    snapshots: int
    milliseconds: float
    #: Rows of `pack_use` touched, and packs that lost their last one.
    rows: float
    packs: float


@dataclass(frozen=True)
class CollectionCost:
    """What a whole run gave."""

    chunks: int
    snapshots: int
    expiries: list[ExpiryCost]
    expired_snapshots: int
    expired_seconds: float
    #: As the collecting process tells it: packs deleted, seconds, peak memory; and of a sweep.
    collected_packs: int
    collected_seconds: float
    collector_rss_bytes: int
    swept_objects: int
    swept_seconds: float


def measure_collection(chunks: int, snapshots: int, folder: Path) -> CollectionCost:
    """Fill a catalog, expire half of its snapshots, and collect.

    Args:
        chunks: unique chunks; rounded to whole packs of each snapshot.
        snapshots: snapshots of ten volumes together.
        folder: an empty folder; the caller deletes it.
    """
    packs = max(1, round(chunks / CHUNKS_PER_PACK / snapshots))
    store_folder = folder / "store"
    store_folder.mkdir(parents=True)
    with fresh_postgres(folder / "home") as server:
        catalog = Catalog(server.dsn)
        catalog.open()
        try:
            protected = _Protected(catalog, store_folder)
            expiries = []
            for part in (snapshots // 10, snapshots):
                while protected.snapshot_count < part:
                    protected.take(packs)
                expiries.append(protected.expire_some(packs))
            start, expired = time.perf_counter(), 0
            while len(protected.live) > snapshots // 2:
                protected.expire_oldest()
                expired += 1
            expired_seconds = time.perf_counter() - start
            told = _collect(server.dsn, store_folder, protected.kek, folder)
        finally:
            catalog.close()
    return CollectionCost(
        chunks=snapshots * packs * CHUNKS_PER_PACK,
        snapshots=snapshots,
        expiries=expiries,
        expired_snapshots=expired,
        expired_seconds=expired_seconds,
        **told,
    )


def _collect(dsn: str, store: Path, kek: KeyEncryptionKey, folder: Path) -> dict[str, int]:
    told = folder / "told.json"
    command = [sys.executable, "-m", "bench.collection_subject", dsn, str(store), str(told)]
    subprocess.run(command, check=True, input=kek.text().encode())
    result: dict[str, int] = json.loads(told.read_text())
    return result


class _Protected:
    """Volumes, their live snapshots from the oldest on, and the packs that each has stored."""

    def __init__(self, catalog: Catalog, store: Path) -> None:
        self.kek = KeyEncryptionKey.generate()
        self.live: deque[tuple[UUID, str]] = deque()
        self.snapshot_count = 0
        self._catalog = catalog
        self._store = store
        self._rng = random.Random(5)
        self._buffer = bytearray(PACK_SIZE_BYTES_MAX)
        self._keys = DomainKeys.generate(uuid7())
        KeyVault(FolderStore(store), self.kek).put(self._keys)
        self._domain_no = create_tenant(
            catalog, _TENANT, self._keys.domain, self._keys.key_id
        ).domain_no
        announce_node(catalog, Node("bench", "http://127.0.0.1:1", "127.0.0.1:1", _BOOT))
        self._stored: dict[str, deque[list[int]]] = {}
        for number in range(_VOLUME_COUNT):
            name = f"vm-{number}"
            add_volume(catalog, _TENANT, name, name, "bench", "/dev/null")
            self._stored[name] = deque()

    def take(self, packs: int) -> None:
        """A snapshot of the next volume."""
        name = f"vm-{self.snapshot_count % _VOLUME_COUNT}"
        view = open_session(self._catalog, _TENANT, name, uuid7(), _DEADLINE_SECONDS)
        assert isinstance(view, SessionView)
        taken = take_part(self._catalog, view.parts[0].capture, _BOOT, "bench", 0, 0)
        assert isinstance(taken, Taken)
        stored = self._stored[name]
        stored.append([self._store_pack(view, taken.attempt) for _ in range(packs)])
        use = {pack_no: PackUse(entered=CHUNKS_PER_PACK) for pack_no in stored[-1]}
        if len(stored) > _KEPT_FOR:
            use |= {pack_no: PackUse(departed=CHUNKS_PER_PACK) for pack_no in stored.popleft()}
        part = FinishedPart(
            taken.attempt, CaptureBegun(_BOOT, 0, 0), None, 0, PartProgress(), "frozen", use
        )
        finish_parts(self._catalog, [part])
        key = f"manifests/bench/{view.session}"
        sealed = seal(self._catalog, view.session, key, b"mac", [view.domain])
        assert isinstance(sealed, Sealed), sealed
        self.live.append((view.session, name))
        self.snapshot_count += 1

    def expire_oldest(self) -> Expired:
        """Expire the oldest snapshot."""
        session, _ = self.live.popleft()
        expired = expire(self._catalog, _TENANT, session, by="bench")
        assert isinstance(expired, Expired), expired
        return expired

    def expire_some(self, packs: int) -> ExpiryCost:
        """Expire one of each volume, then measure another one of each."""
        snapshots = self.snapshot_count
        for _ in range(_VOLUME_COUNT):
            self.expire_oldest()
        milliseconds, expired = [], list[Expired]()
        for _ in range(_VOLUME_COUNT):
            start = time.perf_counter()
            expired.append(self.expire_oldest())
            milliseconds.append(1000 * (time.perf_counter() - start))
        return ExpiryCost(
            chunks=snapshots * packs * CHUNKS_PER_PACK,
            snapshots=snapshots,
            milliseconds=statistics.median(milliseconds),
            rows=statistics.median(one.rows for one in expired),
            packs=statistics.median(one.packs for one in expired),
        )

    def _store_pack(self, view: SessionView, attempt: UUID) -> int:
        generation = new_generation()
        pack_no = begin_pack(self._catalog, attempt, self._domain_no, self._keys.key_id, generation)
        assert not isinstance(pack_no, Stale)
        builder = PackBuilder(
            generation,
            self._keys.domain,
            self._keys.key_id,
            self._keys.pack_key(generation),
            self._buffer,
        )
        ids = [self._rng.randbytes(32) for _ in range(CHUNKS_PER_PACK)]
        for first in range(0, len(ids), CHUNKS_PER_FRAME):
            _add_frame(builder, ids[first : first + CHUNKS_PER_FRAME])
        builder.close()
        body = builder.finish()
        path = self._store / pack_object(generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        registered = register(
            self._catalog,
            attempt,
            domain_no=self._domain_no,
            tenant=_TENANT,
            session=view.session,
            pack=PackRecord(pack_no, generation, len(body), builder.frame_table()),
            ids=ids,
            places=[item.place for item in builder.items],
            chunk_count=len(ids),
        )
        assert isinstance(registered, Registered)
        assert not registered.winners, "random ids are all new"
        return pack_no


def _add_frame(builder: PackBuilder, ids: Sequence[bytes]) -> None:
    frame = compress(os.urandom(len(ids)))
    items = [FrameItem(ItemKind.CHUNK, id_, at, 1) for at, id_ in enumerate(ids)]
    slot = builder.reserve(frame, items)
    assert slot is not None
    builder.fill(slot, frame)
