"""What a snapshot by hints costs: the agent's part, on volumes that differ only in their size.

The same chunks change on a sparse volume of 4 GiB and on one of 1 TiB. Nothing of the size of the
volume may be read or written, so both must cost the same.
"""

import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from libs.events.block_changes import ExtentsChanged
from libs.events.codec import encode
from libs.events.registry import Event
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import pack_runs, runs_of
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.window import Window
from services.change_capture.drivers.table import drivers

#: 1 % of 4 GiB.
CHANGED_CHUNKS = (4 << 30) // 100 // CHUNK_SIZE_BYTES
DATA_CHUNKS = (1 << 30) // CHUNK_SIZE_BYTES
SIZES_BYTES = {"4 GiB": 4 << 30, "1 TiB": 1 << 40}


@dataclass(frozen=True)
class Passed:
    """One capture."""

    seconds: float
    read_bytes: int
    written_bytes: int


class _Sink:
    """Takes events, and spans out of the window, as Kafka and a chunker do."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        if isinstance(event, ExtentsChanged):
            buffer = self._window.claim(order.capture, event.batch)
            if buffer is not None:
                self._window.give_back(buffer)
        return encode(event)

    def flush(self, order: CaptureOrder) -> None:
        """There is nothing to wait for."""


def measure_hints(repeat: int, folder: Path) -> dict[str, Passed]:
    """The median capture of each size, in alternating passes.

    Args:
        repeat: captures of each size.
        folder: where the volumes are made; 2 GiB.
    """
    window = Window(4)
    window.preallocate()
    volumes = {name: _volume(folder / name, size) for name, size in SIZES_BYTES.items()}
    passes: dict[str, list[Passed]] = {name: [] for name in volumes}
    for _ in range(repeat + 1):  # the first one warms up
        for name, (path, changed) in volumes.items():
            passes[name].append(_capture(folder, path, changed, window))
    return {name: _median(found[1:]) for name, found in passes.items()}


def _volume(path: Path, size_bytes: int) -> tuple[Path, list[int]]:
    """A sparse volume, and which of its chunks changed: the same number, spread over all of it."""
    rng, count = random.Random(6), size_bytes // CHUNK_SIZE_BYTES
    pool = rng.randbytes(16 << 20)
    data = sorted(rng.sample(range(count), DATA_CHUNKS))
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for number, index in enumerate(data):
            file.seek(index * CHUNK_SIZE_BYTES)
            at = number * CHUNK_SIZE_BYTES % len(pool)
            file.write(pool[at : at + CHUNK_SIZE_BYTES])
    return path, sorted(rng.sample(data, CHANGED_CHUNKS))


def _capture(folder: Path, path: Path, changed: list[int], window: Window) -> Passed:
    state = folder / "state"
    order = CaptureOrder(
        session=uuid4(),
        capture=uuid4(),
        tenant="default",
        group=uuid4(),
        volume=UUID(int=1),
        path=path,
        base=UUID(int=2),
        token=bytes(32),
        id_key=bytes(32),
        driver="hints",
        hints=pack_runs(runs_of(changed)),
    )
    begun = time.perf_counter()
    driver = drivers(state)[order.driver]
    view = driver.view(order.path)
    capture = Capture(order, driver, view, uuid4(), "node", window, _Sink(window), random.Random(6))
    capture.start(2)
    capture.join()
    seconds = time.perf_counter() - begun
    if capture.reason:
        raise capture.reason
    capture.stop()
    capture.settle(sealed=True)
    written = sum(file.stat().st_size for file in state.rglob("*")) if state.exists() else 0
    return Passed(seconds, capture.read_bytes, written)


def _median(passes: list[Passed]) -> Passed:
    return Passed(
        statistics.median(one.seconds for one in passes),
        passes[0].read_bytes,
        max(one.written_bytes for one in passes),
    )
