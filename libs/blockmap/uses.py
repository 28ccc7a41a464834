"""What a block map refers to, as the difference to another one: references are counted from it.

Counts as `libs.blockmap.writer` reports changes: a node once for each place it has in the tree, a
chunk once for each address. So counting a lineage snapshot by snapshot gives what sealing counted.
"""

from collections.abc import Iterator
from typing import NamedTuple

from libs.blockmap.tagged import tagged_entry
from libs.blockmap.tree import MapReader, MapRoot


class UseChange(NamedTuple):
    """What one changed place of the tree let go and took in: tagged ids of nodes and chunks."""

    left: list[bytes]
    entered: list[bytes]


def changed_uses(reader: MapReader, old: MapRoot, new: MapRoot) -> Iterator[UseChange]:
    """The places at which two maps differ; reads only nodes that differ.

    Raises:
        DamagedDataError: a node is not what it must be.
    """
    yield from _changed(reader, old, new, max(old.level, new.level))


def _changed(reader: MapReader, old: MapRoot, new: MapRoot, level: int) -> Iterator[UseChange]:
    if old.node_id == new.node_id:
        return
    # A map that is lower than `level` has no node here: it is below, in slot 0.
    was = [old.node_id] if old.node_id is not None and old.level == level else []
    now = [new.node_id] if new.node_id is not None and new.level == level else []
    if level == 0:
        before = reader.node(was[0], 0).entries() if was else {}
        after = reader.node(now[0], 0).entries() if now else {}
        left = [tagged_entry(entry) for slot, entry in before.items() if after.get(slot) != entry]
        entered = [
            tagged_entry(entry) for slot, entry in after.items() if before.get(slot) != entry
        ]
        yield UseChange([*was, *left], [*now, *entered])
        return
    yield UseChange([*was], [*now])
    olds, news = reader.children(old, level), reader.children(new, level)
    nothing = MapRoot(None, level - 1)
    for slot in sorted(olds.keys() | news.keys()):
        yield from _changed(reader, olds.get(slot, nothing), news.get(slot, nothing), level - 1)
