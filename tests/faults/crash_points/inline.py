"""What lets code that was written for threads, sockets and Kafka run in one thread, in order."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from libs.errors import BackcastError, SourceError, UnavailableError
from libs.events.codec import encode
from libs.events.envelope import Envelope
from libs.events.mac import event_mac
from libs.events.record import EventRecord, to_record
from libs.events.registry import REGISTRY, Event
from libs.ids import uuid7
from libs.kafka.consumer import Partition
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun
from libs.spans.connection import SpanConnection
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.window import Window
from tests.faults.crash_points.effects import Effects, Life

T = TypeVar("T")
_loops = threading.local()


class InlineExecutor(ThreadPoolExecutor):
    """Runs what is submitted at once, in the caller's thread; a death ends the caller too."""

    def __init__(self, *_: object) -> None:  # no threads
        pass

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as err:  # noqa: BLE001 -- it belongs to who waits for the future
            future.set_exception(err)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; `asyncio.to_thread` inside it runs inline."""
    if not hasattr(_loops, "loop"):
        _loops.loop = asyncio.new_event_loop()
        _loops.loop.set_default_executor(InlineExecutor())
    result: T = _loops.loop.run_until_complete(coroutine)
    return result


def close_loop() -> None:
    """Close this thread's event loop, if it has one."""
    if hasattr(_loops, "loop"):
        _loops.loop.close()
        del _loops.loop


class VirtualClock:
    """Nobody waits: a sleep is over at once, and the clock says that it took its time."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds, monotonic."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


def one_round(loop_round: Callable[..., object], *arguments: object) -> None:
    """A round of a service's loop; an expected error puts it off, as the loop does."""
    with contextlib.suppress(BackcastError):
        loop_round(*arguments)


class Topics:
    """Kafka in memory: every partition is a list of records, and loses none."""

    def __init__(self) -> None:
        self._records: defaultdict[Partition, list[EventRecord]] = defaultdict(list)

    def copy(self) -> "Topics":
        """The same records; what is appended to one is not in the other."""
        other = Topics()
        for partition, records in self._records.items():
            other._records[partition] = list(records)
        return other

    def append(self, partition: Partition, record: EventRecord) -> None:
        """Durable when it returns."""
        self._records[partition].append(record)

    def redeliver(self, topic: str) -> None:
        """Append everything that a topic has once more."""
        for partition, records in self._records.items():
            if partition.topic == topic:
                records += list(records)

    def read(self, partition: Partition, offset: int) -> EventRecord | None:
        """The record at an offset, or None beyond the end."""
        records = self._records[partition]
        return records[offset] if offset < len(records) else None

    def all_of(self, topic: str) -> list[EventRecord]:
        """The records of a topic with one partition."""
        return self._records[Partition(topic, 0)]


class TopicSender:
    """`Sender` of an agent: publishes at once, authenticated with each capture's token."""

    def __init__(
        self,
        topics: Topics,
        partition_of: Callable[[UUID], Partition],
        life: Life,
        effects: Effects,
    ) -> None:
        self._topics = topics
        self._partition_of = partition_of
        self._life = life
        self._effects = effects

    def send(self, order: CaptureOrder, event: Event) -> bytes:
        value = encode(event)
        record = self._record(order, event, value)
        partition = self._partition_of(order.volume)
        self._effects.perform(
            self._life,
            f"publish {type(event).__name__}",
            lambda: self._topics.append(partition, record),
            is_request=False,
        )
        return value

    def flush(self, order: CaptureOrder) -> None:
        """`send` has waited already."""

    def _record(self, order: CaptureOrder, event: Event, value: bytes) -> EventRecord:
        name, version = REGISTRY.wire_of(type(event))
        attributes: dict[str, Any] = {
            "event_id": uuid7(),
            "type": name,
            "version": version,
            "source": "agent/node-1",
            "subject": str(order.volume),
            "tenant": order.tenant,
            "occurred_at": datetime.now(UTC),
            "correlation_id": order.session,
        }
        mac = event_mac(order.token, Envelope(**attributes), value)
        return to_record(Envelope(**attributes, mac=mac), value)


class TopicPublisher:
    """`Publisher` of the relay."""

    def __init__(self, topics: Topics, life: Life, effects: Effects) -> None:
        self._topics = topics
        self._life = life
        self._effects = effects

    async def publish(self, record: EventRecord) -> None:
        self._effects.perform(
            self._life,
            f"publish to {record.topic}",
            lambda: self._topics.append(Partition(record.topic, 0), record),
            is_request=False,
        )

    async def flush(self) -> None:
        """`publish` has waited already."""


class Serving(Protocol):
    """An agent as its span server sees it."""

    boot: UUID
    window: Window

    def capture(self, capture: UUID) -> Capture | None:
        """The capture, or None; raises UnavailableError when the agent does not answer."""
        ...


class DirectSpans(SpanConnection):
    """A span connection without the socket: answers as the agent's span server does."""

    def __init__(self, agent: Serving, capture: UUID, boot: UUID, token: bytes) -> None:
        self._agent = agent
        self._queue = b""
        self._open = True
        found = agent.capture(capture)
        if found is None or found.order.token != token or agent.boot != boot:
            raise SourceError(f"capture {capture}: refused; take the snapshot again")
        self._capture = found

    @property
    def is_usable(self) -> bool:
        return self._open

    def want(self, batch: int, wanted: Sequence[bool], chunk_size_bytes: int) -> bool:
        self._ask()
        buffer = self._agent.window.claim(self._capture.order.capture, batch)
        if buffer is None:
            return not any(wanted)
        view = memoryview(buffer)
        self._queue = b"".join(
            view[at * CHUNK_SIZE_BYTES : (at + 1) * CHUNK_SIZE_BYTES]
            for at, want in enumerate(wanted)
            if want
        )
        view.release()
        self._agent.window.give_back(buffer)
        return True

    def reread(self, runs: Sequence[ChunkRun], chunk_size_bytes: int) -> None:
        self._ask()
        content = bytearray(sum(run.count for run in runs) * CHUNK_SIZE_BYTES)
        view, fill = memoryview(content), 0
        for run in runs:
            length = run.count * CHUNK_SIZE_BYTES
            self._capture.view.read_into(run.first * CHUNK_SIZE_BYTES, view[fill : fill + length])
            fill += length
        self._queue = bytes(content)

    def receive_into(self, buffer: memoryview) -> None:
        if not buffer:
            return
        buffer[:], self._queue = self._queue[: len(buffer)], self._queue[len(buffer) :]

    def close(self) -> None:
        self._open = False

    def _ask(self) -> None:
        if not self._open or self._agent.capture(self._capture.order.capture) is None:
            raise UnavailableError("agent: connection closed")
