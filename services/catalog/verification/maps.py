"""Walking the block map of a volume at a recovery point: what of it cannot be read.

Siblings are located together, and leaves in groups, so that the catalog is asked once for some
thousand ids. What is held in memory is one node per level, a group of leaves with their ids, and
a bounded number of subtrees that are known to be clean, which are not entered again.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from libs.blockmap.node import MapRun, Node, NodeHasher, NodeId, node_size_bytes
from libs.blockmap.tagged import id_text, tagged_ids
from libs.blockmap.tree import MapReader, MapRoot, span_chunks
from libs.catalogdb.packs.checking import CheckedItems, locate_checked
from libs.catalogdb.packs.damage import WHOLE_PACK, demand_recount, record_damage
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots.points import SnapshotVolume
from libs.errors import DamagedDataError, NotFoundError, WrongKeyError
from libs.events.fields import DAMAGED_EXTENTS_MAX
from libs.events.snapshots import DamagedExtent
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.reading.frames import FrameReader
from libs.runtime.retries import tried_again

log = logging.getLogger(__name__)
#: Leaves whose chunks are located at once: up to 16,384 ids, half a MiB.
_LEAVES_AT_ONCE = 32
#: Subtrees that are remembered as clean, about 150 bytes each: leaves of 6 TiB.
_CLEAN_MAX = 200_000


class CleanSubtrees:
    """Subtrees that were walked and are clean, as far as memory allows.

    Whatever the group: a tag may mean another domain there, but no id is one of two domains.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._ids

    def add(self, node_id: bytes) -> None:
        """Remember one, and forget the oldest where there are too many."""
        self._ids[node_id] = None
        if len(self._ids) > _CLEAN_MAX:
            self._ids.popitem(last=False)


@dataclass(slots=True)
class DamagedExtents:
    """Ranges of volumes that cannot be read: all are counted, the first ones kept."""

    damaged_bytes: int = 0
    count: int = 0
    first: list[DamagedExtent] = field(default_factory=list)
    #: Where the last range ended, and in which pack it was: the next one may continue it.
    _open: tuple[UUID, int, UUID | None] | None = None

    def add(self, volume: UUID, start: int, end: int, generation: UUID | None) -> None:
        """Add bytes ``start`` to ``end`` of a volume, in ascending order."""
        self.damaged_bytes += end - start
        continues = self._open == (volume, start, generation)
        self._open = (volume, end, generation)
        if not continues:
            self.count += 1
            if self.count <= DAMAGED_EXTENTS_MAX:
                self.first.append(
                    DamagedExtent(
                        volume=volume,
                        offset_bytes=start,
                        length_bytes=end - start,
                        generation=generation,
                    )
                )
        elif self.count <= DAMAGED_EXTENTS_MAX:
            last = self.first[-1]
            self.first[-1] = DamagedExtent(
                volume=volume,
                offset_bytes=last.offset_bytes,
                length_bytes=end - last.offset_bytes,
                generation=generation,
            )


class _Subtree(NamedTuple):
    """A node of the map and the index of the first chunk that it covers."""

    start: int
    id: bytes


