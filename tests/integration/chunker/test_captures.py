"""Captures of a chunker with the real catalog: what goes wrong ends the session or is done anew."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from libs.catalogdb.sessions.attempts import Taken, take_part
from libs.catalogdb.sessions.session import SessionView, read_session
from libs.errors import UnavailableError
from libs.events.block_changes import CaptureCompleted, ExtentsChanged
from libs.kafka.consumer import Partition
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.store.memory import MemoryStore
from services.chunker.captures import Capture, Captures
from services.chunker.lanes import Lanes
from services.chunker.packer import Packer
from services.chunker.sealer import Sealer
from tests.support.catalog import BOOT, TENANT, CatalogSite, Worker, open_on
from tests.support.snapshots import SnapshotTaker, completed_of, started_of

PARTITION = Partition("backcast.block-changes", 3)
START_OFFSET = 17


class BrokenSealer(Sealer):
    """Has a defect."""

    def seal(self, session: Any) -> Any:
        raise ZeroDivisionError


@dataclass
class Chunker:
    """A chunker that has begun one capture."""

    site: CatalogSite
    captures: Captures
    view: SessionView
    capture: Capture

    @property
    def rejection(self) -> str | None:
        return read_session(self.site.chunker, self.view.session).reject_code


@pytest.fixture
def chunker(site: CatalogSite) -> Iterator[Chunker]:
    store, kek = MemoryStore(), KeyEncryptionKey.generate()
    SnapshotTaker(site, store, kek).protect(TENANT, "vm", "vm")
    view, vault = open_on(site, "vm"), KeyVault(store, kek)
    worker, part = Worker(site, view), view.parts[0]
    captures = Captures(
        site.chunker,
        vault,
        Packer(site.chunker, store, 2),
        FrameReader(store, vault),
        BrokenSealer(site.chunker, store, vault),
        Lanes(ThreadPoolExecutor(2), 2),
        4,
        60,
        128,
    )
    started = started_of(view, part)
    captures.begin(worker.attempt, view, part, started, PARTITION, START_OFFSET)
    capture = captures.find(part.capture)
    assert capture is not None
    yield Chunker(site, captures, view, capture)
    captures.close()


def completed(chunker: Chunker) -> CaptureCompleted:
    return completed_of(chunker.capture.started, chunker.capture.digest)


def test_a_session_that_cannot_be_sealed_for_a_defect_is_rejected(chunker: Chunker) -> None:
    chunker.captures.complete(chunker.capture, completed(chunker))
    chunker.captures.close()
    assert chunker.rejection == "invariant-violation"


def test_a_part_that_another_took_and_this_one_fails_is_read_again(chunker: Chunker) -> None:
    part = chunker.capture.part
    taken = take_part(chunker.site.chunker, part.capture, BOOT, "late", 3, START_OFFSET)
    assert isinstance(taken, Taken)
    chunker.captures.fail(chunker.capture, "unavailable", "some other error came first")
    assert chunker.rejection is None
    assert chunker.captures.taken_away() == {PARTITION: START_OFFSET}


def test_a_pack_that_could_not_be_stored_ends_a_capture_that_stores_no_more(
    chunker: Chunker,
) -> None:
    chunker.capture.work.packs.failure = UnavailableError("the store does not answer")
    chunker.captures._renew_all()
    assert chunker.rejection == "unavailable"


def test_a_batch_after_all_were_completed_ends_the_session(chunker: Chunker) -> None:
    chunker.capture.completed = completed(chunker)
    started = chunker.capture.started
    event = ExtentsChanged(
        session=started.session,
        capture=started.capture,
        volume=started.volume,
        batch=0,
        runs=b"",
        ids=b"",
        zero_runs=b"",
        settled_below=0,
    )
    asyncio.run(chunker.captures.add_batch(chunker.capture, event, b"value"))
    assert chunker.rejection == "batches-missing"
