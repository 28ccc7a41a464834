"""Writing the block map of a new snapshot, given its base's map and what changed since.

Changes come in any order at or above a watermark. Below the watermark nodes are final: they are
encoded, handed to the caller, and forgotten but for their ids, so memory is bounded by what lies
between the watermark and the highest change, plus 32 bytes for each settled node whose parent is
not settled.

The writer calls nobody. Settling is a sequence of steps: each says what the caller is to do (read a
node of the base, store a new node, count a change), and the caller does it outside of whatever lock
guards the writer.

A node is shared only with the base's node at the same spot: that one is pinned with the base.
Finding equal bytes anywhere else would say nothing about what lies below (protocol scenario 3), so
every other node is emitted, and a node that occurs at two spots of one map is emitted twice.
"""

from collections.abc import Generator
from typing import NamedTuple, TypeVar

from libs.blockmap.node import (
    FAN_OUT,
    ID_SIZE_BYTES,
    Node,
    NodeHasher,
    NodeId,
    encode_node,
    split_entries,
)
from libs.blockmap.tree import MapRoot, level_for, span_chunks, subtrees_of, verified_node
from libs.errors import BadInputError

T = TypeVar("T")

_ALL_SLOTS = (1 << FAN_OUT) - 1


class NodeWanted(NamedTuple):
    """The bytes of this node of the base are needed: send them, and the steps go on."""

    node_id: NodeId


class NewNode(NamedTuple):
    """A node that the base has not at this spot; to be stored. Children come before parents."""

    node_id: NodeId
    encoded: bytes


class MapChange(NamedTuple):
    """What one changed spot of the tree let go and took in; references are counted from it.

    Chunks are counted per address: a chunk id that left two addresses is named twice.
    """

    #: The base's node at this spot, if the new map does not have it there.
    left_node: NodeId | None
    #: The new node at this spot; None: nothing is there any more.
    entered_node: NodeId | None
    #: Domain tags (1 byte each) and ids (32 bytes each) of chunks that the base had; empty above
    #: leaves.
    left_tags: bytes = b""
    left_ids: bytes = b""
    #: The same for chunks that the new map has instead.
    entered_tags: bytes = b""
    entered_ids: bytes = b""


#: What a caller does, one after the other, and what it learns at the end.
Steps = Generator[NodeWanted | NewNode | MapChange, bytes | None, T]


