"""The machine of a part: every batch is taken once, and the part is finished once, or fails."""

import random
from collections.abc import Iterable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureCompleted
from services.chunker.parts.state import (
    AllPublished,
    BatchArrived,
    Fact,
    Fail,
    Finish,
    PartState,
    SpanTaken,
    TakeSpan,
    WorkEnded,
)


def published(values: Iterable[bytes]) -> AllPublished:
    digest = BatchesDigest()
    for value in values:
        digest.add(value)
    nobody = UUID(int=0)
    return AllPublished(
        CaptureCompleted(
            session=nobody,
            capture=nobody,
            volume=nobody,
            batches=digest.count,
            batches_digest=digest.digest(),
            read_bytes=0,
            changed_bytes=0,
            consistency="quiet",
            seconds=0.0,
        )
    )


def value_of(batch: int) -> bytes:
    return b"batch %d" % batch


def play(state: PartState, count: int, seed: int) -> None:
    """Batches arrive in order, and again from any earlier offset; lanes end in any order."""
    rng, end = random.Random(seed), published(map(value_of, range(count)))
    topic: list[Fact] = [BatchArrived(batch, value_of(batch)) for batch in range(count)]
    topic.append(end)
    read, running, taken, finished = 0, 0, 0, 0
    while read < len(topic) or running:
        if running and (read == len(topic) or rng.random() < 0.5):
            running, taken = running - 1, taken + 1
            action = state.learn(SpanTaken())
        else:
            action, read = state.learn(topic[read]), read + 1
            if rng.random() < 0.2:
                read = rng.randrange(read + 1)
        running += action == TakeSpan()
        if isinstance(action, Finish):
            assert (taken, running, action.completed) == (count, 0, end.completed)
            finished += 1
        assert not isinstance(action, Fail)
    assert (taken, finished) == (count, 1)


@given(st.integers(0, 12), st.integers(0, 2**32))
def test_in_any_order_a_part_is_finished_once_when_all_was_taken(count: int, seed: int) -> None:
    play(PartState(), count, seed)


@given(st.integers(1, 12), st.data())
def test_a_batch_that_is_missing_foreign_or_too_many_fails_the_part_and_never_finishes_it(
    count: int, data: st.DataObject
) -> None:
    state, end = PartState(), published(map(value_of, range(count)))
    spoilt = data.draw(st.integers(0, count - 1))
    how = data.draw(st.sampled_from(["missing", "other bytes", "one more"]))
    arriving: list[Fact] = [BatchArrived(batch, value_of(batch)) for batch in range(count)]
    if how == "missing":
        del arriving[spoilt]
    elif how == "other bytes":
        arriving[spoilt] = BatchArrived(spoilt, b"forged")
    more: list[Fact] = [BatchArrived(count, b"more")] if how == "one more" else []
    actions = [state.learn(fact) for fact in [*arriving, end, *more]]
    actions += [state.learn(SpanTaken()) for action in actions if action == TakeSpan()][:-1]
    failures = [action for action in actions if isinstance(action, Fail)]
    assert [failure.code for failure in failures][:1] == ["batches-missing"]
    assert not any(isinstance(action, Finish) for action in actions)


def test_nothing_follows_once_the_work_has_ended() -> None:
    state = PartState()
    assert state.learn(BatchArrived(0, b"a")) == TakeSpan()
    assert state.learn(WorkEnded()) is None
    late: list[Fact] = [
        SpanTaken(),
        BatchArrived(1, b"b"),
        BatchArrived(7, b"c"),
        published([b"a"]),
    ]
    assert [state.learn(fact) for fact in late] == [None] * len(late)
    assert state.is_over


class FinishesWithSpansOnLanes(PartState):
    """Planted: the part would be finished while a lane still stores its chunks."""

    def _finish_if_all_taken(self) -> Finish | None:
        return Finish(self._completed) if self._completed else None


class FinishesTwice(PartState):
    """Planted: what the agent said twice would finish the part twice."""

    def _all_published(self, completed: CaptureCompleted) -> Finish | Fail | None:
        self._completed = None
        return super()._all_published(completed)


@pytest.mark.parametrize("planted", [FinishesWithSpansOnLanes, FinishesTwice])
def test_the_harness_finds_planted_bugs(planted: type[PartState]) -> None:
    def play_often() -> None:
        for seed in range(100):
            play(planted(), 5, seed)

    with pytest.raises(AssertionError):
        play_often()
