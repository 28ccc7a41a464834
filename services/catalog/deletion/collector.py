"""The collector: condemns packs that nothing needs, and deletes them and expired manifests.

`libs.catalogdb.deletion.condemning` has the order of a pack's end and what a crash after each step
leaves.
Memory: a batch of packs and the trailers of those that are deleted at the same time, some 30 MiB,
whatever the size of the repository.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal
from uuid import UUID

from libs.catalogdb.deletion.condemning import (
    condemn_unused,
    leftover_manifests,
    list_unused,
    record_manifests_deleted,
)
from libs.catalogdb.deletion.suspects import hold_back_unclaimed
from libs.catalogdb.deletion.tombstones import (
    Tombstone,
    bury,
    claim_tombstones,
    forget_all_items,
    forget_items,
    is_condemned,
)
from libs.catalogdb.pool import Catalog
from libs.copies.stores import PRIMARY, SECOND, STORE_NAMES, Copy, Stores
from libs.errors import (
    BackcastError,
    BadInputError,
    DamagedDataError,
    NotFoundError,
    UnavailableError,
)
from libs.keys.opening import read_known_pack
from libs.keys.vault import KeyVault
from libs.packs.layout import PACK_HEADER
from libs.packs.trailer import PackHeader, PackIndex
from libs.ranges import ByteRange
from services.catalog.deletion.passes import Freed, Stage

log = logging.getLogger(__name__)

#: Candidates that are looked at in one transaction. Pins of the packs among them that nothing needs
#: wait for it, a few milliseconds.
_CANDIDATE_COUNT = 500
#: Packs or manifests that are deleted in one step, and at the same time: a store answers a DELETE
#: in milliseconds.
_DELETE_COUNT, _THREAD_COUNT = 64, 4
#: Packs that are looked at in one statement where all are.
_LISTED_COUNT = 20_000
#: The end of a pack that is fetched at once; nearly every trailer fits.
_TAIL_SIZE_BYTES = 128 << 10
#: Names are parts of cursors.
_STAGE_OF_STORE = {PRIMARY: "delete", SECOND: "delete-second"}

#: What became of a tombstone that was claimed; one that failed is tried again.
_End = Literal["deleted", "nothing to do", "failed"]


class Collector:
    """The stages of collection that delete packs and manifests. Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where the objects lie.
        vault: opens trailers, which say what lies in a pack.
        tombstone_deadline_seconds: for how long this collector has a tombstone for itself.
        witness: returns when the primary store knows every decision that was made before the call.
            Nothing is deleted there before: a catalog that fell back, or was rebuilt from this
            store alone, would need it again.
        other_witnesses: the same of the other stores, by their numbers.
    """

    def __init__(  # noqa: PLR0913 -- a collector's surroundings
        self,
        catalog: Catalog,
        stores: Stores,
        vault: KeyVault,
        tombstone_deadline_seconds: float,
        witness: Callable[[], None],
        other_witnesses: Mapping[int, Callable[[], None]] | None = None,
    ) -> None:
        self._catalog = catalog
        self._stores = stores
        self._vault = vault
        self._tombstone_deadline_seconds = tombstone_deadline_seconds
        self._witnesses = {PRIMARY: witness, **(other_witnesses or {})}

    def stages(self) -> dict[str, Stage]:
        """What a pass does, in order, by name."""
        deleting = {
            _STAGE_OF_STORE[store_no]: functools.partial(self._delete, store_no)
            for store_no in sorted(self._stores.by_number.keys() & self._witnesses.keys())
        }
        return {"condemn": self._condemn, **deleting, "manifests": self._manifests}

    def list_unused(self, progressed: Callable[[], None]) -> None:
        """Make candidates of unused packs that nobody knows of, by looking at all packs."""
        after: int | None = 0
        while after is not None:
            after = list_unused(self._catalog, after, _LISTED_COUNT)
            progressed()

    def _condemn(self, position: str) -> tuple[Freed, str | None]:
        if not position and hold_back_unclaimed(self._catalog):
            log.warning("too many packs are used by no snapshot: they are held back")
        condemned = condemn_unused(self._catalog, _number(position), _CANDIDATE_COUNT)
        after = None if condemned.after is None else str(condemned.after)
        return Freed(packs_condemned=condemned.packs), after

    def _delete(self, store_no: int, position: str) -> tuple[Freed, str | None]:
        claimed = claim_tombstones(
            self._catalog,
            store_no,
            _number(position),
            _DELETE_COUNT,
            self._tombstone_deadline_seconds,
        )
        if not claimed:
            return Freed(), None
        try:
            self._witnesses[store_no]()
        except UnavailableError as err:
            if store_no == PRIMARY:
                raise
            # One that is away keeps its tombstones, and holds nothing else back.
            log.warning("store is away", extra={"store": STORE_NAMES[store_no], "detail": str(err)})
            return Freed(failures=len(claimed)), None
        with ThreadPoolExecutor(_THREAD_COUNT, "collect") as threads:
            ends = list(threads.map(self._delete_pack, claimed))
        deleted = [dead for dead, end in zip(claimed, ends, strict=True) if end == "deleted"]
        bury(self._catalog, store_no, [dead.generation for dead in deleted])
        freed = Freed(
            packs_deleted=len(deleted),
            freed_bytes=sum(dead.size_bytes for dead in deleted),
            failures=ends.count("failed"),
        )
        return freed, str(claimed[-1].pack_no)

    def _delete_pack(self, dead: Tombstone) -> _End:
        """Forget its items, then delete its object."""
        try:
            if not (is_condemned(self._catalog, dead) if dead.forgotten else self._forget(dead)):
                # Another collector has buried it since the claim, or the catalog went back in time.
                log.info("pack is not condemned", extra={"pack": dead.generation.hex})
                return "nothing to do"
            self._stores.copy(dead.generation, dead.store_no).delete()
        except BackcastError as err:  # one that resists keeps no other from being deleted
            log.warning("pack not deleted", extra={"pack": dead.generation.hex, "detail": str(err)})
            return "failed"
        return "deleted"

    def _forget(self, dead: Tombstone) -> bool:
        try:
            ids = self._items(dead)
        except (DamagedDataError, NotFoundError) as err:
            log.warning(
                "pack does not say what is in it; reading the whole index for it",
                extra={"pack": dead.generation.hex, "detail": str(err)},
            )
            return forget_all_items(self._catalog, dead)
        return forget_items(self._catalog, dead, ids)

    def _items(self, dead: Tombstone) -> list[bytes]:
        """Ids of all that lies in a pack, by one request."""
        header = PackHeader(dead.domain, dead.generation, dead.key_id)
        tail = ByteRange(max(0, dead.size_bytes - _TAIL_SIZE_BYTES), dead.size_bytes)

        def read_index(copy: Copy) -> PackIndex:
            content = memoryview(copy.get_range(tail))

            def read(wanted: ByteRange) -> bytes:
                if wanted == ByteRange(0, PACK_HEADER.size):  # the trailer is sealed with it
                    return header.encode()
                if wanted.start >= tail.start:
                    return bytes(content[wanted.start - tail.start : wanted.end - tail.start])
                return copy.get_range(wanted)

            return read_known_pack(dead, read, self._vault)

        return [item.id for item in self._stores.read(dead, read_index).items]

    def _manifests(self, position: str) -> tuple[Freed, str | None]:
        after = UUID(int=_number(position, 2**128 - 1))
        leftovers = leftover_manifests(self._catalog, after, _DELETE_COUNT)
        if not leftovers:
            return Freed(), None
        self._witnesses[PRIMARY]()
        deleted = []
        for session, key in leftovers:
            try:
                self._stores.objects.delete(key)
            except BackcastError as err:
                log.warning("manifest not deleted", extra={"key": key, "detail": str(err)})
            else:
                deleted.append(session)
        record_manifests_deleted(self._catalog, deleted)
        freed = Freed(manifests_deleted=len(deleted), failures=len(leftovers) - len(deleted))
        return freed, str(leftovers[-1][0].int)


def _number(position: str, highest: int = 2**31 - 1) -> int:
    if not position:
        return 0
    if not position.isdecimal() or len(position) > len(str(highest)) or int(position) > highest:
        raise BadInputError(f"cursor {position[:40]!r}: expected what the step before answered")
    return int(position)
