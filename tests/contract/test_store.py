"""The contract of the object store, run on the stores that need no server."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from libs.errors import BadInputError, DamagedDataError, NotFoundError, UnavailableError
from libs.ranges import ByteRange
from libs.store.folder import FolderStore
from libs.store.listing import KeyOrder
from libs.store.memory import MemoryStore
from libs.store.port import Body, ObjectStat, ObjectStore
from libs.store.retrying import RetryingStore

#: Larger than what servers keep beside their metadata, and no multiple of anything.
BODY = bytes(range(251)) * 1_201

Result = TypeVar("Result")

BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "a/./b",
    ".a",
    "a b",
    "ä",
    "a?b",
    "a%41",
    "k" * 513,
]


class StoreContract:
    """What `ObjectStore` promises; a subclass gives the fixture ``store``, which is empty."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError("a subclass says which store keeps the contract")

    def test_get_gives_what_was_put(self, store: ObjectStore) -> None:
        store.put("folder/object", BODY)
        assert store.get("folder/object") == BODY

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        stat = store.stat("empty")
        assert stat is not None
        assert stat.size_bytes == 0

    def test_put_takes_any_bytes_like_body(self, store: ObjectStore) -> None:
        bodies: list[Body] = [BODY, bytearray(BODY), memoryview(bytearray(BODY))[7:100_000]]
        for number, body in enumerate(bodies):
            store.put(f"bodies/{number}", body)
            assert store.get(f"bodies/{number}") == bytes(body)

    def test_what_was_put_does_not_follow_the_buffer(self, store: ObjectStore) -> None:
        buffer = bytearray(BODY)
        store.put("reused", buffer)
        buffer[:] = bytes(len(buffer))
        assert store.get("reused") == BODY

    def test_identical_bytes_may_be_put_again(self, store: ObjectStore) -> None:
        store.put("twice", BODY)
        store.put("twice", BODY)
        assert store.get("twice") == BODY

    def test_put_is_all_or_nothing_for_readers(self, store: ObjectStore) -> None:
        written = threading.Event()
        key = "large/object"
        large = BODY * 20

        def read() -> bool:
            seen = False
            while not (seen and written.is_set()):
                was_written = written.is_set()
                try:
                    assert store.get(key) == large
                    seen = True
                except NotFoundError:
                    assert not seen
                    assert not was_written
            return seen

        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            try:
                store.put(key, large)
                store.put(key, large)
            finally:
                written.set()
            assert reader.result(timeout=60)

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_malformed_key_is_refused(self, store: ObjectStore, key: str) -> None:
        buffer = memoryview(bytearray(1))
        for call in (
            lambda: store.put(key, b"x"),
            lambda: store.get(key),
            lambda: store.get_range(key, ByteRange(0, 1)),
            lambda: store.get_into(key, ByteRange(0, 1), buffer),
            lambda: store.stat(key),
            lambda: store.delete(key),
        ):
            with pytest.raises(BadInputError):
                call()

    def test_the_longest_key_works(self, store: ObjectStore) -> None:
        key = "/".join(["k" * 170] * 3)
        store.put(key, b"x")
        assert [entry.key for entry in store.list("k")] == [key]

    @pytest.mark.parametrize(
        "wanted",
        [
            ByteRange(0, 1),
            ByteRange(0, len(BODY)),
            ByteRange(len(BODY) - 1, len(BODY)),
            ByteRange(1_000, 201_000),
        ],
    )
    def test_a_range_is_exact(self, store: ObjectStore, wanted: ByteRange) -> None:
        store.put("ranged", BODY)
        assert store.get_range("ranged", wanted) == BODY[wanted.start : wanted.end]
        around = bytearray(b"\xee" * (wanted.length + 2))
        store.get_into("ranged", wanted, memoryview(around)[1:-1])
        assert around == b"\xee" + BODY[wanted.start : wanted.end] + b"\xee"

    @pytest.mark.parametrize(
        "wanted",
        [
            ByteRange(len(BODY) - 1, len(BODY) + 1),
            ByteRange(0, len(BODY) + 1),
            ByteRange(len(BODY), len(BODY) + 1),
            ByteRange(1 << 40, (1 << 40) + 1),
        ],
    )
    def test_a_range_beyond_the_end_is_damage(self, store: ObjectStore, wanted: ByteRange) -> None:
        store.put("short", BODY)
        with pytest.raises(DamagedDataError):
            store.get_range("short", wanted)
        with pytest.raises(DamagedDataError):
            store.get_into("short", wanted, memoryview(bytearray(wanted.length)))

    def test_a_range_must_have_bytes_and_a_buffer_of_its_length(self, store: ObjectStore) -> None:
        store.put("ranged", BODY)
        with pytest.raises(BadInputError):
            store.get_range("ranged", ByteRange(5, 5))
        for length in (9, 11):
            with pytest.raises(BadInputError):
                store.get_into("ranged", ByteRange(0, 10), memoryview(bytearray(length)))

    def test_a_missing_object_is_told(self, store: ObjectStore) -> None:
        store.put("there/one", b"x")
        for key in ("missing", "there", "there/other"):
            assert store.stat(key) is None
            with pytest.raises(NotFoundError):
                store.get(key)
            with pytest.raises(NotFoundError):
                store.get_range(key, ByteRange(0, 1))

    def test_stat_tells_size_and_time(self, store: ObjectStore) -> None:
        store.put("sized", BODY)
        stat = store.stat("sized")
        assert stat is not None
        assert (stat.key, stat.size_bytes) == ("sized", len(BODY))
        assert abs(datetime.now(UTC) - stat.modified_at) < timedelta(minutes=1)

    def test_a_listing_is_complete_and_ascends_within_a_folder(self, store: ObjectStore) -> None:
        keys = [f"listed/{number:03d}" for number in range(25)]
        for key in reversed(keys):
            store.put(key, b"12345")
        listed = list(store.list("listed/"))
        assert [entry.key for entry in listed] == keys
        assert {entry.size_bytes for entry in listed} == {5}
        assert all(entry.modified_at.tzinfo is not None for entry in listed)

    def test_a_listing_goes_through_all_folders_once(self, store: ObjectStore) -> None:
        keys = {"t/a/1", "t/a/2", "t/a-b/1", "t/a.b/c/d", "t/a0/1", "t/b", "t/Z", "u/1"}
        for key in keys:
            store.put(key, b"x")
        listed = [entry.key for entry in store.list("")]
        assert len(listed) == len(keys)
        assert set(listed) == keys

    def test_a_listing_keeps_to_one_order_wherever_it_begins(self, store: ObjectStore) -> None:
        for key in ("t/a/1", "t/a/2", "t/a-b/1", "t/a.b/c/d", "t/a0/1", "t/b", "t/Z", "u/1"):
            store.put(key, b"x")
        whole = [entry.key for entry in store.list("")]
        for start_after in ["", *whole]:
            order = KeyOrder("LIST", "", start_after)
            for entry in store.list("", start_after):
                order.take(entry.key)

    def test_a_listing_goes_on_after_any_of_its_keys(self, store: ObjectStore) -> None:
        for key in ("t/a/1", "t/a/2", "t/a-b/1", "t/a.b/c/d", "t/a0/1", "t/b", "t/Z"):
            store.put(key, b"x")
        whole = [entry.key for entry in store.list("t/")]
        for position, key in enumerate(whole):
            rest = [entry.key for entry in store.list("t/", start_after=key)]
            assert rest == whole[position + 1 :]

    def test_a_listing_starts_after_a_key_that_does_not_exist(self, store: ObjectStore) -> None:
        for number in (1, 2, 4):
            store.put(f"seq/{number:010d}-x", b"x")
        listed = [entry.key for entry in store.list("seq/", start_after="seq/0000000003")]
        assert listed == ["seq/0000000004-x"]

    def test_a_prefix_may_end_inside_a_segment(self, store: ObjectStore) -> None:
        for key in ("p/abc", "p/abd", "p/ab", "p/b", "pa/x"):
            store.put(key, b"x")
        assert [entry.key for entry in store.list("p/ab")] == ["p/ab", "p/abc", "p/abd"]
        assert list(store.list("p/ab/")) == []
        assert list(store.list("nothing/here")) == []

    def test_delete_removes_and_may_be_repeated(self, store: ObjectStore) -> None:
        store.put("d/one", b"x")
        store.put("d/two", b"x")
        for _ in range(2):
            store.delete("d/one")
        store.delete("never/was")
        assert store.stat("d/one") is None
        assert [entry.key for entry in store.list("d/")] == ["d/two"]

    def test_many_threads_may_use_it(self, store: ObjectStore) -> None:
        def work(number: int) -> bytes:
            store.put(f"threads/{number % 4}/{number}", BODY[number:])
            return store.get(f"threads/{number % 4}/{number}")

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(16))) == [BODY[number:] for number in range(16)]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestFolderStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return FolderStore(tmp_path)


class TestRetryingStoreOverFlakyStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return RetryingStore(FlakyStore(MemoryStore()), sleep=lambda _: None)


class FlakyStore:
    """Every second call fails, in turn before and after its effect.

    What it stands for: a request that never reached the server, and an answer that never came back.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self._faults = itertools.cycle(["before", "", "after", ""])
        self._faults_lock = threading.Lock()

    def put(self, key: str, body: Body) -> None:
        self._strike(lambda: self._inner.put(key, body))

    def get(self, key: str) -> bytes:
        return self._strike(lambda: self._inner.get(key))

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        return self._strike(lambda: self._inner.get_range(key, wanted))

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        self._strike(lambda: self._inner.get_into(key, wanted, buffer))

    def stat(self, key: str) -> ObjectStat | None:
        return self._strike(lambda: self._inner.stat(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        for position, entry in enumerate(self._inner.list(prefix, start_after)):
            if position == 2:
                raise UnavailableError("cut off after two keys")
            yield entry

    def delete(self, key: str) -> None:
        self._strike(lambda: self._inner.delete(key))

    def _strike(self, call: Callable[[], Result]) -> Result:
        with self._faults_lock:
            fault = next(self._faults)
        if fault == "before":
            raise UnavailableError("not sent")
        result = call()
        if fault == "after":
            raise UnavailableError("answer lost")
        return result


class ShortRangeStore(MemoryStore):
    """Planted bug: a range beyond the end gives what there is."""

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        return self.get(key)[wanted.start : wanted.end]


class ForgetfulListStore(MemoryStore):
    """Planted bug: a listing that starts after a key skips one more."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        entries = super().list(prefix, start_after)
        return itertools.islice(entries, 1 if start_after else 0, None)