class MapWriter:
    """Builds one map. Not thread-safe: the caller serialises calls, and each advance of steps.

    Steps are advanced to their end before others are asked for. Between two of them `put` and
    `clear` may be called; a `MapChange` comes once for every spot whose node differs from the
    base's. Advancing raises DamagedDataError if what was sent is not the node that was wanted.

    Args:
        hasher: names the domain's nodes.
        base: root of the base's map; None without a base.
        base_size_chunks: size of the base's volume; 0 without a base.
        size_chunks: size of the volume now. What the base has beyond it is gone for good, so that a
            volume that shrinks and grows again shows zeros there (protocol scenario 20).
        complete: chunks that are never put are zero; the base serves to share nodes with and to
            count what left. Otherwise they are what they were in the base.
    """

    def __init__(
        self,
        hasher: NodeHasher,
        *,
        base: MapRoot | None,
        base_size_chunks: int,
        size_chunks: int,
        complete: bool,
    ) -> None:
        self._hasher = hasher
        self._size_chunks = size_chunks
        self._level = level_for(size_chunks)
        base = base or MapRoot(None, 0)
        self._base = _Base(hasher, base, self._level)
        self._settled = 0
        self._pending: list[dict[int, _PendingNode]] = [{} for _ in range(self._level + 1)]
        if complete:
            self._touch(self._level, 0).dropped = _ALL_SLOTS
        elif base_size_chunks > size_chunks:
            self._clear(self._level, 0, size_chunks, span_chunks(self._level))
        elif base.node_id is not None and base.level < self._level:
            # The volume has grown: the nodes between the base's root and the new one are all new.
            self._touch(base.level + 1, 0)

    def put(self, first: int, tags: bytes, ids: bytes) -> None:
        """Set chunks from index ``first`` on; the last word on an index wins.

        Args:
            first: at or above the watermark.
            tags: domain tag of each chunk, one byte each.
            ids: chunk id of each chunk, 32 bytes each.

        Raises:
            BadInputError: columns of unequal length, or indexes below the watermark or beyond the
                volume.
        """
        count = len(tags)
        if len(ids) != count * ID_SIZE_BYTES:
            raise BadInputError(f"{count} tags with {len(ids)} bytes of chunk ids")
        self._check(first, count)
        done = 0
        while done < count:
            leaf, slot = divmod(first + done, FAN_OUT)
            edits = self._touch(0, leaf).edits
            upto = min(count, done + FAN_OUT - slot)
            for at in range(done, upto):
                edits[slot + at - done] = (
                    tags[at : at + 1] + ids[at * ID_SIZE_BYTES : (at + 1) * ID_SIZE_BYTES]
                )
            done = upto

    def clear(self, first: int, count: int) -> None:
        """Make ``count`` chunks from index ``first`` on zero; costs O(log count), not O(count).

        Raises:
            BadInputError: indexes below the watermark or beyond the volume.
        """
        self._check(first, count)
        if count:
            self._clear(self._level, 0, first, first + count)

    def would_settle(self, index: int) -> bool:
        """Whether nodes become final with this watermark: `settle_below` has steps then."""
        return index // FAN_OUT > self._settled // FAN_OUT

    def settle_below(self, index: int) -> Steps[None]:
        """Declare that no later call names a chunk below ``index``: nodes below it are final."""
        has_final = self.would_settle(index)
        self._settled = max(self._settled, index)
        return self._settle(index if has_final else 0)

    def finish(self) -> Steps[MapRoot]:
        """Settle everything; the new map's root, the base's if nothing changed. Called once."""
        self._settled = self._size_chunks
        return self._finish()

    @property
    def pending_count(self) -> int:
        """Nodes with changes that are not settled yet: what the writer's memory grows with."""
        return sum(map(len, self._pending))

    def _settle(self, index: int) -> Steps[None]:
        if index == 0:
            return
        yield from self._base.descend()
        for level in range(self._level):
            span = span_chunks(level)
            final = [no for no in self._pending[level] if (no + 1) * span <= index]
            yield from self._finalise(level, final)

    def _finish(self) -> Steps[MapRoot]:
        yield from self._base.descend()
        for level in range(self._level):
            yield from self._finalise(level, list(self._pending[level]))
        yield from self._leave_above()
        if 0 not in self._pending[self._level]:
            return self._base.root
        return MapRoot((yield from self._finalise_node(self._level, 0)), self._level)

    def _check(self, first: int, count: int) -> None:
        if not self._settled <= first <= first + count <= self._size_chunks:
            raise BadInputError(
                f"{count} chunks at {first}: expected them within {self._settled} (below it is "
                f"settled) to {self._size_chunks} (the volume's end)"
            )

    def _touch(self, level: int, no: int) -> "_PendingNode":
        """The pending node at this spot; it and its ancestors come into being if need be."""
        pending = self._pending[level].get(no)
        if pending is None:
            pending = self._pending[level][no] = _PendingNode()
            if level < self._level:
                parent_no, slot = divmod(no, FAN_OUT)
                if self._touch(level + 1, parent_no).dropped >> slot & 1:
                    pending.dropped = _ALL_SLOTS
        return pending

    def _clear(self, level: int, no: int, first: int, end: int) -> None:
        """Drop ``first`` to ``end`` at the highest nodes that lie wholly within."""
        pending = self._touch(level, no)
        start, span, unit = no * span_chunks(level), span_chunks(level), span_chunks(level - 1)
        low, high = max(first - start, 0), min(end - start, span)
        whole = range(-(-low // unit), high // unit)
        for slot in whole:
            pending.dropped |= 1 << slot
            pending.edits.pop(slot, None)
            if level:
                self._discard(level - 1, no * FAN_OUT + slot)
        for slot in {at // unit for at in (low, high) if at % unit}:
            self._clear(level - 1, no * FAN_OUT + slot, first, end)

    def _discard(self, level: int, no: int) -> None:
        if self._pending[level].pop(no, None) is not None and level:
            for slot in range(FAN_OUT):
                self._discard(level - 1, no * FAN_OUT + slot)

    def _finalise(self, level: int, numbers: list[int]) -> Steps[None]:
        for no in sorted(numbers):  # ascending, so that the base's nodes are read once each
            node_id = yield from self._finalise_node(level, no)
            parent_no, slot = divmod(no, FAN_OUT)
            self._pending[level + 1][parent_no].edits[slot] = node_id

    def _finalise_node(self, level: int, no: int) -> Steps[NodeId | None]:
        """Decide what is at this spot now; hand it over if it is not what the base has."""
        pending = self._pending[level].pop(no)
        entries = yield from self._entries(level, no, pending)
        encoded = encode_node(level, entries) if entries else None
        node_id = self._hasher.node_id(encoded) if encoded else None
        base_id = yield from self._base.node_id(level, no)
        if encoded is not None and node_id is not None:
            if node_id == base_id:
                return node_id
            yield NewNode(node_id, encoded)
        if level:
            yield from self._left_below(level, no, pending)
            if node_id != base_id:
                yield MapChange(base_id, node_id)
        elif node_id != base_id:
            before = yield from self._base.entries(0, no)
            yield _leaf_change(base_id, node_id, before, entries)
        return node_id

    def _entries(self, level: int, no: int, pending: "_PendingNode") -> Steps[dict[int, bytes]]:
        """What the base has here and is not dropped, overlaid by what was set."""
        entries: dict[int, bytes | None] = {}
        if pending.dropped != _ALL_SLOTS:  # a complete capture reads a base node only if it differs
            base = yield from self._base.entries(level, no)
            entries = {slot: base[slot] for slot in base if not pending.dropped >> slot & 1}
        entries |= pending.edits
        return {slot: entry for slot, entry in entries.items() if entry is not None}

    def _left_below(self, level: int, no: int, pending: "_PendingNode") -> Steps[None]:
        """Subtrees of the base that were dropped at this spot, and that nothing replaced."""
        children = yield from self._base.children(level, no)
        for slot, child in children.items():
            if slot not in pending.edits and pending.dropped >> slot & 1:
                yield from self._base.leave(child)

    def _leave_above(self) -> Steps[None]:
        """What a higher base has above and beside what the new, lower root covers."""
        for subtree in self._base.above:
            for slot, child in (yield from self._base.below(subtree, subtree.level)).items():
                if slot > 0:
                    yield from self._base.leave(child)
            yield MapChange(subtree.node_id, None)


def _leaf_change(
    base_id: NodeId | None,
    node_id: NodeId | None,
    before: dict[int, bytes],
    entries: dict[int, bytes],
) -> MapChange:
    left = split_entries([was for slot, was in before.items() if entries.get(slot) != was])
    entered = split_entries([now for slot, now in entries.items() if before.get(slot) != now])
    return MapChange(base_id, node_id, *left, *entered)


class _PendingNode:
    """Changes to one node that is not final yet."""

    __slots__ = ("dropped", "edits")

    def __init__(self) -> None:
        #: Slot → new entry; above the leaves only final children are here, None for one that is
        #: empty.
        self.edits: dict[int, bytes | None] = {}
        #: Bit n is set if slot n does not take over what the base has there.
        self.dropped = 0


class _Base:
    """The base's nodes by their spot in the new map; keeps the last one read of each level."""

    def __init__(self, hasher: NodeHasher, top: MapRoot, level: int) -> None:
        self._hasher = hasher
        self._level = level
        #: Nodes above the part that a map of ``level`` covers, highest first; known once descended.
        self.above: list[MapRoot] = []
        #: Covers the same chunks as the new root, or fewer if the base is lower; once descended.
        self.root = top if top.node_id is not None else MapRoot(None, level)
        self._entries: dict[int, tuple[int, dict[int, bytes]]] = {}
        self._children: dict[int, tuple[int, dict[int, MapRoot]]] = {}

    def descend(self) -> Steps[None]:
        """Find what corresponds to the new root; nothing once that is known."""
        while self.root.node_id is not None and self.root.level > self._level:
            top, children = self.root, (yield from self.below(self.root, self.root.level))
            self.above.append(top)
            self.root = children.get(0, MapRoot(None, self._level))

    def node_id(self, level: int, no: int) -> Steps[NodeId | None]:
        """Id of the node at this spot; None where the base has none."""
        subtree = yield from self._subtree(level, no)
        return subtree.node_id if subtree.level == level else None

    def children(self, level: int, no: int) -> Steps[dict[int, MapRoot]]:
        """Subtrees below the node at this spot (level ≥ 1), by slot."""
        if self._children.get(level, (-1,))[0] != no:
            subtree = yield from self._subtree(level, no)
            self._children[level] = (no, (yield from self.below(subtree, level)))
        return self._children[level][1]

    def entries(self, level: int, no: int) -> Steps[dict[int, bytes]]:
        """Entries of the node at this spot, as `Node.entries`."""
        if level:
            children = (yield from self.children(level, no)).items()
            return {slot: child.node_id for slot, child in children if child.node_id is not None}
        if self._entries.get(0, (-1,))[0] != no:
            node_id = yield from self.node_id(0, no)
            found = (yield from self._node(node_id, 0)).entries() if node_id is not None else {}
            self._entries[0] = (no, found)
        return self._entries[0][1]

    def below(self, subtree: MapRoot, level: int) -> Steps[dict[int, MapRoot]]:
        """As `libs.blockmap.tree.MapReader.children`."""
        if subtree.node_id is None:
            return {}
        if subtree.level < level:
            return {0: subtree}
        return subtrees_of((yield from self._node(subtree.node_id, level)))

    def leave(self, subtree: MapRoot) -> Steps[None]:
        """A whole subtree of the base is gone."""
        if subtree.node_id is None:
            return
        if subtree.level == 0:
            leaf = yield from self._node(subtree.node_id, 0)
            yield MapChange(subtree.node_id, None, leaf.tags, leaf.ids)
            return
        for child in (yield from self.below(subtree, subtree.level)).values():
            yield from self.leave(child)
        yield MapChange(subtree.node_id, None)

    def _subtree(self, level: int, no: int) -> Steps[MapRoot]:
        if level == self._level:
            return self.root
        parent_no, slot = divmod(no, FAN_OUT)
        children = yield from self.children(level + 1, parent_no)
        return children.get(slot, MapRoot(None, level))

    def _node(self, node_id: NodeId, level: int) -> Steps[Node]:
        encoded = yield NodeWanted(node_id)
        assert encoded is not None, "a wanted node was not sent"
        return verified_node(self._hasher, node_id, level, encoded)
