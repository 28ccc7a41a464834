"""Reads that the store refuses are planned again once; then a restore ends."""

import struct

import pytest

from libs.errors import ForbiddenError
from libs.ids import new_generation
from libs.packs.layout import CHUNK_ID_SIZE_BYTES
from libs.packs.trailer import FrameEntry
from libs.ranges import ByteRange, ChunkRun
from libs.restoring.fetch import Fetch, Fetcher, WantedFrame
from libs.restoring.plan import PlannedFrame, PlannedPack, PlanWindow

GENERATION = new_generation()
FRAMES = [PlannedFrame(0, 100, 64, 1 << 17)]


def pack(url: str, generation: str = GENERATION.hex) -> PlannedPack:
    return PlannedPack(
        generation=generation, url=url, size_bytes=1 << 20, key=bytes(32), frames=FRAMES
    )


def window(*packs: PlannedPack) -> PlanWindow:
    return PlanWindow(
        first_chunk=7,
        chunk_count=3,
        packs=list(packs),
        runs=struct.pack("<QI", 7, 1),
        ids=bytes(CHUNK_ID_SIZE_BYTES),
        pack_ordinals=bytes(2),
        places=bytes(4),
    )


FETCH = Fetch(
    pack("http://store/old"),
    [WantedFrame(0, FrameEntry(100, 64, 1 << 17), [(7, 0, b"a" * 32), (9, 1 << 16, b"b" * 32)])],
)


class Reads:
    """A store that refuses URLs, and a service that plans again."""

    def __init__(self, refused: set[str], planned: PlanWindow) -> None:
        self.refused, self.planned = refused, planned
        self.asked: list[str] = []
        self.runs: list[ChunkRun] = []

    def get_into(self, url: str, wanted: ByteRange, buffer: memoryview) -> None:
        self.asked.append(url)
        if url in self.refused:
            raise ForbiddenError(f"GET {url}: expired")
        raise ReadError

    def plan_again(self, run: ChunkRun) -> PlanWindow:
        self.runs.append(run)
        return self.planned


class ReadError(Exception):
    """The bytes were asked for, which is all that matters here."""


class Nowhere:
    def write(self, offset: int, buffers: object) -> None:
        raise AssertionError("nothing was read")


def test_an_expired_read_goes_on_by_the_new_url_of_the_same_pack() -> None:
    other = pack("http://store/other", new_generation().hex)
    reads = Reads({"http://store/old"}, window(other, pack("http://store/new")))
    fetcher = Fetcher("disk@1", bytes(32), reads.get_into, None, reads.plan_again)
    with pytest.raises(ReadError):
        fetcher.fetch(FETCH, Nowhere())
    assert reads.asked == ["http://store/old", "http://store/new"]
    assert reads.runs == [ChunkRun(7, 3)]


def test_what_is_refused_twice_ends_the_restore() -> None:
    reads = Reads({"http://store/old", "http://store/new"}, window(pack("http://store/new")))
    fetcher = Fetcher("disk@1", bytes(32), reads.get_into, None, reads.plan_again)
    with pytest.raises(ForbiddenError, match="have expired"):
        fetcher.fetch(FETCH, Nowhere())
    assert len(reads.asked) == 2


def test_a_new_plan_that_reads_other_packs_ends_the_restore() -> None:
    reads = Reads({"http://store/old"}, window(pack("http://store/new", new_generation().hex)))
    fetcher = Fetcher("disk@1", bytes(32), reads.get_into, None, reads.plan_again)
    with pytest.raises(ForbiddenError, match="other packs"):
        fetcher.fetch(FETCH, Nowhere())
