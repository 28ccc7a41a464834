"""Attempts of a chunker with the real catalog: what goes wrong ends the session or is done anew."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from libs.catalogdb.sessions.attempts import Taken, take_part
from libs.catalogdb.sessions.session import SessionView, read_session
from libs.errors import UnavailableError
from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureCompleted, ExtentsChanged
from libs.kafka.consumer import Partition
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.store.memory import MemoryStore
from services.chunker.parts.attempts import Attempt, Attempts
from services.chunker.parts.state import AllPublished, BatchArrived, TakeSpan
from services.chunker.sealer import Sealer
from tests.support.catalog import BOOT, TENANT, CatalogSite, Worker, open_on
from tests.support.chunkers import WiredChunker, wire_chunker
from tests.support.snapshots import SnapshotTaker, completed_of, started_of

PARTITION = Partition("backcast.block-changes", 3)
START_OFFSET = 17


class BrokenSealer(Sealer):
    """Has a defect."""

    def seal(self, session: Any) -> Any:
        raise ZeroDivisionError


@dataclass
class Chunker:
    """A chunker that has begun one part."""

    site: CatalogSite
    wired: WiredChunker
    view: SessionView
    attempt: Attempt

    @property
    def attempts(self) -> Attempts:
        return self.wired.attempts

    @property
    def rejection(self) -> str | None:
        return read_session(self.site.chunker, self.view.session).reject_code


@pytest.fixture
def chunker(site: CatalogSite) -> Iterator[Chunker]:
    store, kek = MemoryStore(), KeyEncryptionKey.generate()
    SnapshotTaker(site, store, kek).protect(TENANT, "vm", "vm")
    view, vault = open_on(site, "vm"), KeyVault(store, kek)
    worker, part = Worker(site, view), view.parts[0]
    sealer = BrokenSealer(site.chunker, store, vault)
    wired = wire_chunker(site.chunker, vault, store, sealer=sealer)
    started = started_of(view, part)
    wired.attempts.begin(worker.attempt, view, part, started, PARTITION, START_OFFSET)
    attempt = wired.attempts.find(part.capture)
    assert attempt is not None
    yield Chunker(site, wired, view, attempt)
    wired.attempts.close()


def completed(chunker: Chunker, *batches: bytes) -> CaptureCompleted:
    digest = BatchesDigest()
    for batch in batches:
        digest.add(batch)
    return completed_of(chunker.attempt.started, digest)


def test_a_session_that_cannot_be_sealed_for_a_defect_is_rejected(chunker: Chunker) -> None:
    chunker.attempts.complete(chunker.attempt, completed(chunker))
    chunker.attempts.close()
    assert chunker.rejection == "invariant-violation"


def test_a_part_that_another_took_and_this_one_fails_is_read_again(chunker: Chunker) -> None:
    part = chunker.attempt.part
    taken = take_part(chunker.site.chunker, part.capture, BOOT, "late", 3, START_OFFSET)
    assert isinstance(taken, Taken)
    chunker.attempts.fail(chunker.attempt, "unavailable", "some other error came first")
    assert chunker.rejection is None
    assert chunker.wired.positions.to_read_again() == {PARTITION: START_OFFSET}


def test_a_pack_that_could_not_be_stored_ends_a_part_that_stores_no_more(
    chunker: Chunker,
) -> None:
    chunker.attempt.work.packs.failure = UnavailableError("the store does not answer")
    chunker.wired.renewal.look_after()
    assert chunker.rejection == "unavailable"


def test_a_batch_after_all_were_completed_ends_the_session(chunker: Chunker) -> None:
    assert chunker.attempt.learn(BatchArrived(0, b"value")) == TakeSpan()
    assert chunker.attempt.learn(AllPublished(completed(chunker, b"value"))) is None
    started = chunker.attempt.started
    event = ExtentsChanged(
        session=started.session,
        capture=started.capture,
        volume=started.volume,
        batch=1,
        runs=b"",
        ids=b"",
        zero_runs=b"",
        settled_below=0,
    )
    asyncio.run(chunker.attempts.add_batch(chunker.attempt, event, b"value"))
    assert chunker.rejection == "batches-missing"
