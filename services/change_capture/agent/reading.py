"""The reading of a capture: threads that take regions until there are none, or until one failed."""

import logging
import random
from pathlib import Path

from libs.errors import BackcastError, InvariantViolation, SourceError
from libs.packs.chunk import ChunkHasher
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.threads import start_thread
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.publication import Publication
from services.change_capture.agent.regions import Regions, regions_of
from services.change_capture.agent.sampling import (
    Covered,
    Sample,
    Sampler,
    chance_of_its_own,
    read_sample,
)
from services.change_capture.agent.scanner import ScanFigures, Scanner
from services.change_capture.agent.window import Window
from services.change_capture.drivers.port import FrozenView, Tracker

log = logging.getLogger(__name__)

#: Chunks of the sample that are published at once, but for the last: the chunker looks them up
#: while the reading goes on.
_SAMPLE_PUBLISHED_MIN = 16


class Reading:
    """Reads a tracker's candidates once, each changed chunk of which is published.

    Args:
        order: what is captured.
        view: what is read.
        tracker: knows what may have changed.
        window: gives buffers.
        publication: publishes.
        rng: picks the sample of what is believed unchanged.
    """

    def __init__(  # noqa: PLR0913 -- what a capture is made of
        self,
        order: CaptureOrder,
        view: FrozenView,
        tracker: Tracker,
        window: Window,
        publication: Publication,
        rng: random.Random,
    ) -> None:
        self._order = order
        self._view = view
        self._tracker = tracker
        self._window = window
        self._publication = publication
        self._rng = rng
        self._hasher = ChunkHasher(order.id_key)
        self._sample = Sample()
        self._covered = Covered()
        self._figures: list[ScanFigures] = []
        self._failure: BackcastError | None = None

    @property
    def read_bytes(self) -> int:
        """Bytes read so far."""
        return sum(figures.read_bytes for figures in self._figures)

    @property
    def changed_bytes(self) -> int:
        """Bytes of changed chunks found so far."""
        return sum(figures.changed_bytes for figures in self._figures)

    def run(self, thread_count: int) -> None:
        """Read everything and publish it, then the rest of the sample.

        Args:
            thread_count: threads that read, the caller's among them.

        Raises:
            BackcastError: what the first thread that failed raised.
        """
        candidates = self._tracker.candidates()
        if self._tracker.trust == "candidates":
            candidates = self._covered.noting(candidates)
        chunk_count = -(-self._view.size_bytes // CHUNK_SIZE_BYTES)
        regions = Regions(regions_of(candidates, chunk_count))
        threads = [
            start_thread(f"scan-{number}", self._scan, regions, daemon=True)
            for number in range(1, thread_count)
        ]
        self._scan(regions)
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure
        if self._tracker.trust == "candidates":
            for chunk in read_sample(self._view, self._covered, self._hasher, self._rng):
                self._sample.add(chunk)
        self._publication.add_sample(self._sample.take())

    def _scan(self, regions: Regions) -> None:
        """Body of a thread."""
        scanner: Scanner | None = None
        try:
            scanner = Scanner(
                self._view.read_into,
                self._hasher,
                self._sampler(),
                lambda: self._window.take_buffer(self._order.capture),
                lambda span, still_in: self._publication.emit(span, regions, still_in),
            )
            self._figures.append(scanner.figures)
            while not self._failure and (region := regions.take()):
                scanner.scan(region, self._tracker.compare(region.first, region.chunk_count))
                self._publication.add_sample(self._sample.take(_SAMPLE_PUBLISHED_MIN))
            if not self._failure:
                self._publication.emit(scanner.take_span(), regions)
        except Exception as err:  # noqa: BLE001 -- a region that nobody scanned looks unchanged
            self._failure = self._failure or as_error(self._order.path, err)
        finally:
            if scanner and scanner.span.buffer:
                self._window.give_back(scanner.span.buffer)

    def _sampler(self) -> Sampler | None:
        if self._tracker.trust != "exact":
            return None
        rng = chance_of_its_own(self._rng)
        return Sampler(self._sample, self._hasher, self._view.data_bytes_estimate, rng)


def as_error(path: Path, err: Exception) -> BackcastError:
    """What a session hears of an exception in its capture."""
    if isinstance(err, BackcastError):
        return err
    if isinstance(err, OSError):
        return SourceError(f"volume {path}: {err}")
    log.critical("capture failed unexpectedly", exc_info=err)
    return InvariantViolation(f"volume {path}: {type(err).__name__} in the agent; see its log")
