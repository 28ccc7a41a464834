"""The ledger of one attempt: which chunks it has where, and what that changes in pack_use.

It answers two questions without asking the catalog for every chunk: "do we have this one already?"
while spans arrive, and "in which pack does it lie?" when a part of the block map is settled. What
it has forgotten, the catalog is asked for.

Ids are tagged ids throughout (`libs.blockmap.tagged`): that a chunk is known in one domain says
nothing about another.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from libs.blockmap.tagged import tagged_ids
from libs.blockmap.writer import MapChange
from libs.catalogdb.sessions.attempts import PackUse

#: Located ids that are remembered, about 200 bytes each: 8 GiB worth of chunks.
_REMEMBERED_MAX = 131_072


class Ledger:
    """Thread-safe. Only packs that the attempt has pinned are ever named."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: id → pack number, oldest first.
        self._located: dict[bytes, int] = {}
        #: Ids on their way into a pack that is not registered yet.
        self._pending: set[bytes] = set()
        #: Addresses that entered with an id whose pack is not known (yet).
        self._unplaced: Counter[bytes] = Counter()
        self._entered: Counter[int] = Counter()
        self._departed: Counter[int] = Counter()
        self._departed_ids: list[bytes] = []

    def unknown(self, ids: Iterable[bytes]) -> list[bytes]:
        """Ids that neither lie in a pinned pack nor are on their way into one, each once."""
        with self._lock:
            return [
                id_
                for id_ in dict.fromkeys(ids)
                if id_ not in self._located and id_ not in self._pending
            ]

    def locate(self, packs: Mapping[bytes, int]) -> None:
        """Remember where ids lie; their packs are pinned by the attempt."""
        with self._lock:
            self._located.update(packs)
            self._forget_oldest()

    def claim(self, ids: Iterable[bytes]) -> set[bytes]:
        """Of these ids, those that the caller shall store: each id is given to one caller only."""
        with self._lock:
            fresh = {id_ for id_ in ids if id_ not in self._located and id_ not in self._pending}
            self._pending |= fresh
            return fresh

    def registered(self, ids: Sequence[bytes], pack_no: int, winners: Mapping[bytes, int]) -> None:
        """A pack of ours is live: our items lie in it, but for those with a winner elsewhere."""
        with self._lock:
            for id_ in ids:
                lies_in = winners.get(id_, pack_no)
                self._pending.discard(id_)
                self._located[id_] = lies_in
                addresses = self._unplaced.pop(id_, 0)
                if addresses:
                    self._entered[lies_in] += addresses
            self._forget_oldest()

    def settled(self, change: MapChange) -> None:
        """Count a spot of the block map that has got its final content."""
        entered = tagged_ids(change.entered_tags, change.entered_ids)
        if change.entered_node is not None:
            entered.append(change.entered_node)
        departed = tagged_ids(change.left_tags, change.left_ids)
        if change.left_node is not None:
            departed.append(change.left_node)
        with self._lock:
            for id_ in entered:
                pack_no = self._located.get(id_)
                if pack_no is None:
                    self._unplaced[id_] += 1
                else:
                    self._entered[pack_no] += 1
            self._departed_ids += departed

    def take_departed(self, count_min: int) -> list[bytes]:
        """Ids, with repetitions, that left an address: the catalog must be asked for their packs.

        Nothing if there are fewer than ``count_min``. Give the answer to `departed`.
        """
        with self._lock:
            if len(self._departed_ids) < count_min:
                return []
            taken, self._departed_ids = self._departed_ids, []
            return taken

    def departed(self, packs: Mapping[int, int]) -> None:
        """Count addresses that left packs."""
        with self._lock:
            self._departed.update(packs)

    def unplaced(self) -> list[bytes]:
        """Ids, with repetitions, that entered and whose packs the catalog must be asked for."""
        with self._lock:
            return list(self._unplaced.elements())

    def use(self, unplaced: Mapping[int, int]) -> dict[int, PackUse]:
        """The differences, given where the `unplaced` ids lie."""
        with self._lock:
            entered = self._entered + Counter(unplaced)
            packs = entered.keys() | self._departed.keys()
            return {pack: PackUse(entered[pack], self._departed[pack]) for pack in packs}

    def _forget_oldest(self) -> None:
        excess = max(0, len(self._located) - _REMEMBERED_MAX)
        for id_ in list(itertools.islice(self._located, excess)):
            del self._located[id_]
