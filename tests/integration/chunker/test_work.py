"""The work on a capture: what a lane leaves to others is part of the snapshot, or ends it."""

import os
from concurrent.futures import Future

import pytest

from libs.errors import UnavailableError
from libs.keys.kek import KeyEncryptionKey
from libs.packs.layout import CHUNK_SIZE_BYTES, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.store.memory import MemoryStore
from tests.support.catalog import TENANT, CatalogSite
from tests.support.snapshots import Share, SnapshotTaker

FRAMES = 5
CONTENT = os.urandom(FRAMES * FRAME_PLAIN_SIZE_BYTES_MAX)


def taker(site: CatalogSite, share: Share) -> SnapshotTaker:
    made = SnapshotTaker(site, MemoryStore(), KeyEncryptionKey.generate(), share)
    made.protect(TENANT, "vm", "vm")
    return made


def test_frames_that_other_lanes_store_are_all_registered(site: CatalogSite) -> None:
    shared: list[int] = []

    def share(step: object) -> Future[None] | None:
        future: Future[None] = Future()
        shared.append(1)
        if len(shared) % 2:
            return None
        future.set_result(step())  # type: ignore[operator]  # a step
        return future

    taker(site, share).take(TENANT, "vm", {"vm": CONTENT})
    assert len(shared) == FRAMES
    leaf, chunks = 1, len(CONTENT) // CHUNK_SIZE_BYTES
    assert site.sql("SELECT sum(items) FROM pack WHERE state = 'l'") == [(chunks + leaf,)]


class FailingLater(Future[None]):
    """Fails between the first look at it and the second."""

    def done(self) -> bool:
        was_done = super().done()
        if not was_done:
            self.set_exception(UnavailableError("the catalog does not answer"))
        return was_done


def test_a_frame_that_fails_while_it_is_looked_at_is_not_forgotten(site: CatalogSite) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        taker(site, lambda _step: FailingLater()).take(TENANT, "vm", {"vm": CONTENT})


@pytest.mark.parametrize("failing", range(FRAMES))
def test_a_frame_that_another_lane_could_not_store_ends_the_capture(
    site: CatalogSite, failing: int
) -> None:
    shared: list[int] = []

    def share(step: object) -> Future[None]:
        future: Future[None] = Future()
        if len(shared) == failing:
            future.set_exception(UnavailableError("the catalog does not answer"))
        else:
            future.set_result(step())  # type: ignore[operator]  # a step
        shared.append(1)
        return future

    with pytest.raises(UnavailableError, match="does not answer"):
        taker(site, share).take(TENANT, "vm", {"vm": CONTENT})
