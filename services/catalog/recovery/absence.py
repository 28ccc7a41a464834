"""Compares the packs of the catalog with the objects of the store; nothing rests on one answer.

A pack that a listing does not show is asked for by itself. If it is there, the listing was not
whole, and what it left out besides is not known: that is an error, and everything begins anew. If
the store says twice, apart in time, that it has no such object, the pack is gone; if too many are,
a person must look first (`libs.catalogdb.deletion.brake`). What is in the store and not in the
catalog is registered from its trailer. The whole store is listed until a listing shows nothing new,
because what is not registered will be swept as an orphan.
"""

from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from uuid import UUID

from libs.catalogdb.deletion.suspects import (
    bury_missing,
    clear_missing,
    count_missing,
    hold_back_missing,
    note_missing,
)
from libs.catalogdb.packs.copies import know_store, note_listed
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.references import packs_between
from libs.copies.stores import Stores
from libs.errors import HaltedError, UnavailableError
from libs.store.layout import PACKS_PREFIX, parse_pack_object

#: Trailers that are read, and objects that are asked for, at once.
_THREADS = 8
#: Packs arrive late, from chunkers that do not know yet; a store that shows new ones for ever does
#: not answer with what it has.
_PASSES_MAX = 10


class PackComparison:
    """For one run of a recovery. In memory are the names of a 256th of all packs.

    Args:
        catalog: what may have forgotten some packs, and knows others that are gone.
        stores: where the objects lie; a pack is there if one of them has it.
        register: makes a pack, given by generation, store and size, live as its trailer says;
            whether it could.
        apart_seconds: time between the two looks at an object that is missing.
        wait: waits so long, or until the process is to stop.
    """

    def __init__(
        self,
        catalog: Catalog,
        stores: Stores,
        register: Callable[[tuple[UUID, int, int]], bool],
        apart_seconds: float,
        wait: Callable[[float], object],
    ) -> None:
        #: Packs that were registered.
        self.found = 0
        #: Packs that are missing and not written down, in this pass.
        self._beyond = 0
        self._catalog = catalog
        self._stores = stores
        self._register = register
        self._apart_seconds = apart_seconds
        self._wait = wait

    def run(self, *, once: bool) -> int:
        """Register what is unknown, and bury what is gone; how many live packs were.

        Args:
            once: list the store once: for a catalog that knows no packs, while others put some.

        Raises:
            HaltedError: too much is gone; a person must look. Nothing was buried.
            UnavailableError: the store does not answer, or not with what it has.
        """
        with ThreadPoolExecutor(_THREADS, "trailers") as threads:
            self._pass(threads)
            if once:
                return 0
            for _ in range(_PASSES_MAX):
                if self._unconfirmed():
                    self._wait(self._apart_seconds)
                if self._pass(threads) == 0 and not self._unconfirmed():
                    break
            else:
                raise UnavailableError(
                    f"packs in the store: expected that a listing shows nothing new, and that what "
                    f"is gone stays so; {_PASSES_MAX} in a row did not"
                )
        if hold_back_missing(self._catalog):
            raise HaltedError(
                "catalog: too many live packs are gone from the store: none of them is given up; "
                "`backcast gc --dry-run` says which, and how to accept it"
            )
        buried = bury_missing(self._catalog)
        if self._beyond:
            raise UnavailableError(
                f"packs in the store: {self._beyond} more are missing than were looked at; again"
            )
        return buried

    def _unconfirmed(self) -> int:
        return count_missing(self._catalog)[1]

    def _pass(self, threads: Executor) -> int:
        """Compare folder by folder; how many packs were registered."""
        registered = self._beyond = 0
        any_missing = count_missing(self._catalog)[0] > 0
        for store_no in self._stores.by_number:
            know_store(self._catalog, store_no)
        for folder in range(256):
            prefix = f"{PACKS_PREFIX}{folder:02x}/"
            listed = {
                store_no: {
                    parse_pack_object(stat.key): stat.size_bytes for stat in store.list(prefix)
                }
                for store_no, store in self._stores.by_number.items()
            }
            stored = {
                name: (store_no, size)
                for store_no in sorted(listed, reverse=True)
                for name, size in listed[store_no].items()
            }
            first = UUID(bytes=bytes([folder]) + bytes(15))
            last = UUID(bytes=bytes([folder]) + b"\xff" * 15)
            known = packs_between(self._catalog, first, last)
            if not known and not stored:
                continue  # nobody adds packs to a catalog that is being reconciled
            if any_missing:
                clear_missing(self._catalog, stored.keys() & known.keys())
            self._look(
                threads,
                prefix,
                [name for name, state in known.items() if state != "d" and name not in stored],
            )
            unknown = [
                (name, *where) for name, where in stored.items() if known.get(name, "u") == "u"
            ]
            registered += sum(threads.map(self._register, unknown))
            for store_no, objects in listed.items():
                note_listed(self._catalog, store_no, first, last, objects)
        self.found += registered
        return registered

    def _look(self, threads: Executor, prefix: str, unlisted: Collection[UUID]) -> None:
        """Ask for each pack that was not listed."""
        if not unlisted:
            return
        answers = threads.map(self._is_there, unlisted)
        there = [name for name, found in zip(unlisted, answers, strict=True) if found]
        clear_missing(self._catalog, there)
        if there:
            key = self._stores.copy(there[0]).key
            raise UnavailableError(
                f"LIST {prefix}: expected all objects that there are; it leaves out {len(there)}, "
                f"among them {key}, which HEAD shows; nothing is concluded"
            )
        noted = note_missing(self._catalog, unlisted, self._apart_seconds)
        self._beyond += len(unlisted) - noted

    def _is_there(self, generation: UUID) -> bool:
        """Whether some store has the pack's object, each asked by itself."""
        return any(
            self._stores.copy(generation, store_no).stat() for store_no in self._stores.by_number
        )
