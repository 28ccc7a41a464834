"""Writing the block map of a new snapshot, given its base's map and what changed since.

Changes come in any order at or above a watermark. Below the watermark nodes are final: they are
encoded, given to the caller, and forgotten but for their ids, so memory is bounded by what lies
between the watermark and the highest change, plus 32 bytes for each settled node whose parent is
not settled.

A node is shared only with the base's node at the same place: that one is pinned with the base.
Finding equal bytes anywhere else would say nothing about what lies below (protocol scenario 3), so
every other node is emitted, and a node that occurs at two places of one map is emitted twice.
"""

from collections.abc import Callable
from typing import NamedTuple

from libs.blockmap.node import (
    FAN_OUT,
    ID_SIZE_BYTES,
    NodeHasher,
    NodeId,
    encode_node,
    split_entries,
)
from libs.blockmap.tree import MapReader, MapRoot, level_for, span_chunks
from libs.errors import BadInputError

_ALL_SLOTS = (1 << FAN_OUT) - 1


class MapChange(NamedTuple):
    """What one changed place of the tree let go and took in; references are counted from it.

    Chunks are counted per address: a chunk id that left two addresses is named twice.
    """

    #: The base's node at this place, if the new map does not have it there.
    left_node: NodeId | None
    #: The new node at this place; None: nothing is there any more.
    entered_node: NodeId | None
    #: Domain tags (1 byte each) and ids (32 bytes each) of chunks that the base had; empty above
    #: leaves.
    left_tags: bytes = b""
    left_ids: bytes = b""
    #: The same for chunks that the new map has in their place.
    entered_tags: bytes = b""
    entered_ids: bytes = b""


