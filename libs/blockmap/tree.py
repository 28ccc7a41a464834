"""Reading block maps: looking up chunks, and comparing two snapshots in O(difference)."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from libs.blockmap.node import FAN_OUT, LEVEL_MAX, MapRun, Node, NodeHasher, NodeId, decode_node
from libs.errors import BadInputError, DamagedDataError
from libs.ranges import ChunkRun


class MapRoot(NamedTuple):
    """The root of a block map or of a subtree of one."""

    #: None: every chunk is zero.
    node_id: NodeId | None
    level: int


def span_chunks(level: int) -> int:
    """Number of chunks that a node of this level covers; 1 for level -1, a chunk."""
    return int(FAN_OUT ** (level + 1))


def level_for(size_chunks: int) -> int:
    """Level of the root of a map of this many chunks: the lowest that covers them.

    Raises:
        BadInputError: negative, or more than 512^6 chunks.
    """
    if not 0 <= size_chunks <= span_chunks(LEVEL_MAX):
        raise BadInputError(
            f"volume of {size_chunks} chunks: a block map holds at most {span_chunks(LEVEL_MAX)}"
        )
    level = 0
    while span_chunks(level) < size_chunks:
        level += 1
    return level


def verified_node(hasher: NodeHasher, node_id: NodeId, level: int, encoded: bytes) -> Node:
    """Decode the bytes of a node that must have this id and be of this level.

    Raises:
        DamagedDataError: the bytes are not that node's.
    """
    if hasher.node_id(encoded) != node_id:
        raise DamagedDataError(
            f"map node {node_id.hex()}: its {len(encoded)} bytes have another id: they are "
            f"damaged, were altered, or belong to another domain"
        )
    node = decode_node(encoded)
    if node.level != level:
        raise DamagedDataError(
            f"map node {node_id.hex()}: expected level {level}, got {node.level}"
        )
    return node


def subtrees_of(node: Node) -> dict[int, MapRoot]:
    """The subtrees below a node of level ≥ 1, by slot."""
    return {slot: MapRoot(NodeId(entry), node.level - 1) for slot, entry in node.entries().items()}


class MapReader:
    """Reads block maps of one domain. Thread-safe if ``fetch`` is.

    Args:
        hasher: names the domain's nodes; every node is checked against its id.
        fetch: gives the bytes of a node; called once per node and use, so it may want to cache.
    """

    def __init__(self, hasher: NodeHasher, fetch: Callable[[NodeId], bytes]) -> None:
        self._hasher = hasher
        self._fetch = fetch

    def node(self, node_id: NodeId, level: int) -> Node:
        """Fetch, verify and decode a node that must be of this level.

        Raises:
            DamagedDataError: the bytes are not that node's.
        """
        return verified_node(self._hasher, node_id, level, self._fetch(node_id))

    def children(self, subtree: MapRoot, level: int) -> dict[int, MapRoot]:
        """The subtrees below a subtree seen as a node of ``level`` ≥ 1, by slot.

        A map that is lower than ``level`` (it has grown since) is the first child of a node that
        only exists in thought.
        """
        if subtree.node_id is None:
            return {}
        if subtree.level < level:
            return {0: subtree}
        return subtrees_of(self.node(subtree.node_id, level))

    def lookup(self, root: MapRoot, wanted: ChunkRun) -> Iterator[MapRun]:
        """The chunks of ``wanted`` that are not zero, as ascending runs; what is missing is zero.

        Reads the nodes on the way to ``wanted`` only, one when it is needed.
        """
        return self._lookup(root, 0, wanted.first, wanted.end)

    def diff(self, old: MapRoot, new: MapRoot, first: int = 0) -> Iterator[ChunkRun]:
        """Where two maps differ from chunk ``first`` on, as ascending runs.

        Reads only nodes that differ and reach beyond ``first``.
        """
        runs = self._diff(old, new, max(old.level, new.level), 0, first)
        return _joined(
            ChunkRun(max(run.first, first), run.end - max(run.first, first))
            for run in runs
            if run.end > first
        )

    def _lookup(self, subtree: MapRoot, start: int, first: int, end: int) -> Iterator[MapRun]:
        if subtree.node_id is None:
            return
        if subtree.level == 0:
            for run in self.node(subtree.node_id, 0).runs(start):
                skip = max(0, first - run.first)
                upto = min(run.chunk_count, end - run.first)
                if skip < upto:
                    yield MapRun(
                        run.first + skip, run.tags[skip:upto], run.ids[skip * 32 : upto * 32]
                    )
            return
        span = span_chunks(subtree.level - 1)
        for slot, child in self.children(subtree, subtree.level).items():
            at = start + slot * span
            if at < end and first < at + span:
                yield from self._lookup(child, at, first, end)

    def _diff(
        self, old: MapRoot, new: MapRoot, level: int, start: int, first: int
    ) -> Iterator[ChunkRun]:
        if old.node_id == new.node_id or start + span_chunks(level) <= first:
            return
        if old.node_id is None or new.node_id is None:
            subtree = new if old.node_id is None else old
            for run in self._lookup(subtree, start, first, start + span_chunks(level)):
                yield ChunkRun(run.first, run.chunk_count)
            return
        if level == 0:
            before = self.node(old.node_id, 0).entries()
            after = self.node(new.node_id, 0).entries()
            for slot in sorted(before.keys() | after.keys()):
                if before.get(slot) != after.get(slot):
                    yield ChunkRun(start + slot, 1)
            return
        olds, news = self.children(old, level), self.children(new, level)
        nothing = MapRoot(None, level - 1)
        for slot in sorted(olds.keys() | news.keys()):
            at = start + slot * span_chunks(level - 1)
            was, now = olds.get(slot, nothing), news.get(slot, nothing)
            yield from self._diff(was, now, level - 1, at, first)


def _joined(runs: Iterable[ChunkRun]) -> Iterator[ChunkRun]:
    before: ChunkRun | None = None
    for run in runs:
        if before is not None and before.end == run.first:
            before = ChunkRun(before.first, before.count + run.count)
            continue
        if before is not None:
            yield before
        before = run
    if before is not None:
        yield before
