"""Captures without Kafka or chunker: what they publish is checked and applied at once."""

import ctypes
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import blake3

from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
    UnchangedSampled,
)
from libs.events.codec import EVENT_SIZE_BYTES_MAX, encode
from libs.events.registry import Event
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import unpack_runs
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.window import Window
from services.change_capture.drivers.port import Driver
from services.change_capture.drivers.table import drivers
from tests.support.roots import EVERYTHING

ID_KEY = b"i" * 32
TOKEN = b"t" * 32
_PUNCH_KEEPING_SIZE = 0x03


@dataclass
class Volume:
    """A sparse file that tests write to, and the truth about its chunks."""

    path: Path
    rng: random.Random

    def __post_init__(self) -> None:
        self.path.touch()

    def write(self, first: int, count: int) -> None:
        """Random bytes in ``count`` chunks from index ``first``."""
        self.write_bytes(first * CHUNK_SIZE_BYTES, self.rng.randbytes(count * CHUNK_SIZE_BYTES))

    def write_zeros(self, first: int, count: int) -> None:
        """Zeros that take space, which looks like data until it is read."""
        self.write_bytes(first * CHUNK_SIZE_BYTES, bytes(count * CHUNK_SIZE_BYTES))

    def write_bytes(self, offset: int, content: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def punch(self, first: int, count: int) -> None:
        """Make a hole; the size stays."""
        libc = ctypes.CDLL(None, use_errno=True)
        with self.path.open("r+b") as file:
            where = [ctypes.c_long(n * CHUNK_SIZE_BYTES) for n in (first, count)]
            if libc.fallocate(file.fileno(), _PUNCH_KEEPING_SIZE, *where):
                raise OSError(ctypes.get_errno(), "fallocate")

    def resize(self, size_bytes: int) -> None:
        os.truncate(self.path, size_bytes)

    @property
    def chunk_count(self) -> int:
        return -(-self.path.stat().st_size // CHUNK_SIZE_BYTES)

    def chunks(self) -> dict[int, bytes]:
        """Index → id of every chunk that is not zero, found the simple way."""
        found = {}
        with self.path.open("rb") as file:
            for index in range(self.chunk_count):
                chunk = file.read(CHUNK_SIZE_BYTES).ljust(CHUNK_SIZE_BYTES, b"\0")
                if chunk.strip(b"\0"):
                    found[index] = blake3.blake3(chunk, key=ID_KEY).digest()
        return found


@dataclass
class Model:
    """What a consumer of the events believes, and the rules of the protocol that it insists on."""

    window: Window
    base: dict[int, bytes]
    chunks: dict[int, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    settled_below: int = 0
    chunk_count: int = 0
    #: Chunks believed unchanged, and what they are now; those of them that are not as in the base.
    sampled: dict[int, bytes | None] = field(default_factory=dict)
    overlooked: set[int] = field(default_factory=set)
    #: What an event did that no event may do; the capture itself only sees a failed producer.
    violation: AssertionError | None = None
    #: Called before an event is taken; may raise what a broker would.
    fault: Callable[[Event], None] = lambda _: None

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        """Take an event as `EventSender` would, and believe it."""
        self.fault(event)
        value = encode(event)
        assert len(value) <= EVENT_SIZE_BYTES_MAX
        self.events.append(event)
        match event:
            case CaptureStarted():
                self.events, self.settled_below = [event], 0
                self.chunk_count = -(-event.volume_size_bytes // CHUNK_SIZE_BYTES)
                known = {} if event.complete else self.base
                self.chunks = {at: id_ for at, id_ in known.items() if at < self.chunk_count}
            case ExtentsChanged():
                try:
                    self._apply(order, event)
                except AssertionError as violation:
                    self.violation = violation
                    raise
            case UnchangedSampled():
                self._check_sample(event)
        return value

    def flush(self, order: CaptureOrder) -> None:
        """Everything is taken at once."""

    @property
    def batches(self) -> list[ExtentsChanged]:
        return [event for event in self.events if isinstance(event, ExtentsChanged)]

    @property
    def batch_count(self) -> int:
        return sum(isinstance(event, ExtentsChanged | UnchangedSampled) for event in self.events)

    @property
    def completed(self) -> CaptureCompleted:
        last = self.events[-1]
        assert isinstance(last, CaptureCompleted), last
        return last

    @property
    def aborted(self) -> CaptureAborted:
        last = self.events[-1]
        assert isinstance(last, CaptureAborted), last
        return last

    def _apply(self, order: CaptureOrder, event: ExtentsChanged) -> None:
        assert event.batch == self.batch_count - 1
        changed = _indexes(event.runs, self.chunk_count)
        zeros = _indexes(event.zero_runs, self.chunk_count)
        assert not {*changed} & {*zeros}
        assert all(index >= self.settled_below for index in (*changed, *zeros))
        assert event.settled_below >= self.settled_below
        self.settled_below = event.settled_below
        ids = [event.ids[at : at + 32] for at in range(0, len(event.ids), 32)]
        self._take_bytes(order, event.batch, ids)
        self.chunks |= dict(zip(changed, ids, strict=True))
        for index in zeros:
            self.chunks.pop(index, None)

    def _check_sample(self, event: UnchangedSampled) -> None:
        """Compare the sample with the base, as the chunker does."""
        assert event.batch == self.batch_count - 1
        ids = [event.ids[at : at + 32] for at in range(0, len(event.ids), 32)]
        found: dict[int, bytes | None] = dict(
            zip(_indexes(event.runs, self.chunk_count), ids, strict=True)
        )
        found |= dict.fromkeys(_indexes(event.zero_runs, self.chunk_count))
        self.sampled |= found
        self.overlooked |= {at for at, id_ in found.items() if self.base.get(at) != id_}

    def _take_bytes(self, order: CaptureOrder, batch: int, ids: list[bytes]) -> None:
        """Take the span from the window, as the chunker does over a connection."""
        buffer = self.window.claim(order.capture, batch)
        assert (buffer is not None) == bool(ids), "offered before it is published, if it has bytes"
        if buffer is None:
            return
        for number, id_ in enumerate(ids):
            chunk = buffer[number * CHUNK_SIZE_BYTES : (number + 1) * CHUNK_SIZE_BYTES]
            assert blake3.blake3(chunk, key=ID_KEY).digest() == id_
        self.window.give_back(buffer)


def _indexes(column: bytes, chunk_count: int) -> list[int]:
    return [at for run in unpack_runs(column, chunk_count) for at in range(run.first, run.end)]


def order_for(path: Path, volume: UUID, base: UUID | None) -> CaptureOrder:
    """An order for a new session."""
    return CaptureOrder(
        session=uuid4(),
        capture=uuid4(),
        tenant="default",
        group=uuid4(),
        volume=volume,
        path=path,
        base=base,
        token=TOKEN,
        id_key=ID_KEY,
    )


class Agent:
    """Captures one volume again and again; its fingerprints are kept as after sealed sessions."""

    def __init__(self, folder: Path, volume: Volume, thread_count: int = 2) -> None:
        self.volume = volume
        self.window = Window(span_count_max=4)
        self.drivers: dict[str, Driver] = dict(drivers(folder / "state", EVERYTHING))
        self.volume_id = uuid4()
        self.rng = random.Random(1234)
        self._thread_count = thread_count
        self._base: UUID | None = None
        self._chunks: dict[int, bytes] = {}

    def capture(self) -> Model:
        """Capture the volume now; if that goes well, it is the base of the next capture."""
        model = Model(self.window, self._chunks)
        capture = self.start(model)
        capture.join()
        completed = capture.state == "complete"
        capture.stop()
        if model.violation:
            raise model.violation
        capture.settle(sealed=completed)
        if completed:
            self._base, self._chunks = capture.order.session, model.chunks
        return model

    def start(self, model: Model) -> Capture:
        """Begin a capture that reports to ``model``."""
        order = order_for(self.volume.path, self.volume_id, self._base)
        driver = self.drivers[order.driver]
        view = driver.view(order.tenant, order.path)
        capture = Capture(order, driver, view, uuid4(), "node", self.window, model, self.rng)
        capture.start(self._thread_count)
        return capture
