"""One capture by a driver as the agent makes it, without threads and without events."""

from collections.abc import Callable
from uuid import UUID

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.agent.regions import regions_of
from services.change_capture.drivers.port import Candidate, Comparison, FrozenView, Tracker
from tests.support.driver_sites import Site
from tests.support.roots import TENANT

#: Index → bytes of each chunk that is not zeros.
Chunks = dict[int, bytes]


class Taken:
    """What one capture finds, and what it ends with."""

    def __init__(
        self,
        site: Site,
        base: "Taken | None",
        *,
        named: UUID | None = None,
        is_trusted: bool = True,
        finishes: bool = True,
        view: FrozenView | None = None,
    ) -> None:
        order = site.order(named or (base.session if base else None), is_trusted=is_trusted)
        self._site = site
        self.session: UUID = order.session
        self.view = view or site.driver.view(TENANT, site.path)
        self.tracker: Tracker = site.driver.tracker(order, self.view)
        self.trust, self.lost = self.tracker.trust, self.tracker.lost
        self.candidates: list[Candidate] = []
        self.named = set[int]()
        self.truth = chunks_of(self.view)
        known = base.chunks if base and self.trust != "everything" else {}
        self.chunks: Chunks = {n: was for n, was in known.items() if n < count_of(self.view)}
        self._look_at_all()
        if finishes:
            self.tracker.finish()
        self.tracker.close()
        self.consistency = self.view.consistency()
        self.view.close()

    def settle(self, *, sealed: bool) -> "Taken":
        self.tracker.settle(sealed=sealed)
        if sealed:
            self._site.sealed()
        return self

    def _look_at_all(self) -> None:
        for candidate in self.tracker.candidates():
            self.candidates.append(candidate)
        for region in regions_of(self.candidates, count_of(self.view)):
            comparison = self.tracker.compare(region.first, region.chunk_count)
            for extent, is_hole in region.candidates:
                for at in range(extent.start, extent.end, CHUNK_SIZE_BYTES):
                    self._look_at(comparison, at // CHUNK_SIZE_BYTES, is_hole)
            comparison.finish()

    def _look_at(self, comparison: Comparison, index: int, is_hole: bool) -> None:
        if is_hole:
            zeros, data = comparison.cleared(index, 1), list[int]()
        else:
            buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
            self.view.read_into(index * CHUNK_SIZE_BYTES, buffer)
            changes = comparison.changed(index, buffer)
            zeros = [index + n for n in changes.zeros] if changes else []
            data = [index + n for n in changes.data] if changes else []
            self.chunks |= {n: bytes(buffer) for n in data}
        for n in zeros:
            self.chunks.pop(n, None)
        self.named |= {*zeros, *data}


def count_of(view: FrozenView) -> int:
    return -(-view.size_bytes // CHUNK_SIZE_BYTES)


def chunks_of(view: FrozenView) -> Chunks:
    """All chunks, found the simple way."""
    found: Chunks = {}
    for index in range(count_of(view)):
        buffer = memoryview(bytearray(CHUNK_SIZE_BYTES))
        view.read_into(index * CHUNK_SIZE_BYTES, buffer)
        if any(buffer):
            found[index] = bytes(buffer)
    return found


def settle_by_the_next_order(
    site: Site, restart: Callable[[], None], kept: Callable[[], set[UUID]]
) -> None:
    """The agent dies before it hears how a session ended: the next order's base tells it.

    Args:
        site: of a driver that keeps something of each session until that is settled.
        restart: begins another agent process.
        kept: the sessions of which it keeps something.
    """
    site.write(0, 4)
    first = Taken(site, None).settle(sealed=True)
    site.write(1, 1)
    second = Taken(site, first)
    assert kept() == {first.session, second.session}
    restart()
    assert kept() == {first.session, second.session}
    site.write(2, 1)
    third = Taken(site, second)
    assert (third.named, third.trust) == ({2}, "candidates")
    assert kept() == {second.session, third.session}
