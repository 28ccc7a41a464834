"""The stores of a repository, and the packs in them: the only place that spells a pack's key.

A pack has a copy at one or more stores, always under the same key. Its object is immutable and
authenticates itself: its frames and its trailer open only under the key of its generation, each at
its own place. So bytes that open are the pack's, whichever store gave them.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from libs.copies.fallback import FallbackStore
from libs.errors import (
    BackcastError,
    DamagedDataError,
    NotFoundError,
    UnavailableError,
    WrongKeyError,
)
from libs.ranges import ByteRange
from libs.store.layout import pack_object
from libs.store.port import Body, ObjectStat, ObjectStore, Presigner

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Number of the store that everything is written to first. The catalog counts stores so, too.
PRIMARY = 1
#: Number of the store that gets a copy of everything.
SECOND = 2
#: What people call them.
STORE_NAMES: Mapping[int, str] = {PRIMARY: "primary", SECOND: "second"}

#: A store that did not answer is asked last for so long.
_AVOIDED_SECONDS = 15.0


class StoredPack(Protocol):
    """A pack and where it is."""

    @property
    def generation(self) -> UUID:
        """The pack's name."""
        ...

    @property
    def copies(self) -> Sequence[int]:
        """Numbers of the stores that have it, in the order in which they are to be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A pack's bytes at one store."""

    store_no: int
    key: str
    store: ObjectStore

    def get_range(self, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        return self.store.get_range(self.key, wanted)

    def get(self) -> bytes:
        """See `ObjectStore.get`."""
        return self.store.get(self.key)

    def stat(self) -> ObjectStat | None:
        """See `ObjectStore.stat`."""
        return self.store.stat(self.key)

    def put(self, body: Body) -> None:
        """See `ObjectStore.put`."""
        self.store.put(self.key, body)

    def delete(self) -> None:
        """See `ObjectStore.delete`."""
        self.store.delete(self.key)


class Stores:
    """The stores that this process can reach. Thread-safe.

    Args:
        primary: where everything is written first.
        second: gets a copy of everything; None if there is one store only.
        eager: the same stores by their numbers, without retries: where a pack has another copy,
            that one is asked before the first one is tried again. Those above if None.
        report: told generation, store and reason when a copy is damaged or gone and another one is
            intact. If it fails, whoever reads next tells again.
    """

    def __init__(
        self,
        primary: ObjectStore,
        second: ObjectStore | None = None,
        *,
        eager: Mapping[int, ObjectStore] | None = None,
        report: Callable[[UUID, int, str], object] | None = None,
    ) -> None:
        self.by_number: dict[int, ObjectStore] = {PRIMARY: primary}
        if second is not None:
            self.by_number[SECOND] = second
        #: Objects that are no packs: written to the primary, read from whichever store has them.
        self.objects: ObjectStore = primary if second is None else FallbackStore(primary, second)
        self._eager = dict(self.by_number if eager is None else eager)
        self._report = report
        self._avoided_until: dict[int, float] = {}
        self._lock = threading.Lock()

    def copy(self, generation: UUID, store_no: int = PRIMARY) -> Copy:
        """A pack's copy at one store, whether it exists or not."""
        return Copy(store_no, pack_object(generation), self.by_number[store_no])

    def eager_copy(self, generation: UUID, store_no: int) -> Copy:
        """The same without retries, for who can ask another store.

        Raises:
            UnavailableError: the store did not answer a moment ago.
        """
        if self._is_avoided(store_no):
            raise UnavailableError(f"store {STORE_NAMES[store_no]}: did not answer a moment ago")
        return Copy(store_no, pack_object(generation), self._eager[store_no])

    def avoid(self, store_no: int) -> None:
        """Ask other stores first for a while: this one did not answer."""
        with self._lock:
            self._avoided_until[store_no] = time.monotonic() + _AVOIDED_SECONDS

    def read(self, pack: StoredPack, work: Callable[[Copy], T]) -> T:
        """Do some reading on one of a pack's copies: the first one that is there and intact.

        Args:
            pack: the pack; somebody keeps it from being deleted.
            work: reads, and raises `DamagedDataError` or `NotFoundError` if the bytes are not what
                they must be. It may be called for several copies, and twice for one.

        Raises:
            NotFoundError: no copy exists.
            DamagedDataError: none that exists is intact.
            UnavailableError: one that might be intact does not answer.
        """
        copies = self._in_order(pack)
        if len(copies) == 1:
            return work(self.copy(pack.generation, copies[0]))
        failed: dict[int, DamagedDataError | NotFoundError] = {}
        unavailable: list[int] = []
        for store_no in copies:
            try:
                done = work(Copy(store_no, pack_object(pack.generation), self._eager[store_no]))
            except WrongKeyError:
                raise
            except (DamagedDataError, NotFoundError) as err:
                failed[store_no] = err
            except UnavailableError as err:
                log.info("copy not read", extra={"store": store_no, "detail": str(err)})
                self.avoid(store_no)
                unavailable.append(store_no)
            else:
                self._confirm(pack, failed, work)
                return done
        for store_no in unavailable:  # nothing else is left: now it is waited for
            try:
                return work(self.copy(pack.generation, store_no))
            except (DamagedDataError, NotFoundError) as err:
                failed[store_no] = err
        raise _worst(pack, failed)

    def _in_order(self, pack: StoredPack) -> list[int]:
        """Copies that this process can reach; those of stores that did not answer come last."""
        known = [store_no for store_no in pack.copies if store_no in self.by_number]
        known.sort(key=self._is_avoided)
        if not known:
            raise _unreached(pack, "this process is configured for")
        return known

    def _is_avoided(self, store_no: int) -> bool:
        with self._lock:
            return self._avoided_until.get(store_no, 0.0) > time.monotonic()

    def _confirm(
        self,
        pack: StoredPack,
        failed: Mapping[int, DamagedDataError | NotFoundError],
        work: Callable[[Copy], T],
    ) -> None:
        """Look at failed copies once more, and report those that fail again.

        What was damaged on its way from the store is not damaged there.
        """
        if self._report is None:
            return
        for store_no in failed:
            try:
                work(Copy(store_no, pack_object(pack.generation), self._eager[store_no]))
            except (DamagedDataError, NotFoundError) as err:
                with contextlib.suppress(BackcastError):
                    self._report(pack.generation, store_no, str(err))
            except UnavailableError:
                continue


def object_key(pack: StoredPack) -> str:
    """Key of a pack's object, in whichever store."""
    return pack_object(pack.generation)


def presigned_urls(
    presigners: Mapping[int, Presigner], pack: StoredPack, expires_seconds: int
) -> list[str]:
    """URLs that read a pack, one for each copy at a store that clients reach.

    Raises:
        NotFoundError: no store has a copy.
        UnavailableError: stores that clients do not reach have one.
    """
    key = pack_object(pack.generation)
    urls = [
        presigners[store_no].presign_get(key, expires_seconds)
        for store_no in pack.copies
        if store_no in presigners
    ]
    if not urls:
        raise _unreached(pack, "clients reach")
    return urls


def _unreached(pack: StoredPack, whom: str) -> NotFoundError | UnavailableError:
    """Why there is no copy to read; one that others can reach is not lost."""
    if not pack.copies:
        return NotFoundError(f"pack {pack.generation.hex}: no store has a copy of it any more")
    names = " and ".join(STORE_NAMES.get(number, str(number)) for number in pack.copies)
    return UnavailableError(
        f"pack {pack.generation.hex}: its copies are at store {names}, which is none that {whom}"
    )


def _worst(
    pack: StoredPack, failed: Mapping[int, DamagedDataError | NotFoundError]
) -> DamagedDataError | NotFoundError:
    """What to say of a pack none of whose copies could be used."""
    damaged = [err for err in failed.values() if isinstance(err, DamagedDataError)]
    if damaged:
        return damaged[0]
    reasons = "; ".join(str(err) for err in failed.values())
    return NotFoundError(f"pack {pack.generation.hex}: all of its copies are gone: {reasons}")
