"""What a block map refers to, as the difference to another one: references are counted from it.

Counts as `libs.blockmap.writer` reports changes: a node once for each spot it has in the tree, a
chunk once for each address. So counting a volume snapshot by snapshot gives what sealing counted.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from libs.blockmap.node import NodeId
from libs.blockmap.tagged import tagged_entry
from libs.blockmap.tree import MapReader, MapRoot
from libs.errors import DamagedDataError, NotFoundError, WrongKeyError


class UseChange(NamedTuple):
    """What one changed spot of the tree let go and took in: tagged ids of nodes and chunks."""

    left: list[bytes]
    entered: list[bytes]


def changed_uses(
    reader: MapReader, old: MapRoot, new: MapRoot, unreadable: Callable[[str], None]
) -> Iterator[UseChange]:
    """The spots at which two maps differ; reads only nodes that differ.

    A node that cannot be read is counted itself, and what lies beside it is; what lies below it is
    not known.

    Args:
        reader: reads the maps.
        old: the one.
        new: the other.
        unreadable: told why a node cannot be read.

    Raises:
        WrongKeyError: the keys at hand are not those of the maps.
    """
    yield from _Comparison(reader, unreadable).at(old, new, max(old.level, new.level))


class _Comparison(NamedTuple):
    reader: MapReader
    unreadable: Callable[[str], None]

    def at(self, old: MapRoot, new: MapRoot, level: int) -> Iterator[UseChange]:
        if old.node_id == new.node_id:
            return
        # A map that is lower than `level` has no node here: it is below, in slot 0.
        was = [old.node_id] if old.node_id is not None and old.level == level else []
        now = [new.node_id] if new.node_id is not None and new.level == level else []
        if level == 0:
            before = self._leaf(was[0]) if was else {}
            after = self._leaf(now[0]) if now else {}
            left = [
                tagged_entry(entry) for slot, entry in before.items() if after.get(slot) != entry
            ]
            entered = [
                tagged_entry(entry) for slot, entry in after.items() if before.get(slot) != entry
            ]
            yield UseChange([*was, *left], [*now, *entered])
            return
        yield UseChange([*was], [*now])
        olds, news = self._children(old, level), self._children(new, level)
        nothing = MapRoot(None, level - 1)
        for slot in sorted(olds.keys() | news.keys()):
            yield from self.at(olds.get(slot, nothing), news.get(slot, nothing), level - 1)

    def _leaf(self, node_id: NodeId) -> dict[int, bytes]:
        try:
            return self.reader.node(node_id, 0).entries()
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError) as err:
            self.unreadable(str(err))
            return {}

    def _children(self, subtree: MapRoot, level: int) -> dict[int, MapRoot]:
        try:
            return self.reader.children(subtree, level)
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError) as err:
            self.unreadable(str(err))
            return {}
