"""A harness that plays a history of snapshots of one volume against a dictionary as the oracle."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from libs.blockmap.node import NodeHasher, NodeId
from libs.blockmap.tree import MapReader, MapRoot, level_for
from libs.blockmap.writer import MapChange, MapWriter, NewNode, NodeWanted, Steps
from libs.ranges import ChunkRun, runs_of

HASHER = NodeHasher(b"i" * 32)
Entry = tuple[int, bytes]
T = TypeVar("T")


def run_steps(
    steps: Steps[T], fetch: Callable[[NodeId], bytes], done: list[NewNode | MapChange]
) -> T:
    """Do what the writer says; new nodes and changes are appended to ``done``."""
    sent: bytes | None = None
    while True:
        try:
            step = steps.send(sent)
        except StopIteration as end:
            value: T = end.value
            return value
        sent = fetch(step.node_id) if isinstance(step, NodeWanted) else None
        if not isinstance(step, NodeWanted):
            done.append(step)


@dataclass(frozen=True)
class Put:
    first: int
    count: int
    seed: int

    def entries(self) -> dict[int, Entry]:
        # Few distinct chunks, so that equal leaves and unchanged chunks happen.
        ids = [bytes([self.seed, at % 3]) * 16 for at in range(self.count)]
        return {self.first + at: (self.seed % 2, chunk_id) for at, chunk_id in enumerate(ids)}


@dataclass(frozen=True)
class Clear:
    first: int
    count: int


@dataclass(frozen=True)
class Snapshot:
    size_chunks: int
    complete: bool
    changes: tuple[Put | Clear, ...]
    #: Tell the writer after each change what it may settle; changes then come in ascending order.
    settle: bool


@dataclass
class History:
    """Plays snapshots; raises AssertionError where the map and the oracle part."""

    writer_class: type[MapWriter] = MapWriter
    nodes: dict[NodeId, bytes] = field(default_factory=dict)
    root: MapRoot | None = None
    size_chunks: int = 0
    chunks: dict[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = MapReader(HASHER, self.nodes.__getitem__)

    def play(self, snapshot: Snapshot) -> list[NodeId]:
        """Write one snapshot, check everything about it, return the ids of the nodes emitted."""
        done: list[NewNode | MapChange] = []
        writer = self.writer_class(
            HASHER,
            base=self.root,
            base_size_chunks=self.size_chunks,
            size_chunks=snapshot.size_chunks,
            complete=snapshot.complete,
        )
        root = self._write(writer, snapshot, done)
        emitted = [step for step in done if isinstance(step, NewNode)]
        reported = [step for step in done if isinstance(step, MapChange)]
        before, before_root = self.chunks, self.root or MapRoot(None, 0)
        self.chunks = self._expected(snapshot)
        for node_id, encoded in emitted:
            assert HASHER.node_id(encoded) == node_id
            self.nodes[node_id] = encoded
        assert root.level == level_for(snapshot.size_chunks)
        assert self.read(root, snapshot.size_chunks) == self.chunks
        self._check_diff(before, before_root, root)
        self._check_reported(before, before_root, root, reported)
        old_places = dict(self.places(before_root))
        for place, node_id in self.places(root):
            shared = old_places.get(place) == node_id
            assert shared or node_id in dict(emitted), "a node is neither shared in place nor new"
        self.root, self.size_chunks = root, snapshot.size_chunks
        return [node_id for node_id, _ in emitted]

    def read(self, root: MapRoot, size_chunks: int) -> dict[int, Entry]:
        found = {}
        for run in self.reader.lookup(root, ChunkRun(0, max(1, size_chunks))):
            for at in range(run.chunk_count):
                found[run.first + at] = (run.tags[at], run.ids[at * 32 : at * 32 + 32])
        return found

    def places(self, subtree: MapRoot, no: int = 0) -> list[tuple[tuple[int, int], NodeId]]:
        if subtree.node_id is None:
            return []
        found = [((subtree.level, no), subtree.node_id)]
        if subtree.level:
            for slot, child in self.reader.children(subtree, subtree.level).items():
                found += self.places(child, no * 512 + slot)
        return found

    def _write(
        self, writer: MapWriter, snapshot: Snapshot, done: list[NewNode | MapChange]
    ) -> MapRoot:
        for change in snapshot.changes:
            if snapshot.settle:
                run_steps(writer.settle_below(change.first), self.nodes.__getitem__, done)
            apply(writer, change)
        return run_steps(writer.finish(), self.nodes.__getitem__, done)

    def _expected(self, snapshot: Snapshot) -> dict[int, Entry]:
        chunks = {} if snapshot.complete else dict(self.chunks)
        for change in snapshot.changes:
            if isinstance(change, Clear):
                end = change.first + change.count
                chunks = {at: e for at, e in chunks.items() if not change.first <= at < end}
            else:
                chunks |= change.entries()
        return {at: entry for at, entry in chunks.items() if at < snapshot.size_chunks}

    def _check_diff(self, before: dict[int, Entry], old: MapRoot, new: MapRoot) -> None:
        indexes = before.keys() | self.chunks.keys()
        differing = sorted(at for at in indexes if before.get(at) != self.chunks.get(at))
        assert list(self.reader.diff(old, new)) == list(runs_of(differing))
        assert list(self.reader.diff(new, old)) == list(runs_of(differing))

    def _check_reported(
        self, before: dict[int, Entry], old: MapRoot, new: MapRoot, reported: list[MapChange]
    ) -> None:
        left: Counter[Entry] = Counter()
        entered: Counter[Entry] = Counter()
        nodes = Counter(node_id for _, node_id in self.places(old))
        for change in reported:
            left.update(columns(change.left_tags, change.left_ids))
            entered.update(columns(change.entered_tags, change.entered_ids))
            nodes.subtract([change.left_node] if change.left_node else [])
            nodes.update([change.entered_node] if change.entered_node else [])
        now = self.chunks
        assert left == Counter(e for at, e in before.items() if now.get(at) != e)
        assert entered == Counter(e for at, e in now.items() if before.get(at) != e)
        assert nodes == Counter(node_id for _, node_id in self.places(new))


def apply(writer: MapWriter, change: Put | Clear) -> None:
    if isinstance(change, Clear):
        writer.clear(change.first, change.count)
    else:
        entries = change.entries().values()
        tags = bytes(tag for tag, _ in entries)
        writer.put(change.first, tags, b"".join(chunk_id for _, chunk_id in entries))


def columns(tags: bytes, ids: bytes) -> list[Entry]:
    return [(tag, ids[at * 32 : at * 32 + 32]) for at, tag in enumerate(tags)]
