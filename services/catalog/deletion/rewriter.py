"""The rewriter: gives back the space of mostly dead packs, and merges small ones.

Mostly dead packs are kept by their last items; small ones are what every snapshot leaves.

Order: marking begun → block maps read → row `uploading` → PUT → one transaction that repoints the
index and condemns the old packs (`libs.catalogdb.deletion.rewriting` says why nothing is lost). A
crash before that leaves an object that the sweep deletes, after it tombstones that the collector
deletes.

Memory: the items of one group of packs, a pack under construction, and the live frames of one old
pack: some 150 MiB, whatever the size of the repository.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from libs.blockmap.tagged import OWN_TAG, bare_id, with_tag
from libs.catalogdb.deletion.mostly_dead import MostlyDead, Weight, find_mostly_dead, weigh
from libs.catalogdb.deletion.rewriting import (
    Moved,
    begin_marking,
    begin_rewrite,
    commit_rewrite,
    end_marking,
    indexed_in,
    next_point,
    renew_marking,
)
from libs.catalogdb.deletion.small_packs import SmallPack, find_small
from libs.catalogdb.packs.location import PackLocation, is_live
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.pool import Catalog
from libs.copies.stores import Copy, Stores
from libs.errors import DamagedDataError, NotFoundError
from libs.ids import new_generation, uuid7
from libs.keys.opening import read_known_pack
from libs.keys.vault import KeyVault
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.packs.pack import PackBuilder
from libs.packs.trailer import Item, ItemKind
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReader, VolumeReaders
from services.catalog.deletion.repacker import PackedFrame, Repacker

log = logging.getLogger(__name__)

#: Packs that are looked at in one statement.
_SCAN_COUNT = 10_000
#: Items of packs that are marked together, about 300 bytes each while they are.
_GROUP_ITEMS_MAX = 200_000
#: Batches of ids, one per map node, between two renewals of the marking.
_BATCHES_PER_RENEWAL = 512
#: Plain frames that are remembered: maps are read in order, so few are enough.
_FRAME_COUNT_MAX = 16


@dataclass(frozen=True, slots=True)
class RewritePolicy:
    """When a pack is worth rewriting."""

    #: Largest share of a pack's bytes that may be live, 0 to 1.
    live_share_max: float
    #: A pack that was found too live, or that could not be moved, is left alone for so long.
    again_seconds: float
    #: A rewriter that is not heard of for so long is taken for dead.
    deadline_seconds: float
    #: Small packs are merged when they are so old.
    merge_young_seconds: float


@dataclass(slots=True)
class RewriteTally:
    """What a pass did."""

    #: Packs that looked mostly dead.
    candidates: int = 0
    #: Small packs that were to be merged.
    small: int = 0
    #: Packs whose live items were moved, and the bytes of those packs.
    rewritten: int = 0
    rewritten_bytes: int = 0
    #: New packs and their bytes.
    written: int = 0
    written_bytes: int = 0
    #: Packs that were given up because a session came to need them meanwhile, or because they were
    #: condemned, and damaged ones.
    given_up: int = 0
    damaged: int = 0


@dataclass(slots=True)
class _Old:
    """A pack that is being marked."""

    pack: PackLocation
    #: All that was stored in it, each id once.
    ids: list[bytes]
    #: What the index finds in it: anything else is stored elsewhere too.
    items: list[Item]
    live: list[Item] = field(default_factory=list)

    @property
    def live_share(self) -> float:
        return sum(item.size_bytes for item in self.live) / max(
            1, sum(item.size_bytes for item in self.items)
        )


class Rewriter:
    """For one thread but for surveys; any number of rewriters may run in other processes.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where packs have copies.
        vault: the domains' keys.
        policy: when a pack is worth it.
    """

    def __init__(
        self, catalog: Catalog, stores: Stores, vault: KeyVault, policy: RewritePolicy
    ) -> None:
        self._catalog = catalog
        self._stores = stores
        self._vault = vault
        self._policy = policy
        frames = FrameReader(stores, vault, _FRAME_COUNT_MAX)
        self._readers = VolumeReaders(catalog, vault, frames, frames, policy.deadline_seconds)
        self._repacker = Repacker(frames, vault)
        self._buffer = bytearray(0)

    def candidates(self) -> Iterator[Mapping[int, int]]:
        """Packs that look mostly dead, with their numbers of items, in groups; writes nothing."""
        first: int | None = 0
        while first is not None:
            found = self._find(first)
            first = found.next_pack_no
            yield from _groups(found.packs)

    def survey(self, first_pack_no: int = 0) -> tuple[MostlyDead, Weight]:
        """What `run` would look at among the next packs; writes nothing. Any thread may call it.

        Whether a pack is rewritten then is up to its marking, which reads block maps for as long as
        it takes and pins what it reads.
        """
        found = self._find(first_pack_no)
        return found, weigh(self._catalog, found.packs)

    def run(
        self,
        stopping: Callable[[], bool] = lambda: False,
        progressed: Callable[[], None] = lambda: None,
        tally: RewriteTally | None = None,
    ) -> RewriteTally:
        """One pass over all packs.

        Args:
            stopping: asked between groups of packs.
            progressed: called now and then, for health checks.
            tally: counted in while the pass goes on; a new one if None.

        Raises:
            NotReconciledError: nothing is moved while the catalog may be older than the store.
            BackcastError: store or catalog fail for longer than retries last.
        """
        tally = tally or RewriteTally()
        for group in self.candidates():
            if stopping():
                break
            tally.candidates += len(group)
            self._rewrite(list(group), tally, progressed)
        for group in self._small_groups():
            if stopping():
                break
            tally.small += len(group)
            self._rewrite(list(group), tally, progressed, merge=True)
        return tally

    def survey_small(self) -> tuple[int, int]:
        """How many small packs `run` would merge now, and their bytes; writes nothing."""
        packs = [one for chosen in self._find_small() for one in chosen.values()]
        return len(packs), sum(one.size_bytes for one in packs)

    def _small_groups(self) -> Iterator[Mapping[int, int]]:
        """Small packs of one domain that are merged together, with their numbers of items."""
        for chosen in self._find_small():
            yield from _groups({pack_no: one.items for pack_no, one in chosen.items()})

    def _find_small(self) -> list[dict[int, SmallPack]]:
        return find_small(self._catalog, self._policy.merge_young_seconds)

    def _find(self, first_pack_no: int) -> MostlyDead:
        share = self._policy.live_share_max
        return find_mostly_dead(self._catalog, first_pack_no, share, _SCAN_COUNT)

    def _rewrite(
        self,
        packs: Sequence[int],
        tally: RewriteTally,
        progressed: Callable[[], None],
        *,
        merge: bool = False,
    ) -> None:
        """Move what is live in mostly dead packs; to merge, in all of them.

        One pack that is left of those that were to be merged is left alone.
        """
        token, policy = uuid7(), self._policy
        live_share_max = 1.0 if merge else policy.live_share_max
        left: list[int] = []
        try:
            marked = begin_marking(self._catalog, token, packs, policy.deadline_seconds)
            for domain_no, locations in marked.items():
                olds = list(self._open(domain_no, locations, tally))
                live = self._mark(token, domain_no, olds, progressed)
                for old in olds:
                    old.live = [item for item in old.items if item.id in live]
                standing = renew_marking(self._catalog, token, policy.deadline_seconds)
                tally.given_up += sum(old.pack.pack_no not in standing for old in olds)
                worth = [
                    old
                    for old in olds
                    if old.pack.pack_no in standing and 0 < old.live_share <= live_share_max
                ]
                if merge and len(worth) < 2:
                    worth = []
                moved = self._move(token, domain_no, worth, tally)
                left += {pack.pack_no for pack in locations} - moved
        finally:
            end_marking(self._catalog, token, left, policy.again_seconds)

    def _open(
        self, domain_no: int, locations: Sequence[PackLocation], tally: RewriteTally
    ) -> Iterator[_Old]:
        """Learn from the trailers what lies in the packs."""
        for pack in locations:
            try:
                items = {item.id: item for item in self._read_items(pack)}
            except (DamagedDataError, NotFoundError) as err:
                self._report(pack, err, tally)
                continue
            here = indexed_in(self._catalog, domain_no, pack.pack_no, list(items))
            yield _Old(pack, list(items), [item for id_, item in items.items() if id_ in here])

    def _read_items(self, pack: PackLocation) -> Sequence[Item]:
        def read(copy: Copy) -> Sequence[Item]:
            return read_known_pack(pack, copy.get_range, self._vault).items

        return self._stores.read(pack, read)

    def _mark(
        self,
        token: UUID,
        domain_no: int,
        olds: Sequence[_Old],
        progressed: Callable[[], None],
    ) -> set[bytes]:
        """Which items the live snapshots need, of whatever tenant: packs of a domain may be shared.

        The first point of a volume is read whole, of the next ones what differs from the one
        before, which stays pinned meanwhile.
        """
        wanted = {item.id for old in olds for item in old.items}
        #: Domain tag → the same as maps name them that have the packs' domain under that tag.
        named = {OWN_TAG: wanted}
        packs = [old.pack.pack_no for old in olds]
        live = set[bytes]()
        before: VolumeReader | None = None
        held = contextlib.ExitStack()
        try:
            volume_no, sequence = 0, 0
            while point := next_point(self._catalog, packs, volume_no, sequence):
                if before and before.point.volume_no != point.volume_no:
                    before = None
                reading = contextlib.ExitStack()
                try:
                    reader = reading.enter_context(self._readers.open(point))
                except NotFoundError:  # it expired since: what is after the one before now?
                    continue
                tag = point.tag_of(domain_no)
                if tag not in named:
                    named[tag] = {with_tag(tag, id_) for id_ in wanted}
                previous, held = held, reading
                with previous:
                    batches = reader.ids_since(before.point if before else None)
                    for number, ids in enumerate(batches):
                        live.update(map(bare_id, named[tag].intersection(ids)))
                        if number % _BATCHES_PER_RENEWAL == 0:
                            renew_marking(self._catalog, token, self._policy.deadline_seconds)
                            progressed()
                before, volume_no, sequence = reader, point.volume_no, point.sequence
        finally:
            held.close()
        return live

    def _move(
        self, token: UUID, domain_no: int, olds: Sequence[_Old], tally: RewriteTally
    ) -> set[int]:
        """Move what is live into new packs; returns the numbers of the packs that are condemned."""
        moved: set[int] = set()
        waiting = self._packed(olds, tally)
        rest: tuple[_Old, list[PackedFrame]] | None = next(waiting, None)
        while rest is not None:
            builder = self._begin(token, domain_no, rest[0].pack)
            together: list[_Old] = []
            while rest is not None and self._repacker.add(builder, rest[1]):
                together.append(rest[0])
                rest = next(waiting, None)
            if not together:  # does not fit even alone
                rest = next(waiting, None)
            elif self._store_pack(token, domain_no, builder, together, tally):
                moved |= {old.pack.pack_no for old in together}
        return moved

    def _packed(
        self, olds: Sequence[_Old], tally: RewriteTally
    ) -> Iterator[tuple[_Old, list[PackedFrame]]]:
        """The live items of each pack, verified, in compressed frames."""
        for old in olds:
            try:
                yield old, list(self._repacker.pack(old.pack, old.live))
            except (DamagedDataError, NotFoundError) as err:
                self._report(old.pack, err, tally)

    def _begin(self, token: UUID, domain_no: int, like: PackLocation) -> PackBuilder:
        generation = new_generation()
        key_id = begin_rewrite(self._catalog, token, domain_no, generation)
        pack_key = self._vault.get(like.domain, key_id).pack_key(generation)
        self._buffer = self._buffer or bytearray(PACK_SIZE_BYTES_MAX)
        return PackBuilder(generation, like.domain, key_id, pack_key, self._buffer)

    def _store_pack(
        self,
        token: UUID,
        domain_no: int,
        builder: PackBuilder,
        olds: Sequence[_Old],
        tally: RewriteTally,
    ) -> bool:
        builder.close()
        body = builder.finish()
        generation = builder.header.generation
        self._stores.copy(generation).put(body)
        record = PackRecord(0, generation, len(body), builder.frame_table())
        items = builder.items
        moved = Moved(
            [item.id for item in items],
            [item.place for item in items],
            sum(item.kind is ItemKind.CHUNK for item in items),
        )
        contents = {old.pack.pack_no: old.ids for old in olds}
        if not commit_rewrite(self._catalog, token, domain_no, record, moved, contents):
            tally.given_up += len(olds)
            return False
        tally.rewritten += len(olds)
        tally.rewritten_bytes += sum(old.pack.size_bytes for old in olds)
        tally.written += 1
        tally.written_bytes += len(body)
        return True

    def _report(self, pack: PackLocation, err: Exception, tally: RewriteTally) -> None:
        """A damaged pack is left as it is: verification tells what it was needed for.

        A marking does not keep a pack from being condemned when its last row goes. Then it is
        nobody's loss that a collector has deleted it.
        """
        if not is_live(self._catalog, pack.generation):
            tally.given_up += 1
            return
        tally.damaged += 1
        log.warning("pack not rewritten", extra={"pack": pack.generation.hex, "detail": str(err)})


def _groups(packs: Mapping[int, int]) -> Iterator[Mapping[int, int]]:
    """Packs in groups of a bounded number of items, one at least."""
    group: dict[int, int] = {}
    for pack_no, items in packs.items():
        if group and sum(group.values()) + items > _GROUP_ITEMS_MAX:
            yield group
            group = {}
        group[pack_no] = items
    if group:
        yield group
