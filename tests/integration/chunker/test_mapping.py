"""The block map of an attempt: who waits for the store holds up nobody who enters what he took."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace

from libs.blockmap.tree import span_chunks
from libs.catalogdb.packs.location import PackLocation
from libs.copies.stores import Stores
from libs.events.block_changes import CaptureStarted, ExtentsChanged
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun, pack_runs
from libs.reading.frames import FrameReader, Tally
from libs.store.memory import MemoryStore
from services.chunker.ledger import Ledger
from services.chunker.packer import AttemptPacks, Packer
from services.chunker.parts.dialling import dial_plainly
from services.chunker.parts.mapping import PartMap
from services.chunker.parts.nodes import KnownNodes
from services.chunker.surroundings import Surroundings
from tests.support.catalog import TENANT, CatalogSite, Worker, open_on
from tests.support.snapshots import SnapshotTaker, started_of

LEAF = span_chunks(0)
SIZE_CHUNKS = LEAF + 8
SECONDS_MAX = 30


class SlowFrames(FrameReader):
    """A store that answers when it is told to."""

    def __init__(self, store: MemoryStore, vault: KeyVault) -> None:
        super().__init__(Stores(store), vault)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def item(self, pack: PackLocation, place: int, tally: Tally | None = None) -> bytes:
        self.reached.set()
        assert self.go_on.wait(SECONDS_MAX)
        return super().item(pack, place, tally)


def batch(started: CaptureStarted, number: int, chunk: int, settled_below: int) -> ExtentsChanged:
    """One changed chunk."""
    return ExtentsChanged(
        session=started.session,
        capture=started.capture,
        volume=started.volume,
        batch=number,
        runs=pack_runs([ChunkRun(chunk, 1)]),
        ids=os.urandom(32),
        zero_runs=b"",
        settled_below=settled_below,
    )


def in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(SECONDS_MAX)
    return not thread.is_alive()


def test_a_lane_enters_its_span_while_another_waits_for_a_node_of_the_base(
    site: CatalogSite,
) -> None:
    store, kek = MemoryStore(), KeyEncryptionKey.generate()
    taker = SnapshotTaker(site, store, kek)
    taker.protect(TENANT, "vm", "vm")
    taker.take(TENANT, "vm", {"vm": os.urandom(CHUNK_SIZE_BYTES) + bytes(LEAF * CHUNK_SIZE_BYTES)})
    view, vault = open_on(site, "vm"), KeyVault(store, kek)
    worker, part = Worker(site, view), view.parts[0]
    keys = vault.get(view.domain, view.key_id)
    packs = AttemptPacks(worker.attempt, view.session, view.tenant, view.domain_no, keys, Ledger())
    packer, frames = Packer(site.chunker, Stores(store), 1), SlowFrames(store, vault)
    around = Surroundings(
        dial=dial_plainly,
        catalog=site.chunker,
        vault=vault,
        packer=packer,
        nodes=KnownNodes(site.chunker, frames),
        known_chunk_sample=128,
        share=lambda _step: None,
    )
    started = replace(started_of(view, part, SIZE_CHUNKS * CHUNK_SIZE_BYTES), complete=False)
    entered = PartMap(part, started, packs, around)

    first = batch(started, 0, 5, LEAF)
    settling = in_thread(lambda: entered.enter(first, [ChunkRun(5, 1)]))
    assert frames.reached.wait(SECONDS_MAX)
    second = batch(started, 1, LEAF + 2, LEAF)
    assert ended(in_thread(lambda: entered.enter(second, [ChunkRun(LEAF + 2, 1)])))
    assert settling.is_alive()
    frames.go_on.set()
    assert ended(settling)
    root = entered.finish()
    assert root.level == 1
    assert root.node_id not in (None, part.base_root)
    packer.finish(packs)
    packer.close()
