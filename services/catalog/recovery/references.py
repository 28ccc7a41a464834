"""Counts the references of volumes anew, from their block maps; finds what is not there any more.

Snapshot by snapshot: the first is walked whole, each later one where it differs from the one
before. In memory are the counts of one volume, some 100 bytes for each pack that it uses.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from libs.blockmap.node import NodeHasher, NodeId, node_size_bytes
from libs.blockmap.tagged import id_text
from libs.blockmap.tree import MapReader, MapRoot
from libs.blockmap.uses import changed_uses
from libs.catalogdb.packs.index import find_item
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.references import (
    LivePoint,
    UseRow,
    VolumeToCount,
    count_live,
    live_points,
    replace_uses,
)
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader

log = logging.getLogger(__name__)

#: Ids that are located in one query.
_BATCH = 4096
_NOTHING = MapRoot(None, 0)


@dataclass(frozen=True, slots=True)
class DamagedPoint:
    """A snapshot of which something is gone."""

    tenant: str
    volume: str
    sequence: int
    reason: str

    @property
    def label(self) -> str:
        """How a person names it."""
        return f"{self.volume}@{self.sequence}"


class ReferenceCounter:
    """Counts volumes anew.

    Args:
        catalog: the catalog.
        vault: the domains' keys.
        frames: reads map nodes.
    """

    def __init__(self, catalog: Catalog, vault: KeyVault, frames: FrameReader) -> None:
        self._catalog = catalog
        self._vault = vault
        self._frames = frames

    def recount(self, volume: VolumeToCount, *, replace_damaged: bool) -> list[DamagedPoint]:
        """Count the references of a volume; returns its snapshots that are damaged.

        Args:
            volume: which.
            replace_damaged: whether the count replaces the references although a snapshot is
                damaged. What lies below a node that cannot be read is not counted, and goes: first
                ask again, later.
        """
        points = live_points(self._catalog, volume.volume_no)
        counting = _Counting()
        damaged: list[DamagedPoint] = []
        before = _NOTHING
        for point in points:
            root = MapRoot(NodeId(point.root) if point.root else None, point.root_level)
            missing = self._count(volume, before, root, counting)
            if missing and before.node_id is not None:
                # The one before may lack what this one shares with it, or only what has left.
                counting.forget()
                missing = self._count(volume, _NOTHING, root, counting)
            counting.close(point.sequence)
            before = _NOTHING if missing else root
            if missing:
                damaged.append(DamagedPoint(volume.tenant, volume.name, point.sequence, missing))
                counting.forget()
        if damaged and not replace_damaged:
            return damaged
        rows = list(counting.rows(head_is_live=_ends_with_head(points)))
        replace_uses(self._catalog, volume.volume_no, rows, damaged=bool(damaged))
        log.info("volume counted anew", extra={"volume": volume.name, "rows": len(rows)})
        return damaged

    def _count(
        self, volume: VolumeToCount, old: MapRoot, new: MapRoot, counting: "_Counting"
    ) -> str:
        """Count what one map changes; returns what is missing, or nothing."""
        keys = self._vault.get(volume.domain, volume.key_id)
        reader = MapReader(NodeHasher(keys.id_key), lambda node: self._node(volume, node))
        missing: list[str] = []
        left: list[bytes] = []
        entered: list[bytes] = []
        for change in changed_uses(reader, old, new, missing.append):
            left += change.left
            entered += change.entered
            if len(left) + len(entered) >= _BATCH:
                missing += self._add(volume, left, entered, counting)
                left, entered = [], []
        missing += self._add(volume, left, entered, counting)
        return missing[0] if missing else ""

    def _add(
        self, volume: VolumeToCount, left: list[bytes], entered: list[bytes], counting: "_Counting"
    ) -> list[str]:
        gone: list[bytes] = []
        for ids, sign in ((left, -1), (entered, 1)):
            if ids:
                packs, missing = count_live(self._catalog, volume.domain_nos, ids)
                counting.add(packs, sign)
                gone += missing
        return [f"item {id_text(gone[0])} lies in no pack of the store"] if gone else []

    def _node(self, volume: VolumeToCount, node: NodeId) -> bytes:
        pack, place = find_item(self._catalog, volume.domain_nos[0], node, whole=False)
        item = self._frames.item(pack, place)
        return item[: node_size_bytes(item)]


class _Counting:
    """The counts of a volume as they go from snapshot to snapshot."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        #: Pack → first sequence and number of addresses of its open row.
        self._open: dict[int, tuple[int, int]] = {}
        self._closed: list[UseRow] = []
        self._last = 0

    def add(self, packs: Counter[int], sign: int) -> None:
        for pack_no, addresses in packs.items():
            self._counts[pack_no] += sign * addresses

    def forget(self) -> None:
        """Count from nothing on."""
        self._counts.clear()

    def close(self, sequence: int) -> None:
        """A live snapshot was counted: rows whose pack it does not use end at the one before."""
        for pack_no in [pack_no for pack_no in self._open if self._counts[pack_no] <= 0]:
            first, _ = self._open.pop(pack_no)
            self._closed.append(UseRow(pack_no, 0, first, self._last))
        for pack_no, addresses in self._counts.items():
            if addresses > 0:
                first, _ = self._open.get(pack_no, (sequence, 0))
                self._open[pack_no] = (first, addresses)
        self._counts = +self._counts
        self._last = sequence

    def rows(self, *, head_is_live: bool) -> Iterator[UseRow]:
        """All rows; those of the newest live snapshot are open if it is the head."""
        yield from self._closed
        for pack_no, (first, addresses) in self._open.items():
            if head_is_live:
                yield UseRow(pack_no, addresses, first, None)
            else:
                yield UseRow(pack_no, 0, first, self._last)


def _ends_with_head(points: list[LivePoint]) -> bool:
    return bool(points and points[-1].is_head)
