"""What is known of changes since which base, over failed captures, stops and crashes."""

import random
from pathlib import Path

import pytest

from libs.errors import OutOfSpaceError
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.marks.state import VolumeFacts
from services.change_capture.filter.marks.tracking import Tracking

COUNT = 5000
FACTS = VolumeFacts("file:1", COUNT * 65536, 7)
VOLUME = "volume"


def chunks_of(found: ChunkBitmap | TrackingLost | None) -> set[int]:
    assert isinstance(found, ChunkBitmap), found
    return {number for run in found.runs() for number in range(run.first, run.end)}


class Filter:
    """As `FilterCuts` uses the tracking, with marks of its own."""

    def __init__(self, folder: Path, facts: VolumeFacts = FACTS) -> None:
        self.folder, self.facts = folder, facts
        self.tracking = Tracking(folder, facts, COUNT)
        self.marks = self.tracking.take_marks()

    def write(self, *chunks: int) -> None:
        for chunk in chunks:
            self.marks.mark(chunk, chunk)

    def cut(self) -> str:
        before, self.marks = self.marks, ChunkBitmap(COUNT)
        return self.tracking.add(before)

    def take(self, session: str, base: str | None) -> ChunkBitmap | TrackingLost | None:
        token = self.cut()
        self.tracking.claim(token, VOLUME, session)
        found = self.tracking.changes(token, VOLUME, base) if base else None
        self.tracking.keep_since(token, VOLUME, base)
        return found

    def settle(self, session: str, *, sealed: bool) -> None:
        rejoined = self.tracking.settle(VOLUME, session, sealed=sealed)
        if rejoined is not None:
            self.marks.add(rejoined)

    def drop(self, token: str) -> None:
        rejoined = self.tracking.take_out(token)
        if rejoined is not None:
            self.marks.add(rejoined)

    def restarted(self, facts: VolumeFacts | None = None) -> "Filter":
        self.tracking.stop(self.marks, self.facts)
        return Filter(self.folder, facts or self.facts)


@pytest.fixture
def filter_(tmp_path: Path) -> Filter:
    return Filter(tmp_path / "state")


