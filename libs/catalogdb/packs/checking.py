"""Where items lie, for who verifies: what is missing is told, and is no error."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.packs.index import Domains, find_damaged, find_items, pin_packs
from libs.catalogdb.packs.location import PackLocation, locate_packs
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_whole
from libs.catalogdb.snapshots.leases import renew_lease


@dataclass(frozen=True, slots=True)
class CheckedItems:
    """Where items lie; their packs are pinned."""

    #: For each id the number of its live pack and its place; None: the catalog has lost it.
    places: list[tuple[int, int] | None]
    #: Positions of those that are known to be damaged.
    damaged: set[int]
    packs: dict[int, PackLocation]


@idempotent
def locate_checked(
    catalog: Catalog, lease: UUID, domains: Domains, ids: Sequence[bytes], deadline_seconds: float
) -> CheckedItems:
    """Find where items lie and pin their packs, as `leases.resolve`, but tell what is missing.

    Raises:
        NotFoundError: the lease is closed or its deadline has passed.
        NotReconciledError: something is missing that the catalog may not have from the store yet.
    """
    with catalog.transaction() as tx:
        renew_lease(tx, lease, deadline_seconds)
        is_whole = False
        while True:
            found = find_items(tx, domains, ids)
            wanted = {pack_no for pack_no, _ in found.values()}
            live = pin_packs(tx, lease, wanted)
            again = find_items(tx, domains, ids) if live != wanted else found
            if again != found:  # a rewrite has moved items between our look and our pin
                continue
            if is_whole or (len(found) == len(ids) and live == wanted):
                break
            require_whole(tx)
            is_whole = True
        damaged = find_damaged(tx, domains, ids)
        packs = locate_packs(tx, live)
    places = [found[n] if n in found and found[n][0] in live else None for n in range(len(ids))]
    return CheckedItems(places, set(damaged), packs)
