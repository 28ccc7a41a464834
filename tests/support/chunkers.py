"""A chunker without its process: wired as in `services.chunker.__main__`, on what a test gives."""

import random
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from libs.catalogdb.pool import Catalog
from libs.copies.stores import Stores
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.store.port import ObjectStore
from services.chunker.intake import Intake
from services.chunker.lanes import Lanes
from services.chunker.packer import Packer
from services.chunker.parts.attempts import Attempts
from services.chunker.parts.dialling import dial_plainly
from services.chunker.parts.fetching import Dial
from services.chunker.parts.nodes import KnownNodes
from services.chunker.parts.positions import Positions
from services.chunker.parts.renewing import Renewal
from services.chunker.sealer import Sealer
from services.chunker.surroundings import Surroundings


@dataclass(frozen=True)
class WiredChunker:
    attempts: Attempts
    positions: Positions
    renewal: Renewal
    intake: Intake


def wire_chunker(
    catalog: Catalog,
    vault: KeyVault,
    store: ObjectStore,
    *,
    packer: Packer | None = None,
    sealer: Sealer | None = None,
    threads: Executor | None = None,
    lane_count: int = 2,
    deadline_seconds: float = 60.0,
    known_chunk_sample: int = 128,
    name: str = "chunker",
    dial: Dial = dial_plainly,
    chance: Callable[[], float] = random.random,
) -> WiredChunker:
    """Everything but Kafka and the threads that wait for it; the test closes the attempts."""
    lanes = Lanes(threads or ThreadPoolExecutor(lane_count), lane_count)
    around = Surroundings(
        catalog=catalog,
        vault=vault,
        packer=packer or Packer(catalog, Stores(store), 2),
        nodes=KnownNodes(catalog, FrameReader(Stores(store), vault)),
        known_chunk_sample=known_chunk_sample,
        share=lanes.submit_if_idle,
        dial=dial,
        chance=chance,
    )
    positions = Positions()
    attempts = Attempts(
        around,
        sealer or Sealer(catalog, store, vault),
        lanes,
        positions,
        span_queue_length_max=100,
    )
    return WiredChunker(
        attempts,
        positions,
        Renewal(catalog, attempts, positions, deadline_seconds),
        Intake(catalog, attempts, positions, name, CollectorRegistry()),
    )
