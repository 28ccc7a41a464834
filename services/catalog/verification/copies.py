"""Checking all copies of a pack: what is damaged in each, and what in all of them.

An item is lost only if no copy has it intact; then the rules of damage apply to the pack
(`libs.catalogdb.packs.damage`). A damaged copy of a pack that has an intact one is made anew from
it: the same bytes under the same key (scenario 13).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from libs.catalogdb.packs.copies import CopyState, mark_checked, mark_copy_damaged
from libs.catalogdb.packs.damage import WHOLE_PACK
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.pool import Catalog
from libs.copies.stores import STORE_NAMES, Stores
from libs.errors import BackcastError, UnavailableError
from libs.events.fields import VerificationLevel
from libs.keys.vault import KeyVault
from libs.packs.trailer import Item
from libs.runtime.retries import tried_again
from services.catalog.copies.maker import CopyMaker
from services.catalog.verification.packs import PackFindings, check_copy

log = logging.getLogger(__name__)

#: The only copy of a pack is asked for again; of several copies the next one is asked for.
_check_only_copy = tried_again()(check_copy)


@dataclass(slots=True)
class CopiesFindings:
    """What a check of a pack's copies found."""

    #: Items, or `WHOLE_PACK`, that no copy has intact, and what is wrong with them.
    damaged: dict[bytes, str] = field(default_factory=dict)
    #: Items that were read from some copy and are what they must be.
    intact: list[bytes] = field(default_factory=list)
    #: What lies in the pack, by the account of a copy; empty if none describes itself.
    items: tuple[Item, ...] = ()
    frames: int = 0
    fetched_bytes: int = 0
    #: Stores whose copies are as they must be, and whether every byte of them was read.
    intact_copies: dict[int, bool] = field(default_factory=dict)
    #: Copies that are damaged while another one is intact, and those of them that were mended.
    copies_damaged: int = 0
    copies_repaired: int = 0


class CopiesCheck:
    """Checks packs, copy by copy. Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where packs have copies.
        vault: gives the keys of domains.
    """

    def __init__(self, catalog: Catalog, stores: Stores, vault: KeyVault) -> None:
        self._catalog = catalog
        self._stores = stores
        self._vault = vault
        self._maker = CopyMaker(catalog, stores, vault)

    def check(
        self,
        pack: PackLocation,
        states: Sequence[CopyState],
        level: VerificationLevel,
        sample: float,
    ) -> CopiesFindings:
        """Check every copy of a pinned pack that this process reaches, and mend what can be.

        Args:
            pack: the pack.
            states: its copies, as the catalog knows them.
            level: how much to look at. Where something is damaged and there are several copies,
                all of each is read: only then is it known which copy has what intact.
            sample: share of its frames that level "sampled" reads.

        Raises:
            WrongKeyError: the keys at hand are not those of the domain.
            UnavailableError: a store that may have an intact copy does not answer.
        """
        reached = [state for state in states if state.store_no in self._stores.by_number]
        if not states:
            return CopiesFindings(damaged={WHOLE_PACK: "no store has a copy of it"})
        if not reached:
            raise UnavailableError(
                f"pack {pack.generation.hex}: only stores that this process is not configured for "
                f"have a copy of it"
            )
        in_full = level == "full" or (len(reached) > 1 and any(s.is_damaged for s in reached))
        found, silent = self._each(pack, reached, "full" if in_full else level, sample)
        if len(reached) > 1 and not in_full and any(one.damaged for one in found.values()):
            in_full = True
            found, silent = self._each(pack, reached, "full", 1.0)
        if silent and (not found or any(one.damaged for one in found.values())):
            raise silent
        merged = _merged(found, in_full=in_full)
        if len(reached) > 1:
            self._note_damage(pack, found, merged)
        return merged

    def record_intact(self, pack: PackLocation, found: CopiesFindings) -> None:
        """Record which copies were found to be as they must be."""
        for store_no, in_full in found.intact_copies.items():
            mark_checked(self._catalog, pack.pack_no, store_no, in_full=in_full)

    def _each(
        self,
        pack: PackLocation,
        states: Sequence[CopyState],
        level: VerificationLevel,
        sample: float,
    ) -> tuple[dict[int, PackFindings], UnavailableError | None]:
        """What was found in each copy, and why one could not be looked at."""
        found: dict[int, PackFindings] = {}
        silent: UnavailableError | None = None
        for state in states:
            try:
                found[state.store_no] = self._one(pack, state.store_no, level, sample)
            except UnavailableError as err:
                self._stores.avoid(state.store_no)
                silent = err
        return found, silent

    def _one(
        self, pack: PackLocation, store_no: int, level: VerificationLevel, sample: float
    ) -> PackFindings:
        def check() -> PackFindings:
            if len(pack.copies) == 1:
                copy = self._stores.copy(pack.generation, store_no)
                return _check_only_copy(copy, self._vault, pack, level, sample)
            copy = self._stores.eager_copy(pack.generation, store_no)
            return check_copy(copy, self._vault, pack, level, sample)

        found = check()
        # A second look: what the network damaged is not damaged in the store.
        return check() if found.damaged else found

    def _note_damage(
        self, pack: PackLocation, found: dict[int, PackFindings], merged: CopiesFindings
    ) -> None:
        for store_no, one in found.items():
            if not one.damaged:
                continue
            reason = next(iter(one.damaged.values()))
            mark_copy_damaged(self._catalog, pack.generation, store_no, reason)
            if not merged.intact_copies:
                continue
            merged.copies_damaged += 1
            where = {"pack": pack.generation.hex, "store": STORE_NAMES[store_no]}
            log.warning("copy damaged", extra=where | {"detail": reason})
            try:
                merged.copies_repaired += self._maker.make(pack, store_no)
            except BackcastError as err:  # whoever makes copies tries again
                log.warning("copy not made anew", extra=where | {"detail": str(err)})


def _merged(found: dict[int, PackFindings], *, in_full: bool) -> CopiesFindings:
    """What holds for the pack, whichever of its copies is read."""
    described = [one for one in found.values() if WHOLE_PACK not in one.damaged]
    merged = CopiesFindings(
        frames=sum(one.frames for one in found.values()),
        fetched_bytes=sum(one.fetched_bytes for one in found.values()),
        intact_copies={store_no: in_full for store_no, one in found.items() if not one.damaged},
    )
    if not described:
        merged.damaged = dict(next(iter(found.values())).damaged)
        return merged
    merged.items = described[0].items
    merged.damaged = {
        item: reason
        for item, reason in described[0].damaged.items()
        if all(item in one.damaged for one in described)
    }
    intact = dict.fromkeys(id_ for one in described for id_ in one.intact)
    merged.intact = [id_ for id_ in intact if id_ not in merged.damaged]
    return merged
