"""The services as processes that can die: their real code, wired as their `__main__` does.

An actor is one run of a process. Nothing of it outlives it but what it made durable; whoever
replaces it is a new object.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID, uuid4

from libs.catalogdb.log.log import unpublished_topics
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import PartView
from libs.copies.stores import Stores
from libs.errors import UnavailableError
from libs.events.record import from_record
from libs.events.topics import BLOCK_CHANGES
from libs.kafka.consumer import Partition, ReceivedEvent
from libs.keys.vault import KeyVault
from libs.packs.frame import CompressedFrame
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.packs.pack import FrameItem
from libs.runtime.groups import KafkaSettings
from libs.runtime.signals import Stop
from libs.store.port import ObjectStore
from services.catalog.overdue import end_overdue
from services.catalog.relay import Relay
from services.change_capture.agent import capture as agent_capture
from services.change_capture.agent import captures as agent_captures
from services.change_capture.agent import scanner as agent_scanner
from services.change_capture.agent import window as agent_window
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.routes import status_of
from services.change_capture.agent.window import Window
from services.change_capture.barrier.barrier import Barriers as NodeBarriers
from services.change_capture.coordinator.barriers import Barriers
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.drivers.scan import tracker as scan_tracker
from services.change_capture.drivers.scan.fingerprints import FingerprintWriter, keep_only
from services.change_capture.drivers.table import drivers
from services.change_capture.rpc import CaptureStatus
from services.chunker.packer import AttemptPacks, Packer
from tests.faults.crash_points.direct_agents import DirectAgents
from tests.faults.crash_points.effects import Life, WatchedCatalog, WatchedStore
from tests.faults.crash_points.inline import (
    DirectSpans,
    InlineExecutor,
    TopicPublisher,
    TopicSender,
    VirtualClock,
    one_round,
    run,
)
from tests.support.chunkers import wire_chunker
from tests.support.roots import EVERYTHING

if TYPE_CHECKING:
    from tests.faults.crash_points.world import World

T = TypeVar("T")

#: Nothing here waits for real time: deadlines are moved into the past where they shall strike.
DEADLINE_SECONDS = 3600.0
#: An agent that sleeps is asked again for so long, which takes no time here.
_BARRIER_SECONDS = 2.0
#: A pack with so many items is full, so that a capture of some ten chunks makes several packs.
_ITEMS_PER_PACK = 20
_SPAN_CHUNKS = 16
#: A coordinator looks after sessions every few seconds; the others have a dozen turns meanwhile.
_PATIENCE = 0.8


class Actor:
    """One run of a process.

    Args:
        world: what it lives in.
        name: of its role; successors have the same.
    """

    #: Whether another one takes over while it is paused.
    replaceable = True
    #: A guest that is done leaves; services are never waited for.
    is_done = True

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.life = Life(name)

    def step(self) -> bool:
        """Do the next piece of work; False if there is nothing to do."""
        raise NotImplementedError("each kind of process says what its next piece of work is")

    def successor(self) -> Self:
        """What is started in its place."""
        return type(self)(self.world, self.name)

    def close(self) -> None:
        """Give back what only the test's own process pays for."""

    def catalog(self, catalog: Catalog) -> Catalog:
        return WatchedCatalog(catalog, self.life, self.world.effects)

    def store(self) -> WatchedStore:
        return WatchedStore(self.world.store, self.life, self.world.effects)

    def stores(self) -> Stores:
        second = self.world.second
        if second is None:
            return Stores(self.store())
        return Stores(
            self.store(), WatchedStore(second, self.life, self.world.effects, "a copy of ")
        )

    def vault(self) -> KeyVault:
        return KeyVault(self.store(), self.world.kek)


