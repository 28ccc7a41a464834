"""What has arrived of a part's capture, and what is to be done next. Pure: facts in, actions out.

The agent publishes batches and then says how many there were. Each batch becomes a span that a lane
takes, in any order. When the agent has published everything and every span was taken, the part is
finished, exactly once. A batch that is missing, or one too many, fails it.
"""

from dataclasses import dataclass

from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureCompleted


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """A batch was read from the topic; it may have been read before."""

    batch: int
    #: The encoded event, which the digest is over.
    value: bytes


@dataclass(frozen=True, slots=True)
class AllPublished:
    """The agent has published everything; this too may be read twice."""

    completed: CaptureCompleted


@dataclass(frozen=True, slots=True)
class SpanTaken:
    """A lane is through with the span of a batch."""


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """The part was finished, has failed, or is somebody else's now."""


Fact = BatchArrived | AllPublished | SpanTaken | WorkEnded


@dataclass(frozen=True, slots=True)
class TakeSpan:
    """Have a lane take the span of the batch that arrived; tell of `SpanTaken` then."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Write the rest and record the part."""

    completed: CaptureCompleted


@dataclass(frozen=True, slots=True)
class Fail:
    """Reject the session."""

    code: str
    message: str


#: None: there is nothing to do.
Action = TakeSpan | Finish | Fail | None


class PartState:
    """All changes go through `learn`. Not thread-safe: the caller serialises calls."""

    def __init__(self) -> None:
        #: Over the batches that have arrived.
        self.digest = BatchesDigest()
        #: No action follows any more.
        self.is_over = False
        self._untaken = 0
        self._completed: CaptureCompleted | None = None

    def learn(self, fact: Fact) -> Action:
        """Take in a fact; what is to be done now."""
        if self.is_over:
            return None
        match fact:
            case BatchArrived():
                return self._batch_arrived(fact)
            case AllPublished():
                return self._all_published(fact.completed)
            case SpanTaken():
                self._untaken -= 1
                return self._finish_if_all_taken()
            case WorkEnded():
                self.is_over = True
                return None

    def _batch_arrived(self, fact: BatchArrived) -> TakeSpan | Fail | None:
        count = self.digest.count
        if fact.batch < count:
            return None  # seen before
        if fact.batch > count:
            return _missing(f"batch {count} never came")
        if self._completed:
            return _missing(f"more than {count} came")
        self.digest.add(fact.value)
        self._untaken += 1
        return TakeSpan()

    def _all_published(self, completed: CaptureCompleted) -> Finish | Fail | None:
        if self._completed:
            return None  # seen before
        expected = (self.digest.count, self.digest.digest())
        if (completed.batches, completed.batches_digest) != expected:
            return _missing(
                f"{self.digest.count} of {completed.batches} batches arrived as they were sent"
            )
        self._completed = completed
        return self._finish_if_all_taken()

    def _finish_if_all_taken(self) -> Finish | None:
        if self._completed is None or self._untaken:
            return None
        return Finish(self._completed)


def _missing(what: str) -> Fail:
    return Fail("batches-missing", f"{what}; take the snapshot again")
