"""Making a copy of a pack at a store, from a copy that is intact.

Order: what the store has of it already is enough if it is intact; else the source is read whole and
every byte of it verified → PUT under the same key → the new object is looked at as a verification
looks at it → `record_replicated`, which requires that the pack is live. A crash before the last
step leaves an object that the next try finds, or writes once more: a key is only ever written with
the pack's own bytes (scenario 13).

A pack that was condemned meanwhile gets no copy, and whatever goes wrong with it is no error. A
collector may delete its objects at any of these steps, also the one that was just written. If the
PUT comes before that DELETE, the tombstone of this store takes the object away. If it comes after
it, the object is of a generation that is dead for ever, and the sweep of this store deletes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.packs.location import PackLocation, is_live
from libs.catalogdb.pool import Catalog
from libs.catalogdb.stores import record_replicated
from libs.copies.stores import STORE_NAMES, Copy, Stores
from libs.errors import DamagedDataError, NotFoundError, UnavailableError
from libs.keys.vault import KeyVault
from services.catalog.verification.packs import check_copy, read_intact


@dataclass(frozen=True, slots=True)
class _Sources:
    """The copies of a pack that one at some store may be made from."""

    generation: UUID
    copies: Sequence[int]


class CopyMaker:
    """Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where packs have copies.
        vault: gives the keys of domains.
    """

    def __init__(self, catalog: Catalog, stores: Stores, vault: KeyVault) -> None:
        self._catalog = catalog
        self._stores = stores
        self._vault = vault

    def make(self, pack: PackLocation, store_no: int) -> bool:
        """Make a copy and record it; False: the pack is no longer live.

        Raises:
            DamagedDataError, NotFoundError: no other copy is intact.
            UnavailableError: a store does not answer, or wrote other bytes.
        """
        if self.write(pack, store_no) is None:
            return False
        return bool(record_replicated(self._catalog, store_no, [pack.pack_no], None))

    def write(self, pack: PackLocation, store_no: int) -> int | None:
        """Write the object of a copy that the caller records.

        Returns:
            Its size in bytes. None: the pack is no longer live, and there may be no object.

        Raises:
            DamagedDataError, NotFoundError, UnavailableError: as `make`, of a pack that is live.
        """
        try:
            return self._write(pack, store_no)
        except (DamagedDataError, NotFoundError, UnavailableError):
            if is_live(self._catalog, pack.generation):
                raise
            return None

    def _write(self, pack: PackLocation, store_no: int) -> int:
        copy = self._stores.copy(pack.generation, store_no)
        if self._is_there(copy, pack):
            return pack.size_bytes
        others = [other for other in pack.copies if other != store_no]

        def read(source: Copy) -> memoryview:
            return read_intact(source, self._vault, pack)

        body = self._stores.read(_Sources(pack.generation, others), read)
        copy.put(body)
        for reason in check_copy(copy, self._vault, pack, "structural", 0.0).damaged.values():
            raise UnavailableError(
                f"pack {pack.generation.hex}: store {STORE_NAMES[store_no]} took it and gives "
                f"other bytes: {reason}"
            )
        return len(body)

    def _is_there(self, copy: Copy, pack: PackLocation) -> bool:
        """Whether the store has it already: it was written before a crash, or has come back."""
        if copy.stat() is None:
            return False
        try:
            read_intact(copy, self._vault, pack)
        except (DamagedDataError, NotFoundError):
            return False
        return True