class ChunkerProcess(Actor):
    """A chunker; its name ends with its number, which says which partitions are its own."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        catalog, store, vault = self.catalog(world.site.chunker), self.store(), self.vault()
        self._chunker = wire_chunker(
            catalog,
            vault,
            store,
            packer=SmallPacks(catalog, store, 2),
            threads=InlineExecutor(),
            deadline_seconds=DEADLINE_SECONDS,
            known_chunk_sample=4,
            name=name,
            dial=self._dial,
        )
        self._chunker.intake.reads = lambda volume: (
            world.partition_of(volume) in world.partitions_of(name)
        )
        self._next: dict[Partition, int] = {}
        self._news = False

    def step(self) -> bool:
        """Take the next record of one of its partitions, or look after its captures."""
        mine = self.world.partitions_of(self.name)
        if not self._next:
            starts = run(self._chunker.intake._starts(frozenset(mine)))
            self._next = {partition: starts.get(partition, 0) for partition in mine}
        waiting = [p for p in mine if self.world.topics.read(p, self._next[p])]
        if not waiting or self.world.rng.random() < 0.2:
            looked, self._news = self._news, False
            if looked:
                self._chunker.positions.note_read(self._next)
                one_round(self._chunker.renewal.look_after)
            return bool(waiting) or looked
        partition = self.world.rng.choice(waiting)
        record = self.world.topics.read(partition, self._next[partition])
        assert record is not None
        envelope, event = from_record(BLOCK_CHANGES, record.headers, record.value)
        received = ReceivedEvent(partition, self._next[partition], envelope, event, record.value)
        run(self._chunker.intake._handle(received))
        self._next[partition] += 1
        self._news = True
        return True

    def _dial(self, part: PartView, boot: UUID) -> DirectSpans:
        return DirectSpans(self.world.agent, part.capture, boot, part.token)


class SmallPacks(Packer):
    """Closes packs early, as 32 MiB of frames would, and uploads them in the caller's thread."""

    def __init__(self, catalog: Catalog, store: ObjectStore, buffer_count_max: int) -> None:
        super().__init__(catalog, Stores(store), buffer_count_max)
        self._uploads = InlineExecutor()

    def store(
        self, owner: AttemptPacks, frame: CompressedFrame, items: Sequence[FrameItem]
    ) -> None:
        super().store(owner, frame, items)
        pack = owner.shared.open_pack
        if pack and len(pack.builder.items) >= _ITEMS_PER_PACK:
            self._close(pack)


class InlineCapture(agent_capture.Capture):
    """A capture that waits to be run, in one thread."""

    def start(self, thread_count: int) -> None:
        self.life: Life | None = None
        self._thread = _NoThread()  # type: ignore[assignment]  # it is only ever joined


class _NoThread:
    def join(self) -> None:
        pass


class WatchedFingerprints(FingerprintWriter):
    """The fingerprint file of a capture; putting it in its place is an effect."""

    #: The agent that captures now: one at a time does.
    agent: "AgentProcess"

    def finish(self) -> None:
        self._agent = self.agent
        finish = super().finish
        self.agent.perform("keep fingerprints", finish)

    def discard(self) -> None:
        if self.agent.life.alive:
            super().discard()
        else:  # what the dead leave behind stays
            self._file.close()


