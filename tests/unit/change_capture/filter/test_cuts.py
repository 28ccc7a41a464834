"""Holds, cuts and views of agents, who may be gone at any step."""

import time
from pathlib import Path

import pytest

from libs.errors import BadInputError, ConflictError, HoldBrokenError, NotFoundError, SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.cuts import VIEWS_MAX, FilterCuts
from services.change_capture.filter.disk import Disk
from services.change_capture.filter.frozen import ScratchLimits
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.marks.state import VolumeFacts
from services.change_capture.filter.marks.tracking import Tracking
from services.change_capture.filter.volume import FilteredVolume
from tests.support.filters import Guest

COUNT = 16


class Site:
    def __init__(self, folder: Path) -> None:
        path = folder / "image"
        path.write_bytes(bytes(COUNT * CHUNK_SIZE_BYTES))
        facts = VolumeFacts("file:1", COUNT * CHUNK_SIZE_BYTES, 0)
        tracking = Tracking(folder / "state", facts, COUNT)
        self.volume = FilteredVolume(Disk(path), tracking.take_marks())
        limits = ScratchLimits(folder, 1 << 30, 30.0)
        self.cuts = FilterCuts(self.volume, tracking, limits)
        self.guest = Guest(self.volume)

    def write(self, *chunks: int, content: bytes = b"new") -> None:
        for chunk in chunks:
            self.guest.write(chunk * CHUNK_SIZE_BYTES, content)

    def cut(self, owner: object) -> str:
        self.cuts.hold(owner, 30)
        self.cuts.cut(owner)
        token = self.cuts.release(owner)
        assert token
        return token

    def sealed(self, session: str, base: str | None = None) -> None:
        owner = object()
        self.cuts.claim(self.cut(owner), "v", session, base, is_trusted=True)
        self.cuts.end(owner)
        self.cuts.settle("v", session, sealed=True)

    def changed(self, base: str) -> set[int]:
        owner = object()
        found = self.cuts.claim(self.cut(owner), "v", "now", base, is_trusted=True)
        self.cuts.end(owner)
        self.cuts.settle("v", "now", sealed=False)
        assert isinstance(found, ChunkBitmap), found
        return {number for run in found.runs() for number in range(run.first, run.end)}

    def bytes_of(self, token: str, chunk: int) -> bytes:
        buffer = memoryview(large_buffer(CHUNK_SIZE_BYTES))
        self.cuts.view(token).read_into(chunk * CHUNK_SIZE_BYTES, buffer)
        return bytes(buffer).rstrip(b"\0")


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.cuts.end_all("the test is over")
    made.volume.disk.close()


class TestFilterCuts:
    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_an_agent_that_is_gone_takes_no_mark_with_it(self, site: Site, steps: int) -> None:
        site.sealed("first")
        site.write(1)
        owner = object()
        for step in (lambda: site.cuts.hold(owner, 30), lambda: site.cuts.cut(owner),
                     lambda: site.cuts.release(owner))[:steps]:  # fmt: skip
            step()
        site.cuts.end(owner)
        assert not site.volume.valve.is_closed
        site.write(2)
        assert site.changed("first") == {1, 2}

    def test_a_hold_that_ended_by_itself_cuts_nothing(self, site: Site) -> None:
        site.sealed("first")
        owner = object()
        site.cuts.hold(owner, 0.05)
        site.write(1)  # waits for the end of the hold
        with pytest.raises(HoldBrokenError):
            site.cuts.cut(owner)
        assert site.cuts.release(owner) is None
        assert site.changed("first") == {1}

    def test_a_cut_whose_hold_ended_before_the_release_is_taken_back(self, site: Site) -> None:
        site.sealed("first")
        site.write(1)
        owner = object()
        site.cuts.hold(owner, 30)
        site.cuts.cut(owner)
        site.volume.valve._deadline = time.monotonic()
        site.write(2)  # the hold is over
        assert site.cuts.release(owner) is None
        assert site.cuts.view_count == 0
        assert site.changed("first") == {1, 2}

    def test_views_of_two_captures_are_each_of_their_own_cut(self, site: Site) -> None:
        first, second = object(), object()
        site.write(0, content=b"one")
        one = site.cut(first)
        site.write(0, content=b"two")
        two = site.cut(second)
        site.write(0, content=b"six")
        assert (site.bytes_of(one, 0), site.bytes_of(two, 0)) == (b"one", b"two")
        site.cuts.end(first)
        with pytest.raises(SourceError, match="gone"):
            site.bytes_of(one, 0)
        site.write(1, content=b"more")
        assert (site.bytes_of(two, 0), site.bytes_of(two, 1)) == (b"two", b"")

    def test_a_second_hold_and_a_fifth_view_are_refused(self, site: Site) -> None:
        owners = [object() for _ in range(VIEWS_MAX)]
        site.cuts.hold(owners[0], 30)
        with pytest.raises(ConflictError):
            site.cuts.hold(owners[1], 30)
        assert site.cuts.release(owners[1]) is None
        assert site.volume.valve.is_holding
        site.cuts.end(owners[0])
        for owner in owners:
            site.cut(owner)
        with pytest.raises(ConflictError):
            site.cuts.hold(object(), 30)

    @pytest.mark.parametrize("seconds", [0.0, -1.0, 61.0, float("nan")])
    def test_a_hold_of_no_sensible_length_is_refused(self, site: Site, seconds: float) -> None:
        with pytest.raises(BadInputError):
            site.cuts.hold(object(), seconds)

    def test_what_was_found_untrue_is_not_used_and_counts_again_later(self, site: Site) -> None:
        site.sealed("first")
        owner = object()
        found = site.cuts.claim(site.cut(owner), "v", "second", "first", is_trusted=False)
        assert isinstance(found, TrackingLost)
        assert found.reason == "distrusted"
        site.cuts.settle("v", "second", sealed=True)
        site.write(3)
        assert site.changed("second") == {3}

    def test_a_cut_that_nobody_made_cannot_be_claimed(self, site: Site) -> None:
        with pytest.raises(NotFoundError):
            site.cuts.claim("nothing", "v", "s", None, is_trusted=True)