class TestTracking:
    def test_tells_what_was_written_since_a_sealed_base(self, filter_: Filter) -> None:
        filter_.write(1, 2)
        assert filter_.take("first", None) is None
        filter_.settle("first", sealed=True)
        filter_.write(5)
        assert chunks_of(filter_.take("second", "first")) == {5}

    def test_what_a_rejected_session_saw_is_found_again(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.settle("first", sealed=True)
        filter_.write(5)
        filter_.take("second", "first")
        filter_.write(6)
        filter_.settle("second", sealed=False)
        filter_.write(7)
        assert chunks_of(filter_.take("third", "first")) == {5, 6, 7}

    def test_who_is_never_told_learns_from_the_base_of_the_next_order(
        self, filter_: Filter
    ) -> None:
        filter_.take("first", None)
        filter_.write(5)
        filter_.take("second", "first")
        filter_.write(6)
        filter_.take("third", "first")
        filter_.write(7)
        assert chunks_of(filter_.take("fourth", "third")) == {7}
        filter_.write(8)
        assert chunks_of(filter_.take("fifth", "third")) == {7, 8}

    def test_a_base_that_is_older_than_what_is_kept_is_lost(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.take("second", "first")
        filter_.settle("second", sealed=True)
        found = filter_.take("third", "first")
        assert isinstance(found, TrackingLost)
        assert found.reason == "wrong-base"

    def test_a_cut_that_nobody_claimed_is_taken_back(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.write(3)
        token = filter_.cut()
        filter_.write(4)
        filter_.drop(token)
        assert chunks_of(filter_.take("second", "first")) == {3, 4}

    def test_a_clean_stop_loses_nothing(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.write(3)
        filter_.take("second", "first")
        filter_.write(4)
        epoch = filter_.tracking.epoch
        again = filter_.restarted().restarted()
        assert again.tracking.epoch == epoch
        again.write(9)
        assert chunks_of(again.take("third", "first")) == {3, 4, 9}

    def test_a_crash_loses_all_and_says_so(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.settle("first", sealed=True)
        again = Filter(filter_.folder)  # nothing was stopped
        assert again.tracking.epoch != filter_.tracking.epoch
        assert again.tracking.cuts == ()
        found = again.take("second", "first")
        assert isinstance(found, TrackingLost)
        assert found.reason == "unclean"
        again.settle("second", sealed=True)
        again.write(1)
        assert chunks_of(again.take("third", "second")) == {1}

    def test_a_filter_that_was_stopped_and_then_killed_in_its_next_life_loses_all(
        self, filter_: Filter
    ) -> None:
        filter_.take("first", None)
        again = filter_.restarted()
        again.write(3)
        found = Filter(again.folder).take("second", "first")
        assert isinstance(found, TrackingLost)
        assert found.reason == "unclean"

    @pytest.mark.parametrize(
        ("facts", "reason"),
        [
            (VolumeFacts("file:2", COUNT * 65536, 7), "another-device"),
            (VolumeFacts("file:1", COUNT * 65536 + 1, 7), "unclean"),
            (VolumeFacts("file:1", COUNT * 65536, 8), "unclean"),
        ],
    )
    def test_a_volume_that_was_touched_behind_its_back_is_lost(
        self, filter_: Filter, facts: VolumeFacts, reason: str
    ) -> None:
        filter_.take("first", None)
        found = filter_.restarted(facts).take("second", "first")
        assert isinstance(found, TrackingLost)
        assert found.reason == reason

    @pytest.mark.parametrize("name", ["tracking.json", "segment-4"])
    def test_damaged_state_is_lost_and_never_believed(self, filter_: Filter, name: str) -> None:
        filter_.take("first", None)
        filter_.write(3)
        filter_.take("second", "first")
        filter_.write(4)
        filter_.tracking.stop(filter_.marks, FACTS)
        assert {path.name for path in filter_.folder.iterdir()} == {
            "tracking.json",
            "segment-3",
            "segment-4",
        }
        files = {path: path.read_bytes() for path in filter_.folder.iterdir()}
        raw = files[filter_.folder / name]
        for at in (0, len(raw) // 2, len(raw) - 2):
            for path, content in files.items():
                path.write_bytes(content)
            harmed = bytearray(raw)
            harmed[at] ^= 1
            (filter_.folder / name).write_bytes(harmed)
            found = Filter(filter_.folder).take("third", "first")
            assert isinstance(found, TrackingLost), f"{name} at {at}"

    def test_a_damaged_segment_is_lost(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.write(3)
        filter_.take("second", "first")
        for path in filter_.folder.glob("segment-*"):
            path.write_bytes(path.read_bytes()[:-1])
        filter_.write(4)
        found = filter_.take("third", "first")
        assert isinstance(found, TrackingLost)

    def test_a_full_state_folder_is_said_and_the_chain_stays(
        self, filter_: Filter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filter_.take("first", None)
        cuts = filter_.tracking.cuts

        def full(_self: Path, _target: Path) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(OutOfSpaceError):
                filter_.tracking.add(ChunkBitmap(COUNT))
        assert filter_.tracking.cuts == cuts

    def test_segments_that_nobody_needs_are_removed(self, filter_: Filter) -> None:
        for number in range(6):
            filter_.write(number)
            filter_.take(f"{number + 1}", str(number) if number else None)
            filter_.settle(f"{number + 1}", sealed=True)
        assert not list(filter_.folder.glob("segment-*"))
        again = filter_.restarted()
        assert not list(again.folder.glob("segment-*"))

    def test_a_volume_that_is_forgotten_is_lost(self, filter_: Filter) -> None:
        filter_.take("first", None)
        filter_.tracking.forget(VOLUME)
        assert isinstance(filter_.take("second", "first"), TrackingLost)

    @pytest.mark.parametrize("seed", range(20))
    def test_names_exactly_what_was_written_since_the_base(self, tmp_path: Path, seed: int) -> None:
        """Random orders of writes, captures, outcomes, stops and crashes, against a model."""
        model = Model(tmp_path / "state", random.Random(seed))
        for _ in range(60):
            model.move()
        print(f"seed {seed}: {model.named_count} times named")


class Model:
    """A filter, and what was written since each session's cut."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.one = Filter(folder)
        self.rng = rng
        self.since: dict[str, set[int]] = {}
        self.base: str | None = None
        self.open: str | None = None
        self.named_count = 0

    def move(self) -> None:
        moves = [self.write] * 6 + [self.take] * 2
        moves += [lambda: self.end(sealed=True), lambda: self.end(sealed=False)]
        moves += [lambda: self.one.drop(self.one.cut()), self.stop]
        if self.rng.random() < 0.02:
            self.one = Filter(self.one.folder)  # a crash
        else:
            self.rng.choice(moves)()

    def write(self) -> None:
        chunk = self.rng.randrange(COUNT)
        self.one.write(chunk)
        for chunks in self.since.values():
            chunks.add(chunk)

    def take(self) -> None:
        session = str(len(self.since))
        found = self.one.take(session, self.base)
        if isinstance(found, ChunkBitmap):
            assert self.base
            assert chunks_of(found) == self.since[self.base]
            self.named_count += 1
        self.open, self.since[session] = session, set()

    def end(self, *, sealed: bool) -> None:
        if self.open is None:
            return
        if self.rng.random() < 0.7:  # or nobody tells
            self.one.settle(self.open, sealed=sealed)
        self.base, self.open = self.open if sealed else self.base, None

    def stop(self) -> None:
        self.one = self.one.restarted()