class AgentProcess(Actor):
    """The node's agent. It is never replaced while it lives: its node is the one with the disks."""

    replaceable = False

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.boot = uuid4()
        self.window = Window(span_count_max=64)
        sender = TopicSender(world.topics, world.partition_of, self.life, world.effects)
        known = drivers(world.state_folder, EVERYTHING)
        self.barriers = NodeBarriers(known, EVERYTHING, world.state_folder, 1e9)
        self._captures = agent_captures.AgentCaptures(
            self.boot,
            "node-1",
            known,
            self.barriers,
            self.window,
            sender,
            1,
            1e9,
            random.Random(1),  # the same sample each time, or traces differ
        )
        self._waiting: list[InlineCapture] = []
        world.announce(self.boot)

    def step(self) -> bool:
        """Run a capture that was ordered, from its beginning to its end."""
        if not self._waiting:
            return False
        capture = self._waiting.pop(0)
        WatchedFingerprints.agent = self
        capture._run()
        return True

    def begin(self, order: CaptureOrder) -> CaptureStatus:
        capture = self._captures.begin(order)
        assert isinstance(capture, InlineCapture)
        if capture.life is None:
            capture.life = self.life
            self._waiting.append(capture)
        return status_of(capture)

    def status(self, capture: UUID) -> CaptureStatus:
        return status_of(self._captures.get(capture))

    def settle(self, capture: UUID, *, sealed: bool, distrusted: bool) -> None:
        WatchedFingerprints.agent = self
        self._waiting = [one for one in self._waiting if one.order.capture != capture]
        self._captures.settle(capture, sealed=sealed, distrusted=distrusted)

    def capture(self, capture: UUID) -> agent_capture.Capture | None:
        if not self.life.alive or self.life.asleep:
            raise UnavailableError("agent: does not answer")
        return self._captures.find(capture)

    def perform(self, what: str, act: Callable[[], None]) -> None:
        """Change the state folder."""
        self.world.effects.perform(self.life, what, act, is_request=False)

    def close(self) -> None:
        for capture in self._captures._captures.values():
            capture.view.close()
        self.barriers.close()


def _keep_only(folder: Path, volume: UUID, sessions: set[UUID]) -> None:
    WatchedFingerprints.agent.perform(
        "drop fingerprints", lambda: keep_only(folder, volume, sessions)
    )


def patched_agent() -> dict[tuple[object, str], object]:
    """What must be replaced in the agent's modules: threads, changes of files, and sizes.

    With small spans, a capture of some ten chunks has several batches.
    """
    return {
        (agent_captures, "Capture"): InlineCapture,
        (scan_tracker, "FingerprintWriter"): WatchedFingerprints,
        (scan_tracker, "keep_only"): _keep_only,
        (agent_window, "SPAN_SIZE_BYTES"): _SPAN_CHUNKS * CHUNK_SIZE_BYTES,
        (agent_scanner, "SPAN_SIZE_BYTES"): _SPAN_CHUNKS * CHUNK_SIZE_BYTES,
        (agent_scanner, "PIECE_SIZE_BYTES"): 4 * CHUNK_SIZE_BYTES,
    }


class CoordinatorProcess(Actor):
    """A coordinator."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        catalog, agents = self.catalog(world.site.coordinator), DirectAgents(world)
        clock, inline = VirtualClock(), InlineExecutor()
        barriers = Barriers(
            catalog,
            agents,
            inline,
            _BARRIER_SECONDS,
            _BARRIER_SECONDS,
            DEADLINE_SECONDS,
            clock.now,
            clock.sleep,
        )
        self.conductor = Conductor(
            catalog, self.vault(), agents, barriers, inline, inline, DEADLINE_SECONDS
        )

    def step(self) -> bool:
        """Look after the open sessions once; tell agents what became of the others."""
        if not self.world.is_idle and self.world.rng.random() < _PATIENCE:
            return False
        effects, unsettled = self.world.effects.total, set(self.conductor.unsettled)
        one_round(self.conductor.watch, 0)
        return (effects, unsettled) != (self.world.effects.total, self.conductor.unsettled)


class CatalogProcess(Actor):
    """The catalog service's ending of overdue sessions, and its relay while the world wants it."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self._catalog = self.catalog(world.site.catalog)
        self._relay = Relay(self._catalog, KafkaSettings(bootstrap="in-memory:1"), 3, 0)
        self._publisher = TopicPublisher(world.topics, self.life, world.effects)

    def step(self) -> bool:
        """End what is overdue, or relay a batch."""
        if self.world.is_overdue:
            self.world.is_overdue = False
            one_round(end_overdue, self._catalog, Stop(), lambda: None)
            return True
        return self.world.relaying and self.relay()

    def relay(self) -> bool:
        """Publish a batch of each topic; whether there was anything to publish."""
        before = self.world.effects.total
        for topic, after in unpublished_topics(self._catalog).items():
            run(self._relay._publish_topic(self._publisher, topic, after))  # type: ignore[arg-type]  # the same two methods
        return self.world.effects.total != before
