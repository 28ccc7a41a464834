"""A driver whose volumes are in memory, and that knows by itself which chunks were written.

It works as a driver with a bitmap does: opening a tracker, or the cut of a gate, takes the written
chunks of the moment; they count again unless the session was sealed. It can be told to overlook
chunks. Its gates hold writes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

from libs.errors import SourceError
from libs.events.fields import HoldMeans
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ByteRange, runs_of
from services.change_capture.drivers.everything import AllChanged, EverythingTracker
from services.change_capture.drivers.port import (
    Candidate,
    Comparison,
    Driver,
    FrozenView,
    Gate,
    GateOrder,
    SourceOrder,
    Tracker,
    TrackingLost,
    Trust,
)


@dataclass
class MemoryVolume:
    """A volume that somebody writes to."""

    content: bytearray = field(default_factory=bytearray)
    identity: str = field(default_factory=lambda: f"memory:{uuid4()}")
    #: Chunks that were written since the last tracker was opened, or the last cut.
    written: set[int] = field(default_factory=set)
    #: Writes that wait, while a gate holds them.
    waiting: list[tuple[int, bytes]] | None = None
    #: Chunks of which it does not notice that they are written.
    overlooks: set[int] = field(default_factory=set)

    def write(self, offset: int, content: bytes) -> None:
        if self.waiting is not None:
            self.waiting.append((offset, content))
            return
        self.content[offset : offset + len(content)] = content
        last = (offset + len(content) - 1) // CHUNK_SIZE_BYTES
        self.written |= {*range(offset // CHUNK_SIZE_BYTES, last + 1)} - self.overlooks

    def resize(self, size_bytes: int) -> None:
        """Cutting and adding zeros is writing."""
        before = len(self.content)
        del self.content[size_bytes:]
        self.content += bytes(max(0, size_bytes - before))
        first = min(before, size_bytes) // CHUNK_SIZE_BYTES
        self.written |= {*range(first, -(-max(before, size_bytes) // CHUNK_SIZE_BYTES))}


class MemoryView:
    """A copy of the volume when it was opened."""

    def __init__(self, volume: MemoryVolume) -> None:
        self.volume = volume
        self._content = bytes(volume.content)
        self.size_bytes = self.data_bytes_estimate = len(self._content)
        self.identity = volume.identity
        #: What the cut took of the written chunks; None: there was no cut.
        self.taken: set[int] | None = None

    def take_written(self) -> set[int]:
        """The chunks that were written before this view began."""
        if self.taken is None:
            self.cut()
        taken, self.taken = self.taken or set(), set()
        return taken

    def cut(self) -> None:
        """Take the written chunks of the moment."""
        self.taken, self.volume.written = self.volume.written, set()

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        end = -(-self.size_bytes // CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES
        if start < end:
            yield ByteRange(start, end)

    def read_into(self, start: int, buffer: memoryview) -> None:
        found = self._content[start : start + len(buffer)]
        buffer[:] = found + bytes(len(buffer) - len(found))

    def consistency(self) -> Literal["frozen"]:
        return "frozen"

    def close(self) -> None:
        """What no tracker has taken counts again."""
        if self.taken:
            self.volume.written |= self.taken
            self.taken = set()


class MemoryGate:
    """Keeps writes back until the release."""

    means: HoldMeans = "fsfreeze"

    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume

    def hold(self, seconds: float) -> None:
        self._volume.waiting = []

    def cut(self) -> FrozenView:
        view = MemoryView(self._volume)
        view.cut()
        return view

    def release(self, *, unbroken: bool) -> bool:
        held = self._volume.waiting is not None
        self.close()
        return unbroken and held

    def close(self) -> None:
        waiting, self._volume.waiting = self._volume.waiting or [], None
        for offset, content in waiting:
            self._volume.write(offset, content)


@dataclass
class _Known:
    """What is known of a volume: who is the base, and what was written since."""

    base: UUID
    identity: str
    since: set[int]


class MemoryDriver:
    """Volumes by their paths."""

    def __init__(self) -> None:
        self.volumes: dict[Path, MemoryVolume] = {}
        self.known: dict[UUID, _Known] = {}

    def view(self, tenant: str, path: Path) -> FrozenView:
        if path not in self.volumes:
            raise SourceError(f"volume {path}: there is none")
        return MemoryView(self.volumes[path])

    def gate(self, order: GateOrder) -> Gate:
        if order.path not in self.volumes:
            raise SourceError(f"volume {order.path}: there is none")
        return MemoryGate(self.volumes[order.path])

    def require_tracking(self, view: FrozenView) -> None:
        pass

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        assert isinstance(view, MemoryView)
        written = view.take_written()
        known = self.known.get(order.volume)
        if known:
            known.since |= written
        lost = _lost(order, view, known)
        if order.base is None or lost or known is None:
            return _First(self, order, view, lost)
        return _Bitmap(self, order, view, {*known.since})

    def forget(self, volume: UUID) -> None:
        self.known.pop(volume, None)


def _lost(order: SourceOrder, view: FrozenView, known: _Known | None) -> TrackingLost | None:
    if order.base is None:
        return None
    if known is None:
        return TrackingLost("unknown", "nothing is known of this volume")
    if not order.is_trusted:
        return TrackingLost("distrusted", "what was tracked is not true")
    if known.base != order.base:
        return TrackingLost("wrong-base", f"tracked since {known.base}")
    if known.identity != view.identity:
        return TrackingLost("another-device", f"tracked on {known.identity}")
    return None


class _First(EverythingTracker):
    """Begins to track."""

    def __init__(
        self, driver: MemoryDriver, order: SourceOrder, view: FrozenView, lost: TrackingLost | None
    ) -> None:
        super().__init__(view, lost)
        self._driver, self._order = driver, order

    def settle(self, *, sealed: bool) -> None:
        _settle(self._driver, self._order, self._view, set(), sealed=sealed)


class _Bitmap:
    """Names the chunks that were written since the base."""

    trust: Trust = "candidates"
    lost: TrackingLost | None = None

    def __init__(
        self, driver: MemoryDriver, order: SourceOrder, view: FrozenView, since: set[int]
    ) -> None:
        self._driver, self._order, self._view, self._since = driver, order, view, since

    def candidates(self) -> Iterator[Candidate]:
        count = -(-self._view.size_bytes // CHUNK_SIZE_BYTES)
        for run in runs_of(sorted(index for index in self._since if index < count)):
            yield Candidate(ByteRange(run.first * CHUNK_SIZE_BYTES, run.end * CHUNK_SIZE_BYTES))

    def compare(self, first: int, count: int) -> Comparison:
        return AllChanged(tells_zeros=True)

    def finish(self) -> None:
        pass

    def settle(self, *, sealed: bool) -> None:
        _settle(self._driver, self._order, self._view, self._since, sealed=sealed)

    def close(self) -> None:
        pass


def _settle(
    driver: MemoryDriver, order: SourceOrder, view: FrozenView, seen: set[int], *, sealed: bool
) -> None:
    known = driver.known.get(order.volume)
    if sealed and (known is None or known.base != order.session):
        since = known.since - seen if known and seen else set()
        driver.known[order.volume] = _Known(order.session, view.identity, since)


_: type[Driver] = MemoryDriver
__: type[Gate] = MemoryGate
