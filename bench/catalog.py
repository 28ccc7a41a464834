"""What the catalog costs per stored chunk, filled through its own transactions.

The ids are random, as hashes are, so the B-tree grows as it does in earnest; the packs have no
objects. PostgreSQL is started fresh and thrown away.
"""

import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from deploy.local.home import BackcastHome
from deploy.local.servers.postgres import PostgresServer
from libs.catalogdb.migrate import create_login, migrate
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.packs.index import lookup_and_pin
from libs.catalogdb.packs.registering import PackRecord, Registered, begin_pack, register
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node, Tenant, add_volume, create_tenant
from libs.catalogdb.sessions.attempts import Stale, Taken, take_part
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.ids import new_generation, uuid7

#: A pack of 32 MiB holds so many chunks that compress twofold, in frames of 1 MiB.
CHUNKS_PER_PACK, CHUNKS_PER_FRAME = 1024, 16
#: What the catalog keeps of each frame: offset, stored and plain length.
_FRAME_ENTRY_SIZE_BYTES = 12
_ID_SIZE_BYTES = 32
_LOOKUP_IDS, _LOOKUPS = 1000, 50
#: Ids remembered to be looked up later; a few of each pack, so that they lie all over the index.
_KNOWN_PER_PACK = 8
_DEADLINE_SECONDS = 7 * 24 * 3600.0
_LOGIN, _PASSWORD = "bench_chunker", "bench"


@dataclass(frozen=True)
class CatalogCost:
    """What `chunks` stored chunks cost."""

    chunks: int
    #: The chunk index alone (table and B-tree), and all that the database grew by.
    index_bytes_per_chunk: float
    catalog_bytes_per_chunk: float
    #: By one connection: registering since the last figures, and looking up ids half of them known.
    registered_per_second: float
    looked_up_per_second: float


def measure_catalog(counts: Sequence[int], folder: Path) -> Iterator[CatalogCost]:
    """Fills a catalog chunk by chunk and yields its cost whenever it holds one of `counts` chunks.

    Args:
        counts: numbers of chunks; rounded up to whole packs.
        folder: an empty folder for the database; the caller deletes it.
    """
    with fresh_postgres(folder) as server:
        create_login(server.dsn, "chunker", _LOGIN, _PASSWORD)
        owner, chunker = Catalog(server.dsn), Catalog(server.dsn_of(_LOGIN, _PASSWORD))
        owner.open()
        chunker.open()
        try:
            with psycopg.connect(server.dsn, autocommit=True) as observer:
                yield from _fill(chunker, _Attempt(owner, chunker), sorted(counts), observer)
        finally:
            owner.close()
            chunker.close()


@contextlib.contextmanager
def fresh_postgres(folder: Path) -> Iterator[PostgresServer]:
    """PostgreSQL with an empty catalog in an empty folder, which the caller deletes."""
    server = PostgresServer(BackcastHome(folder, tied=True))
    server.prepare(_tell)
    server.spawn()
    try:
        server.wait_ready()
        migrate(server.dsn)
        yield server
    finally:
        server.stop()


class _Attempt:
    """An open attempt at the first snapshot of a volume: who registers the packs."""

    def __init__(self, owner: Catalog, chunker: Catalog) -> None:
        boot = uuid4()
        self.tenant: Tenant = create_tenant(owner, "bench", uuid7(), uuid4())
        announce_node(owner, Node("bench", "http://127.0.0.1:1", "127.0.0.1:1", boot))
        add_volume(owner, "bench", "vm", "vm", "bench", "/dev/null")
        opened = open_session(owner, "bench", "vm", uuid7(), _DEADLINE_SECONDS)
        assert isinstance(opened, SessionView)
        taken = take_part(chunker, opened.parts[0].capture, boot, "bench", 0, 0)
        assert isinstance(taken, Taken)
        self.session: UUID = opened.session
        self.attempt: UUID = taken.attempt


def _fill(
    chunker: Catalog, who: _Attempt, counts: Sequence[int], observer: psycopg.Connection
) -> Iterator[CatalogCost]:
    table = f"chunk_{who.tenant.domain_no}"
    empty = _bytes(observer, "SELECT pg_database_size(current_database())")
    rng = random.Random(5)
    chunks, known = 0, list[bytes]()
    for count in counts:
        before, start = chunks, time.perf_counter()
        while chunks < count:
            ids = [rng.randbytes(_ID_SIZE_BYTES) for _ in range(CHUNKS_PER_PACK)]
            _store_pack(chunker, who, ids)
            chunks += len(ids)
            known += ids[:_KNOWN_PER_PACK]
        registered = (chunks - before) / max(time.perf_counter() - start, 1e-9)
        observer.execute("CHECKPOINT")
        index = _bytes(observer, "SELECT pg_total_relation_size(%s::regclass)", table)
        grown = _bytes(observer, "SELECT pg_database_size(current_database())") - empty
        looked_up = _lookups_per_second(chunker, who, known, rng)
        yield CatalogCost(chunks, index / chunks, grown / chunks, registered, looked_up)


def _store_pack(chunker: Catalog, who: _Attempt, ids: Sequence[bytes]) -> None:
    tenant = who.tenant
    generation = new_generation()
    pack_no = begin_pack(chunker, who.attempt, tenant.domain_no, tenant.key_id, generation)
    assert not isinstance(pack_no, Stale)
    frames = os.urandom(len(ids) // CHUNKS_PER_FRAME * _FRAME_ENTRY_SIZE_BYTES)
    record = PackRecord(pack_no, generation, 32 << 20, frames)
    places = [
        number // CHUNKS_PER_FRAME << 20 | number % CHUNKS_PER_FRAME << 16
        for number in range(len(ids))
    ]
    registered = register(
        chunker,
        who.attempt,
        domain_no=tenant.domain_no,
        tenant=tenant.name,
        session=who.session,
        pack=record,
        ids=ids,
        places=places,
        chunk_count=len(ids),
    )
    assert isinstance(registered, Registered)
    assert not registered.winners, "random ids are all new"


def _lookups_per_second(
    chunker: Catalog, who: _Attempt, known: Sequence[bytes], rng: random.Random
) -> float:
    half = _LOOKUP_IDS // 2
    start = time.perf_counter()
    for _ in range(_LOOKUPS):
        unknown = [rng.randbytes(_ID_SIZE_BYTES) for _ in range(half)]
        lookup_and_pin(
            chunker,
            [who.tenant.domain_no],
            who.attempt,
            [*rng.choices(known, k=half), *unknown],
            set(),
        )
    return _LOOKUPS * _LOOKUP_IDS / (time.perf_counter() - start)


def _bytes(observer: psycopg.Connection, query: str, *arguments: str) -> int:
    row = observer.execute(query.encode(), arguments).fetchone()
    assert row is not None
    return int(row[0])


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
