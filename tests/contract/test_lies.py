"""A tracker that overlooks one write is found out by the sample, whichever driver it is of.

Hints leave the chunk out, somebody clears QEMU's bitmap, somebody writes past the filter. Of `scan`
and `reflink`, what is planted is a bug of ours: the comparison passes over the chunk.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import blake3

from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.sampling import SAMPLE_COUNT_MIN
from services.change_capture.agent.window import Window
from services.change_capture.drivers.port import (
    Candidate,
    Changes,
    Comparison,
    Driver,
    FrozenView,
    Tracker,
)
from services.change_capture.drivers.reflink.driver import ReflinkDriver
from services.change_capture.drivers.scan.driver import ScanDriver
from tests.support.driver_sites import (
    VOLUME,
    FilterSite,
    HintsSite,
    MemorySite,
    QemuSite,
    ScanSite,
    Site,
)
from tests.support.roots import TENANT
from tests.unit.change_capture.capturing import ID_KEY, TOKEN, Model

#: Of a volume of so many chunks, each increment looks at about every second one.
CHUNKS = 2 * SAMPLE_COUNT_MIN
#: The sample stays blind for so long in one of 10^12 runs.
INCREMENTS_MAX = math.ceil(12 / -math.log10(1 - SAMPLE_COUNT_MIN / CHUNKS))
OVERLOOKED = 21


@dataclass
class LyingComparison:
    """Calls a chunk unchanged."""

    real: Comparison

    def changed(self, first: int, buffer: memoryview) -> Changes | None:
        found = self.real.changed(first, buffer)
        if found is None:
            return None
        data, zeros = ([n for n in one if first + n != OVERLOOKED] for one in found)
        return Changes(data, zeros) if data or zeros else None

    def cleared(self, first: int, count: int) -> list[int]:
        return [index for index in self.real.cleared(first, count) if index != OVERLOOKED]

    def finish(self) -> None:
        self.real.finish()


class LyingTracker:
    """Never names a chunk, as long as it says that it knows what changed."""

    def __init__(self, real: Tracker) -> None:
        self._real = real
        self.trust, self.lost = real.trust, real.lost
        self.finish, self.settle, self.close = real.finish, real.settle, real.close

    def candidates(self) -> Iterator[Candidate]:
        for one in self._real.candidates():
            lies = self.trust == "candidates" and OVERLOOKED << 16 in range(*_ends(one))
            assert not lies or one.extent.end - one.extent.start == 1 << 16
            if not lies:
                yield one

    def compare(self, first: int, count: int) -> Comparison:
        real = self._real.compare(first, count)
        return LyingComparison(real) if self.trust == "exact" else real


def _ends(one: Candidate) -> tuple[int, int]:
    return one.extent.start, one.extent.end


def make_lying(driver: ScanDriver | ReflinkDriver) -> None:
    """Let the trackers of a driver overlook a chunk."""
    honest = driver.tracker
    driver.tracker = lambda order, view: LyingTracker(honest(order, view))  # type: ignore[method-assign]  # the planted bug


def overlook_a_write(site: Site) -> bytes:
    """Write to a chunk, and let the tracker not know; what was written."""
    content = site.rng.randbytes(1 << 16)
    if isinstance(site, FilterSite):
        ScanSite.write_bytes(site, OVERLOOKED << 16, content)
        return content
    if isinstance(site.driver, ScanDriver | ReflinkDriver):
        make_lying(site.driver)
    site.write_bytes(OVERLOOKED << 16, content)
    if isinstance(site, HintsSite):
        site.changed.discard(OVERLOOKED)
    elif isinstance(site, MemorySite):
        site.volume.written.discard(OVERLOOKED)
    elif isinstance(site, QemuSite):
        (name,) = site.daemon.bitmaps()
        site.daemon.do("block-dirty-bitmap-clear", node="disk", name=name)
    return content


class SiteAgent:
    """Captures the volume of a site again and again, as an agent does."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._window = Window(span_count_max=4)
        self._base: UUID | None = None
        self._chunks: dict[int, bytes] = {}

    def capture(self, *, is_trusted: bool = True) -> Model:
        """Capture it; it is the base of the next capture, unless something was overlooked."""
        site, model = self._site, Model(self._window, self._chunks)
        asked = site.order(self._base, is_trusted=is_trusted)
        order = CaptureOrder(
            session=asked.session,
            capture=uuid4(),
            tenant=TENANT,
            group=uuid4(),
            volume=VOLUME,
            path=site.path,
            base=asked.base,
            token=TOKEN,
            id_key=ID_KEY,
            is_trusted=is_trusted,
            hints=asked.hints,
        )
        driver: Driver = site.driver
        view: FrozenView = driver.view(TENANT, site.path)
        rng = random.SystemRandom()
        capture = Capture(order, driver, view, uuid4(), "node", self._window, model, rng)
        capture.start(2)
        capture.join()
        assert capture.state == "complete", capture.reason
        capture.stop()
        sealed = not model.overlooked
        capture.settle(sealed=sealed)
        if sealed:
            site.sealed()
            self._base, self._chunks = order.session, model.chunks
        else:
            driver.forget(VOLUME)
        return model


def test_one_overlooked_write_is_found_within_the_increments_that_the_sample_promises(
    site: Site,
) -> None:
    site.write(0, CHUNKS)
    agent = SiteAgent(site)
    agent.capture()
    site.write(3, 1)
    assert not agent.capture().overlooked
    written = overlook_a_write(site)
    for increment in range(INCREMENTS_MAX):
        site.write(increment % 8, 1)
        found = agent.capture().overlooked
        if found:
            break
    assert found == {OVERLOOKED}, f"not within {INCREMENTS_MAX} increments"
    # Everything is compared once, and the snapshot has what was overlooked.
    whole = agent.capture(is_trusted=False)
    assert whole.completed.read_bytes == CHUNKS << 16
    assert whole.chunks[OVERLOOKED] == blake3.blake3(written, key=ID_KEY).digest()
    assert not agent.capture().overlooked
