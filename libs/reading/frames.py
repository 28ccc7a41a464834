"""Frames read back from the store, each once: a small cache of plain frames, shared by threads."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable

from libs.catalogdb.packs.location import PackLocation
from libs.copies.stores import Copy, Stores
from libs.errors import DamagedDataError
from libs.keys.vault import KeyVault
from libs.packs.frame import FrameCipher
from libs.packs.layout import split_place
from libs.packs.trailer import FrameEntry, parse_frame_table
from libs.ranges import ByteRange


class Tally:
    """Counts what was fetched from the store for one purpose; cached frames cost nothing.

    Thread-safe.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.stored_bytes = 0
        self._lock = threading.Lock()

    def add(self, stored_bytes: int) -> None:
        """Count one fetched frame."""
        with self._lock:
            self.frames += 1
            self.stored_bytes += stored_bytes


class FrameReader:
    """Fetches, opens and remembers frames. Thread-safe.

    Two threads that want the same frame at once fetch it once.

    Args:
        stores: where packs have copies.
        vault: gives the keys of domains.
        frame_count_max: plain frames that are remembered, up to 1 MiB each.
    """

    def __init__(self, stores: Stores, vault: KeyVault, frame_count_max: int = 32) -> None:
        #: All that was ever fetched.
        self.fetched = Tally()
        self._stores = stores
        self._vault = vault
        self._frame_count_max = frame_count_max
        self._frames: OrderedDict[tuple[int, int], _Fetched] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def frame_count(self) -> int:
        """Plain frames that are remembered now."""
        with self._lock:
            return len(self._frames)

    def frame(self, pack: PackLocation, number: int, tally: Tally | None = None) -> bytes:
        """The plain bytes of a frame; counted in ``tally`` if they had to be fetched.

        Raises:
            NotFoundError: the pack's object is gone (it was moved, or the store lost it).
            DamagedDataError: the bytes are not what was stored.
            WrongKeyError: the keys at hand do not open it.
        """
        key = (pack.pack_no, number)
        with self._lock:
            fetched = self._frames.setdefault(key, _Fetched())
            self._frames.move_to_end(key)
            while len(self._frames) > self._frame_count_max:
                self._frames.popitem(last=False)
        try:
            return fetched.get(lambda: self._fetch(pack, number, tally))
        except BaseException:
            with self._lock:
                self._frames.pop(key, None)
            raise

    def item(self, pack: PackLocation, place: int, tally: Tally | None = None) -> bytes:
        """The plain bytes from this place to the end of its frame; items know their own length."""
        number, position = split_place(place)
        return self.frame(pack, number, tally)[position:]

    def _fetch(self, pack: PackLocation, number: int, tally: Tally | None) -> bytes:
        entry = frame_entry(pack, number)
        wanted = ByteRange.at(entry.offset, entry.stored_size_bytes)
        keys = self._vault.get(pack.domain, pack.key_id)
        cipher = FrameCipher(pack.generation, keys.pack_key(pack.generation))

        def fetch(copy: Copy) -> bytes:
            sealed = copy.get_range(wanted)
            for counted in (self.fetched, tally):
                if counted:
                    counted.add(len(sealed))
            return cipher.open(number, sealed, entry.plain_size_bytes)

        return self._stores.read(pack, fetch)


def frame_entry(pack: PackLocation, number: int) -> FrameEntry:
    """Where a frame lies in its pack's object.

    Raises:
        DamagedDataError: the catalog's frame table has no such frame.
    """
    frames = _frame_table(pack.frames)
    if number >= len(frames):
        raise DamagedDataError(
            f"pack {pack.generation.hex}: the catalog knows {len(frames)} frames, "
            f"not number {number}"
        )
    return frames[number]


@functools.lru_cache(maxsize=256)
def _frame_table(column: bytes) -> tuple[FrameEntry, ...]:
    """A plan asks for every frame of a pack, one by one, and parsing a table takes 0.2 ms."""
    return parse_frame_table(column)


class _Fetched:
    """One frame that is fetched by the first who asks; the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plain: bytes | None = None

    def get(self, fetch: Callable[[], bytes]) -> bytes:
        with self._lock:
            if self._plain is None:
                self._plain = fetch()
            return self._plain