class RepeatingListStore(MemoryStore):
    """Planted bug: the last key of a listing comes twice."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        entries = list(super().list(prefix, start_after))
        yield from [*entries, *entries[-1:]]


class TornPutStore(MemoryStore):
    """Planted bug: an object can be seen before it is whole."""

    def __init__(self) -> None:
        super().__init__()
        self._was_read = threading.Event()

    def put(self, key: str, body: Body) -> None:
        super().put(key, memoryview(body)[: len(body) // 2])
        self._was_read.clear()
        self._was_read.wait(timeout=2)
        super().put(key, body)

    def get(self, key: str) -> bytes:
        content = super().get(key)
        self._was_read.set()
        return content


class StrictDeleteStore(MemoryStore):
    """Planted bug: deleting what is not there is an error."""

    def delete(self, key: str) -> None:
        self.get(key)
        super().delete(key)


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (ShortRangeStore, "test_a_range_beyond_the_end_is_damage"),
        (ForgetfulListStore, "test_a_listing_goes_on_after_any_of_its_keys"),
        (RepeatingListStore, "test_a_listing_keeps_to_one_order_wherever_it_begins"),
        (TornPutStore, "test_put_is_all_or_nothing_for_readers"),
        (StrictDeleteStore, "test_delete_removes_and_may_be_repeated"),
    ],
)
def test_the_contract_finds_planted_bugs(planted: type[MemoryStore], check: str) -> None:
    arguments = (ByteRange(0, len(BODY) + 1),) if "range" in check else ()
    caught = (AssertionError, NotFoundError, UnavailableError, pytest.fail.Exception)
    with pytest.raises(caught):
        getattr(StoreContract(), check)(planted(), *arguments)