class MapWriter:
    """Builds one map. Not thread-safe: the caller serialises calls.

    Args:
        hasher: names the domain's nodes.
        base: root of the base's map; None without a base.
        base_size_chunks: size of the base's volume; 0 without a base.
        size_chunks: size of the volume now. What the base has beyond it is gone for good, so that a
            volume that shrinks and grows again shows zeros there (protocol scenario 20).
        fetch: gives the bytes of a node of the base.
        emit: takes every new node, children before parents.
        changed: takes one `MapChange` for every place whose node differs from the base's.
        complete: chunks that are never put are zero; the base serves to share nodes with and to
            count what left. Otherwise they are what they were in the base.
    """

    def __init__(  # noqa: PLR0913 -- the facts of one map, named by the caller
        self,
        hasher: NodeHasher,
        *,
        base: MapRoot | None,
        base_size_chunks: int,
        size_chunks: int,
        fetch: Callable[[NodeId], bytes],
        emit: Callable[[NodeId, bytes], None],
        changed: Callable[[MapChange], None],
        complete: bool,
    ) -> None:
        self._hasher = hasher
        self._reader = MapReader(hasher, fetch)
        self._emit = emit
        self._changed = changed
        self._size_chunks = size_chunks
        self._level = level_for(size_chunks)
        self._base = _Base(self._reader, base or MapRoot(None, 0), self._level)
        self._settled = 0
        self._pending: list[dict[int, _PendingNode]] = [{} for _ in range(self._level + 1)]
        if complete:
            self._touch(self._level, 0).dropped = _ALL_SLOTS
        elif base_size_chunks > size_chunks:
            self._clear(self._level, 0, size_chunks, span_chunks(self._level))
        elif self._base.root.node_id is not None and self._base.root.level < self._level:
            # The volume has grown: the nodes between the base's root and the new one are all new.
            self._touch(self._base.root.level + 1, 0)

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

    def settle_below(self, index: int) -> None:
        """Declare that no later call names a chunk below ``index``: nodes below it are final."""
        if index // FAN_OUT > self._settled // FAN_OUT:
            for level in range(self._level):
                span = span_chunks(level)
                final = [no for no in self._pending[level] if (no + 1) * span <= index]
                self._finalise(level, final)
        self._settled = max(self._settled, index)

    def finish(self) -> MapRoot:
        """Settle everything; the new map's root, the base's if nothing changed. Called once."""
        for level in range(self._level):
            self._finalise(level, list(self._pending[level]))
        self._settled = self._size_chunks
        self._leave_above()
        if 0 not in self._pending[self._level]:
            return self._base.root
        return MapRoot(self._finalise_node(self._level, 0), self._level)

    def _check(self, first: int, count: int) -> None:
        if not self._settled <= first <= first + count <= self._size_chunks:
            raise BadInputError(
                f"{count} chunks at {first}: expected them within {self._settled} (below it is "
                f"settled) to {self._size_chunks} (the volume's end)"
            )

    def _touch(self, level: int, no: int) -> "_PendingNode":
        """The pending node at this place; it and its ancestors come into being if need be."""
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

    def _finalise(self, level: int, numbers: list[int]) -> None:
        for no in sorted(numbers):  # ascending, so that the base's nodes are read once each
            node_id = self._finalise_node(level, no)
            parent_no, slot = divmod(no, FAN_OUT)
            self._pending[level + 1][parent_no].edits[slot] = node_id

    def _finalise_node(self, level: int, no: int) -> NodeId | None:
        """Decide what is at this place now; emit and report it if it is not what the base has."""
        pending = self._pending[level].pop(no)
        entries = self._entries(level, no, pending)
        encoded = encode_node(level, entries) if entries else None
        node_id = self._hasher.node_id(encoded) if encoded else None
        if encoded is not None and node_id is not None:
            if node_id == self._base.node_id(level, no):
                return node_id
            self._emit(node_id, encoded)
        if level:
            self._report_node(level, no, pending, node_id)
        else:
            self._report_leaf(no, entries, node_id)
        return node_id

    def _entries(self, level: int, no: int, pending: "_PendingNode") -> dict[int, bytes]:
        """What the base has here and is not dropped, overlaid by what was set."""
        entries: dict[int, bytes | None] = {}
        if pending.dropped != _ALL_SLOTS:  # a complete capture reads a base node only if it differs
            base = self._base.entries(level, no)
            entries = {slot: base[slot] for slot in base if not pending.dropped >> slot & 1}
        entries |= pending.edits
        return {slot: entry for slot, entry in entries.items() if entry is not None}

    def _report_node(
        self, level: int, no: int, pending: "_PendingNode", node_id: NodeId | None
    ) -> None:
        for slot, child in self._base.children(level, no).items():
            if slot not in pending.edits and pending.dropped >> slot & 1:
                self._leave(child)
        base_id = self._base.node_id(level, no)
        if node_id != base_id:
            self._changed(MapChange(base_id, node_id))

    def _report_leaf(self, no: int, entries: dict[int, bytes], node_id: NodeId | None) -> None:
        base_id = self._base.node_id(0, no)
        if node_id == base_id:
            return
        before = self._base.entries(0, no)
        left = split_entries([was for slot, was in before.items() if entries.get(slot) != was])
        entered = split_entries([now for slot, now in entries.items() if before.get(slot) != now])
        self._changed(MapChange(base_id, node_id, *left, *entered))

    def _leave(self, subtree: MapRoot) -> None:
        """Report that a whole subtree of the base is gone."""
        if subtree.node_id is None:
            return
        if subtree.level == 0:
            leaf = self._reader.node(subtree.node_id, 0)
            self._changed(MapChange(subtree.node_id, None, leaf.tags, leaf.ids))
            return
        for child in self._reader.children(subtree, subtree.level).values():
            self._leave(child)
        self._changed(MapChange(subtree.node_id, None))

    def _leave_above(self) -> None:
        """Report what a higher base has above and beside what the new, lower root covers."""
        for subtree in self._base.above:
            for slot, child in self._reader.children(subtree, subtree.level).items():
                if slot > 0:
                    self._leave(child)
            self._changed(MapChange(subtree.node_id, None))


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
    """The base's nodes by their place in the new map; keeps the last one read of each level."""

    def __init__(self, reader: MapReader, top: MapRoot, level: int) -> None:
        self._reader = reader
        #: Nodes above the part that a map of ``level`` covers, highest first.
        self.above: list[MapRoot] = []
        while top.node_id is not None and top.level > level:
            self.above.append(top)
            top = reader.children(top, top.level).get(0, MapRoot(None, level))
        #: Covers the same chunks as the new root, or fewer if the base is lower.
        self.root = top if top.node_id is not None else MapRoot(None, level)
        self._level = level
        self._entries: dict[int, tuple[int, dict[int, bytes]]] = {}
        self._children: dict[int, tuple[int, dict[int, MapRoot]]] = {}

    def node_id(self, level: int, no: int) -> NodeId | None:
        """Id of the node at this place; None where the base has none."""
        subtree = self._subtree(level, no)
        return subtree.node_id if subtree.level == level else None

    def children(self, level: int, no: int) -> dict[int, MapRoot]:
        """Subtrees below the node at this place (level ≥ 1), by slot."""
        if self._children.get(level, (-1,))[0] != no:
            self._children[level] = (no, self._reader.children(self._subtree(level, no), level))
        return self._children[level][1]

    def entries(self, level: int, no: int) -> dict[int, bytes]:
        """Entries of the node at this place, as `Node.entries`."""
        if level:
            children = self.children(level, no).items()
            return {slot: child.node_id for slot, child in children if child.node_id is not None}
        if self._entries.get(0, (-1,))[0] != no:
            node_id = self.node_id(0, no)
            found = self._reader.node(node_id, 0).entries() if node_id is not None else {}
            self._entries[0] = (no, found)
        return self._entries[0][1]

    def _subtree(self, level: int, no: int) -> MapRoot:
        if level == self._level:
            return self.root
        parent_no, slot = divmod(no, FAN_OUT)
        return self.children(level + 1, parent_no).get(slot, MapRoot(None, level))
