"""Frames read back from a store: each once, whoever asks, and never wrong ones."""

import threading
from uuid import UUID

import pytest

from libs.catalogdb.packs.location import PackLocation
from libs.copies.stores import Stores
from libs.errors import DamagedDataError, NotFoundError, UnavailableError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys
from libs.keys.vault import KeyVault
from libs.packs.frame import compress
from libs.packs.layout import CHUNK_SIZE_BYTES, PACK_SIZE_BYTES_MAX, place_of
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import ItemKind
from libs.ranges import ByteRange
from libs.reading.frames import FrameReader, Tally
from libs.store.layout import pack_object
from libs.store.memory import MemoryStore

GENERATION, DOMAIN, KEY_ID = UUID(int=1), UUID(int=2), UUID(int=3)
KEYS = DomainKeys(DOMAIN, KEY_ID, b"i" * 32, b"d" * 32)
FRAMES = [bytes([number + 1]) * (2 * CHUNK_SIZE_BYTES) for number in range(3)]


class CountingStore(MemoryStore):
    """Counts ranged reads; may be told to fail the next one, or to hold it up."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.fails = 0
        self.held = threading.Event()
        self.held.set()

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        self.reads += 1
        assert self.held.wait(10)
        if self.fails:
            self.fails -= 1
            raise UnavailableError("object store: down")
        return super().get_range(key, wanted)


@pytest.fixture
def store() -> CountingStore:
    store = CountingStore()
    KeyVault(store, KeyEncryptionKey(b"k" * 32)).put(KEYS)
    return store


@pytest.fixture
def pack(store: CountingStore) -> PackLocation:
    """A pack of three frames in the store, as the catalog knows it."""
    buffer = bytearray(PACK_SIZE_BYTES_MAX)
    builder = PackBuilder(GENERATION, DOMAIN, KEY_ID, KEYS.pack_key(GENERATION), memoryview(buffer))
    for number, plain in enumerate(FRAMES):
        frame = compress(memoryview(plain))
        item = FrameItem(ItemKind.CHUNK, bytes([number]) * 32, 0, CHUNK_SIZE_BYTES)
        slot = builder.reserve(frame, [item])
        assert slot is not None
        assert not builder.fill(slot, frame)
    assert builder.close()
    body = builder.finish()
    store.put(pack_object(GENERATION), body)
    return PackLocation(7, GENERATION, DOMAIN, KEY_ID, len(body), builder.frame_table())


def reader_of(store: CountingStore, frame_count_max: int = 32, kek: bytes = b"k") -> FrameReader:
    return FrameReader(Stores(store), KeyVault(store, KeyEncryptionKey(kek * 32)), frame_count_max)


def test_a_frame_is_fetched_once_and_counted_once(store: CountingStore, pack: PackLocation) -> None:
    reader, tally = reader_of(store), Tally()
    for _ in range(3):
        assert reader.frame(pack, 1, tally) == FRAMES[1]
    assert (store.reads, tally.frames) == (1, 1)
    assert 0 < tally.stored_bytes < CHUNK_SIZE_BYTES


def test_an_item_begins_at_its_place(store: CountingStore, pack: PackLocation) -> None:
    found = reader_of(store).item(pack, place_of(2, CHUNK_SIZE_BYTES))
    assert found == FRAMES[2][CHUNK_SIZE_BYTES:]


def test_threads_that_want_the_same_frame_fetch_it_once(
    store: CountingStore, pack: PackLocation
) -> None:
    reader, found = reader_of(store), list[bytes]()
    store.held.clear()
    threads = [
        threading.Thread(target=lambda: found.append(reader.frame(pack, 0))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    store.held.set()
    for thread in threads:
        thread.join(timeout=10)
    assert found == [FRAMES[0]] * 5
    assert store.reads == 1


def test_no_more_frames_are_remembered_than_allowed(
    store: CountingStore, pack: PackLocation
) -> None:
    reader = reader_of(store, frame_count_max=2)
    for number in (0, 1, 0, 2):  # 1 is the one that was not used for longest
        reader.frame(pack, number)
    assert store.reads == 3
    reader.frame(pack, 0)
    assert store.reads == 3
    reader.frame(pack, 1)
    assert store.reads == 4
    assert reader.frame_count == 2


def test_a_failure_is_not_remembered(store: CountingStore, pack: PackLocation) -> None:
    reader = reader_of(store)
    store.fails = 1
    with pytest.raises(UnavailableError):
        reader.frame(pack, 0)
    assert reader.frame(pack, 0) == FRAMES[0]


def test_a_flipped_bit_is_found_in_its_frame_only(store: CountingStore, pack: PackLocation) -> None:
    body = bytearray(store.get(pack_object(GENERATION)))
    body[100] ^= 1  # in the first frame, behind the header
    store.put(pack_object(GENERATION), body)
    reader = reader_of(store)
    with pytest.raises(DamagedDataError):
        reader.frame(pack, 0)
    assert reader.frame(pack, 1) == FRAMES[1]


def test_a_pack_that_is_cut_or_gone_is_no_data(store: CountingStore, pack: PackLocation) -> None:
    body = store.get(pack_object(GENERATION))
    store.put(pack_object(GENERATION), body[:90])
    with pytest.raises(DamagedDataError):
        reader_of(store).frame(pack, 2)
    store.delete(pack_object(GENERATION))
    with pytest.raises(NotFoundError):
        reader_of(store).frame(pack, 2)


def test_a_frame_that_the_catalog_does_not_know_is_damage(
    store: CountingStore, pack: PackLocation
) -> None:
    with pytest.raises(DamagedDataError, match="3 frames, not number 3"):
        reader_of(store).frame(pack, 3)


def test_another_key_opens_nothing(store: CountingStore, pack: PackLocation) -> None:
    with pytest.raises(WrongKeyError):
        reader_of(store, kek=b"x").frame(pack, 0)


def test_the_vault_knows_at_once_whether_it_has_the_buckets_key(store: CountingStore) -> None:
    KeyVault(store, KeyEncryptionKey(b"k" * 32)).check()
    KeyVault(CountingStore(), KeyEncryptionKey(b"x" * 32)).check()  # a bucket without keys
    with pytest.raises(WrongKeyError, match="give the right key file"):
        KeyVault(store, KeyEncryptionKey(b"x" * 32)).check()