class MapWalk:
    """One walk through one volume's map.

    A node that cannot be read is recorded as damaged; so is, for its volume, that the catalog has
    lost an item.

    Args:
        catalog: the catalog, in the catalog service's role.
        frames: reads frames of map nodes.
        id_key: keys the identities of nodes in the tenant's own domain.
        point: the volume and the recovery point.
        lease: pins whatever is located; open, and closed by the caller.
        deadline_seconds: the lease is renewed by so much.
        clean: subtrees that need no look, and those that this walk adds.
        extents: gets what cannot be read.
        looked_at: told the number of chunks that each step has looked at.
    """

    def __init__(  # noqa: PLR0913 -- a walk's surroundings
        self,
        catalog: Catalog,
        frames: FrameReader,
        id_key: bytes,
        point: SnapshotVolume,
        lease: UUID,
        deadline_seconds: float,
        clean: CleanSubtrees,
        extents: DamagedExtents,
        looked_at: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._frames = frames
        self._hasher = NodeHasher(id_key)
        self._point = point
        self._lease = lease
        self._deadline_seconds = deadline_seconds
        self._clean = clean
        self._extents = extents
        self._looked_at = looked_at

    def run(self, known: MapRoot | None = None) -> None:
        """Walk the map.

        Args:
            known: root of a map that was walked already: subtrees that are the same at the same
                place are not entered.
        """
        if self._point.root is None:
            return
        known_at = {}
        if known and known.node_id is not None and known.level == self._point.root_level:
            known_at[0] = bytes(known.node_id)
        self._walk(self._point.root_level, [_Subtree(0, self._point.root)], known_at)

    def _walk(self, level: int, subtrees: Sequence[_Subtree], known: Mapping[int, bytes]) -> bool:
        """Walk siblings of one level; whether all of them are clean."""
        new = [
            one for one in subtrees if known.get(one.start) != one.id and one.id not in self._clean
        ]
        if not new:
            return True
        located = self._locate([one.id for one in new])
        if level == 0:
            groups = range(0, len(new), _LEAVES_AT_ONCE)
            clean = [self._leaves(new[at : at + _LEAVES_AT_ONCE], located, at) for at in groups]
            return all(clean)
        all_clean = True
        for number, subtree in enumerate(new):
            node = self._node(level, subtree, located, number)
            if node is None:
                all_clean = False
                continue
            step = span_chunks(level - 1)
            children = [
                _Subtree(subtree.start + slot * step, entry)
                for slot, entry in node.entries().items()
            ]
            known_below = self._known_below(level, known.get(subtree.start), subtree.start)
            if self._walk(level - 1, children, known_below):
                self._clean.add(subtree.id)
            else:
                all_clean = False
        return all_clean

    def _leaves(self, leaves: Sequence[_Subtree], located: CheckedItems, at: int) -> bool:
        """Locate the chunks of a group of leaves; whether all are where they should be."""
        runs: list[tuple[int, MapRun]] = []
        unclean = set[int]()
        for number, leaf in enumerate(leaves):
            node = self._node(0, leaf, located, at + number)
            if node is None:
                unclean.add(number)
            else:
                runs += [(number, run) for run in node.runs(leaf.start)]
        ids = [id_ for _, run in runs for id_ in tagged_ids(run.tags, run.ids)]
        if ids:
            chunks = self._locate(ids)
            owners = [
                (number, run.first + n) for number, run in runs for n in range(run.chunk_count)
            ]
            for position, (number, index) in enumerate(owners):
                if self._is_bad(chunks, position):
                    unclean.add(number)
                    self._add(index, index + 1, _generation(chunks, position))
        for number, leaf in enumerate(leaves):
            if number not in unclean:
                self._clean.add(leaf.id)
        self._looked_at(len(ids))
        return not unclean

    def _node(
        self, level: int, subtree: _Subtree, located: CheckedItems, number: int
    ) -> Node | None:
        """The node, or None: it cannot be read, so nothing below it can."""
        if not self._is_bad(located, number):
            place = located.places[number]
            assert place is not None
            try:
                return self._read_twice(level, subtree.id, located.packs[place[0]], place[1])
            except WrongKeyError:
                raise
            except (DamagedDataError, NotFoundError) as err:
                gone = isinstance(err, NotFoundError)
                items = [WHOLE_PACK if gone else subtree.id]
                record_damage(self._catalog, place[0], items, str(err))
        end = subtree.start + span_chunks(level)
        self._add(subtree.start, end, _generation(located, number))
        return None

    def _read_twice(self, level: int, node_id: bytes, pack: PackLocation, place: int) -> Node:
        """Read again what looks damaged or gone: the answer may have been wrong."""
        try:
            return self._read(level, node_id, pack, place)
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError):
            return self._read(level, node_id, pack, place)

    def _read(self, level: int, node_id: bytes, pack: PackLocation, place: int) -> Node:
        def fetch(_: NodeId) -> bytes:
            item = self._item(pack, place)
            return item[: node_size_bytes(item)]

        return MapReader(self._hasher, fetch).node(NodeId(node_id), level)

    @tried_again()
    def _item(self, pack: PackLocation, place: int) -> bytes:
        return self._frames.item(pack, place)

    def _known_below(self, level: int, known: bytes | None, start: int) -> dict[int, bytes]:
        """Children of the known map's node at a place; none if it cannot be read."""
        if known is None:
            return {}
        located = self._locate([known])
        place = located.places[0]
        if place is None or located.damaged:
            return {}
        try:
            node = self._read(level, known, located.packs[place[0]], place[1])
        except (DamagedDataError, NotFoundError):
            return {}
        step = span_chunks(level - 1)
        return {start + slot * step: entry for slot, entry in node.entries().items()}

    def _locate(self, ids: Sequence[bytes]) -> CheckedItems:
        located = locate_checked(
            self._catalog, self._lease, self._point.domain_nos, ids, self._deadline_seconds
        )
        lost = [ids[n] for n, place in enumerate(located.places) if place is None]
        if lost:
            log.error(
                "the catalog has lost items",
                extra={"point": self._point.label, "count": len(lost), "first": id_text(lost[0])},
            )
            demand_recount(self._catalog, self._point.volume_no)
        return located

    def _is_bad(self, located: CheckedItems, position: int) -> bool:
        return located.places[position] is None or position in located.damaged

    def _add(self, first: int, end: int, generation: UUID | None) -> None:
        size = self._point.size_bytes
        start_byte, end_byte = first * CHUNK_SIZE_BYTES, min(end * CHUNK_SIZE_BYTES, size)
        self._extents.add(self._point.volume, start_byte, end_byte, generation)


def _generation(located: CheckedItems, position: int) -> UUID | None:
    place = located.places[position]
    return located.packs[place[0]].generation if place else None
