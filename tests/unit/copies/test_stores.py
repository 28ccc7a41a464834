"""A pack's copies: read from the first that is there and intact, and damage reported per copy."""

from dataclasses import dataclass, field
from uuid import UUID

import pytest

from libs.copies.stores import PRIMARY, SECOND, Copy, Stores
from libs.errors import DamagedDataError, NotFoundError, UnavailableError
from libs.ranges import ByteRange
from libs.store.memory import MemoryStore

GENERATION = UUID(int=7)
GOOD, BAD = b"good bytes", b"bad  bytes"


@dataclass(frozen=True)
class Pack:
    copies: tuple[int, ...] = (PRIMARY, SECOND)
    generation: UUID = GENERATION


class Server(MemoryStore):
    """Counts reads; may be down, or give damaged bytes once."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.is_down = False
        self.damages_next = False

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        self.reads += 1
        if self.is_down:
            raise UnavailableError("object store: down")
        if self.damages_next:
            self.damages_next = False
            return BAD
        return super().get_range(key, wanted)


@dataclass
class Site:
    primary: Server = field(default_factory=Server)
    second: Server = field(default_factory=Server)
    reported: list[tuple[UUID, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def report(generation: UUID, store_no: int, _reason: str) -> None:
            self.reported.append((generation, store_no))

        self.stores = Stores(self.primary, self.second, report=report)

    def store(self, store_no: int, body: bytes) -> None:
        self.stores.copy(GENERATION, store_no).put(body)

    def read(self, pack: Pack | None = None) -> bytes:
        return self.stores.read(pack or Pack(), opened)


def opened(copy: Copy) -> bytes:
    content = copy.get_range(ByteRange(0, len(GOOD)))
    if content != GOOD:
        raise DamagedDataError(f"object {copy.key}: not its bytes")
    return content


@pytest.fixture
def site() -> Site:
    return Site()


def test_the_first_copy_is_read_and_no_other(site: Site) -> None:
    site.store(PRIMARY, GOOD)
    site.store(SECOND, GOOD)
    assert site.read() == GOOD
    assert (site.primary.reads, site.second.reads) == (1, 0)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_harmed_copy_is_reported_and_another_is_read(site: Site, harm: str) -> None:
    if harm == "damaged":
        site.store(PRIMARY, BAD)
    site.store(SECOND, GOOD)
    assert site.read() == GOOD
    assert site.reported == [(GENERATION, PRIMARY)]


def test_what_was_damaged_on_its_way_is_not_reported(site: Site) -> None:
    site.store(PRIMARY, GOOD)
    site.store(SECOND, GOOD)
    site.primary.damages_next = True
    assert site.read() == GOOD
    assert site.reported == []


def test_a_store_that_does_not_answer_is_avoided_for_a_while(site: Site) -> None:
    site.store(PRIMARY, GOOD)
    site.store(SECOND, GOOD)
    site.primary.is_down = True
    for _ in range(3):
        assert site.read() == GOOD
    assert (site.primary.reads, site.second.reads) == (1, 3)
    assert site.reported == []


def test_a_copy_that_cannot_be_asked_is_not_taken_for_lost(site: Site) -> None:
    """The other one is gone: whether the pack is damaged, nobody can say now."""
    site.primary.is_down = True
    with pytest.raises(UnavailableError):
        site.read()


def test_a_pack_is_damaged_only_if_all_of_its_copies_are(site: Site) -> None:
    site.store(PRIMARY, BAD)
    with pytest.raises(DamagedDataError):
        site.read()
    assert site.reported == []


def test_only_copies_that_the_catalog_knows_are_read(site: Site) -> None:
    site.primary.is_down = True
    site.store(SECOND, GOOD)
    with pytest.raises(UnavailableError):
        site.read(Pack(copies=(PRIMARY,)))
    assert site.second.reads == 0
    with pytest.raises(NotFoundError, match="no store"):
        site.read(Pack(copies=()))


def test_a_copy_at_a_store_that_this_process_does_not_know_is_not_lost(site: Site) -> None:
    with pytest.raises(UnavailableError, match="second"):
        Stores(site.primary).read(Pack(copies=(SECOND,)), opened)


def test_copies_at_stores_that_this_process_does_not_know_are_left_out(site: Site) -> None:
    stores = Stores(site.primary)
    stores.copy(GENERATION).put(GOOD)
    assert stores.read(Pack(copies=(SECOND, PRIMARY)), opened) == GOOD


def test_objects_that_are_no_packs_are_read_from_whichever_store_has_them(site: Site) -> None:
    site.second.put("keys/a/b", b"wrapped")
    assert site.stores.objects.get("keys/a/b") == b"wrapped"
    with pytest.raises(NotFoundError):
        site.stores.objects.get("keys/a/c")
    site.stores.objects.put("keys/a/c", b"new")
    assert site.second.stat("keys/a/c") is None
