"""The block map of one attempt: what spans change goes in, and new nodes go to the packer.

Nodes are settled while spans still come. One lane settles at a time, and does what the writer's
steps say: it reads nodes of the base, stores new ones, and has references counted. Meanwhile other
lanes enter what they took. A lane that has something to settle itself waits for its turn, so that
no lane runs ahead of a slow catalog or store and fills the memory with changes.
"""

import threading
from collections.abc import Sequence

from libs.blockmap.node import NodeHasher, NodeId
from libs.blockmap.tagged import OWN_TAG
from libs.blockmap.tree import MapRoot
from libs.blockmap.writer import MapChange, MapWriter, NewNode, NodeWanted, Steps, T
from libs.catalogdb.packs.index import count_by_pack
from libs.catalogdb.sessions.session import PartView
from libs.events.block_changes import CaptureStarted, ExtentsChanged, UnchangedSampled
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.packs.trailer import ItemKind
from libs.ranges import ChunkRun, unpack_runs
from services.chunker.frames import OpenFrame, store_frame
from services.chunker.packer import AttemptPacks
from services.chunker.parts.sample import overlooked
from services.chunker.surroundings import Surroundings

_ID = 32
_OWN_DOMAIN = bytes([OWN_TAG])
#: Departed ids are counted in batches of this size.
_DEPARTED_BATCH = 4096


class PartMap:
    """Thread-safe. Errors are those of the packer and of `libs.reading.nodes.read_node`.

    Args:
        part: the part as the catalog has it.
        started: what the agent said when the capture began.
        packs: the attempt and its keys.
        around: what the chunker works with.
    """

    def __init__(
        self, part: PartView, started: CaptureStarted, packs: AttemptPacks, around: Surroundings
    ) -> None:
        self.size_chunks = -(-started.volume_size_bytes // CHUNK_SIZE_BYTES)
        self._packs = packs
        self._around = around
        self._nodes = OpenFrame()
        self._watermarks = Watermarks()
        self._hasher = NodeHasher(packs.keys.id_key)
        self._base = MapRoot(NodeId(part.base_root), part.base_level) if part.base_root else None
        self._writer = MapWriter(
            self._hasher,
            base=self._base,
            base_size_chunks=-(-part.base_size_bytes // CHUNK_SIZE_BYTES),
            size_chunks=self.size_chunks,
            complete=started.complete,
        )
        #: Guards the writer and the watermarks; nobody waits for a server while holding it.
        self._lock = threading.Lock()
        #: Held by the lane that settles, and taken before the other lock.
        self._settling = threading.Lock()

    def enter(self, event: ExtentsChanged, runs: Sequence[ChunkRun]) -> None:
        """Enter a batch; nodes that no later batch can change are stored."""
        with self._lock:
            at, tags = 0, event.tags or _OWN_DOMAIN * (len(event.ids) // _ID)
            for run in runs:
                end = at + run.count
                self._writer.put(run.first, tags[at:end], event.ids[at * _ID : end * _ID])
                at = end
            for run in unpack_runs(event.zero_runs, self.size_chunks):
                self._writer.clear(run.first, run.count)
            settled = self._watermarks.through(event.batch, event.settled_below)
            if not self._writer.would_settle(settled):
                return
        self._settle()

    def pass_by(self, batch: int) -> None:
        """Note a batch that changes nothing; later ones may have waited for it."""
        with self._lock:
            if not self._writer.would_settle(self._watermarks.through(batch, 0)):
                return
        self._settle()

    def overlooked(self, event: UnchangedSampled) -> list[int]:
        """Sampled chunks that are not as the base has them.

        Raises:
            BadInputError: the event contradicts itself or the volume's size.
        """
        base = self._base or MapRoot(None, 0)
        return overlooked(event, self.size_chunks, base, self._hasher, self._read)

    def finish(self) -> MapRoot:
        """Store the rest of the map; its root. Called once, after every batch was entered."""
        with self._settling:
            root = self._perform(self._writer.finish())
            store_frame(self._around.packer, self._packs, self._nodes)
        return root

    def _count_departed(self) -> None:
        """Have the catalog count ids that left addresses, if there are many."""
        ids = self._packs.ledger.take_departed(_DEPARTED_BATCH)
        if ids:
            counts = count_by_pack(self._around.catalog, self._packs.domains, ids)
            self._packs.ledger.departed(counts)

    def _settle(self) -> None:
        with self._settling:
            with self._lock:
                steps = self._writer.settle_below(self._watermarks.settled_below)
            self._perform(steps)

    def _perform(self, steps: Steps[T]) -> T:
        """Do the steps one after the other; the caller has its turn to settle."""
        sent: bytes | None = None
        while True:
            with self._lock:
                try:
                    step = steps.send(sent)
                except StopIteration as end:
                    value: T = end.value
                    return value
            sent = None
            match step:
                case NodeWanted():
                    sent = self._read(step.node_id)
                case NewNode():
                    self._store(step.node_id, step.encoded)
                case MapChange():
                    # Departed ids are looked up as they come: a volume that shrinks by a tebibyte
                    # has 16 million.
                    self._packs.ledger.settled(step)
                    self._count_departed()

    def _read(self, node_id: NodeId) -> bytes:
        return self._around.nodes.read(self._packs.domain_no, node_id)

    def _store(self, node_id: NodeId, encoded: bytes) -> None:
        """Keep a new map node for packing.

        A node of this attempt is written once: what lies below it is pinned by the same attempt.
        Nodes of others are never looked for (scenario 3).
        """
        if not self._packs.ledger.claim([node_id]):
            return
        self._around.nodes.keep(self._packs.domain_no, node_id, encoded)
        if not self._nodes.has_room(len(encoded)):
            store_frame(self._around.packer, self._packs, self._nodes)
        self._nodes.space(len(encoded))[:] = encoded
        self._nodes.keep(ItemKind.NODE, node_id, len(encoded))


class Watermarks:
    """The watermark that holds once all batches up to some number are through, in any order."""

    def __init__(self) -> None:
        #: The index below which everything is final.
        self.settled_below = 0
        self._next = 0
        self._early: dict[int, int] = {}

    @property
    def early_count(self) -> int:
        """Batches that are through before an earlier one."""
        return len(self._early)

    def through(self, batch: int, settled_below: int) -> int:
        """Note that a batch is through; returns the index below which everything is final."""
        self._early[batch] = settled_below
        while self._next in self._early:
            self.settled_below = max(self.settled_below, self._early.pop(self._next))
            self._next += 1
        return self.settled_below
